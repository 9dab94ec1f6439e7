"""Prints how many mutants passed, by format."""

from __future__ import annotations

from typing import Any

from tests.fuzz.harness import TALLIES


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for tally in TALLIES:
        terminalreporter.write_line(str(tally))
