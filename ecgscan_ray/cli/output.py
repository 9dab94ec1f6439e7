"""What commands print: results on stdout, log lines, progress and the next command on stderr."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

PROGRESS_S = 10.0
"""Time between progress lines where stderr is no terminal."""
NUM_SKIPPED = 10
"""Pages that are named."""


def setup_logging() -> None:
    """Log lines of the driver on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("ecgscan_ray").setLevel(logging.INFO)


@contextmanager
def show_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function ``(done, total)`` that shows progress on stderr: a bar on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        with _progress_bar(what) as update:
            yield update
        return
    last = time.monotonic()

    def print_line(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_S:
            last = time.monotonic()
            print(f"{done} of {total} {what}", file=sys.stderr)

    yield print_line


@contextmanager
def _progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def format_estimate(figure: Mapping[str, Any]) -> str:
    """A figure of ``report.json`` with its interval."""
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "n/a"
    return f"{value:.4g}" + ("" if low is None or high is None else f"  ({low:.4g} to {high:.4g})")


def first_names(names: list[str], count: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def print_mapping(content: Mapping[str, Any], as_json: bool) -> None:
    """Results as JSON, or one line per key."""
    if as_json:
        print(json.dumps(content, indent=1, default=str))
        return
    for key, value in content.items():
        if isinstance(value, Mapping) and any(isinstance(part, Mapping) for part in value.values()):
            print_mapping({f"{key}.{name}": part for name, part in value.items()}, as_json)
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {part}" for name, part in value.items())
        elif isinstance(value, list | tuple):
            value = ", ".join(str(part) for part in value)
        print(f"{key:<28} {value}")


def print_skipped(
    errors: Mapping[str, str], word: str = "skipped", all_of_them: str = "the column 'error' gives all reasons"
) -> None:
    """The first of the pages that could not be read; the output file has all of them."""
    for name in list(errors)[:NUM_SKIPPED]:
        print(f"{word} {name}: {errors[name]}", file=sys.stderr)
    if len(errors) > NUM_SKIPPED:
        print(f"{word} {len(errors) - NUM_SKIPPED} more; {all_of_them}", file=sys.stderr)


def print_next(*words: str) -> None:
    """The next command to copy; on stderr, so that stdout stays what other programs read."""
    print(f"next: ecgscan {shlex.join(words)}", file=sys.stderr)
