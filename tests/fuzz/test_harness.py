"""The harness itself sees what it looks for."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ecgscan_ray.errors import InputError
from tests.fuzz import harness


def make(number: int, folder: Path) -> Path:
    return folder / str(number)


def attempt(path: Path) -> str:
    match path.name:
        case "0":
            return "same"
        case "1":
            raise InputError("not good")
        case "2":
            raise KeyError("x")
        case "3":
            os.system("true")
        case "4":
            time.sleep(60)
        case "5":
            os._exit(3)
    return "other"


def test_each_kind_of_end_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SECONDS", 4.0)
    monkeypatch.setattr(harness, "TALLIES", [])
    tally = harness.fuzz("ends", make, attempt, 7, tmp_path)
    kinds = dict.fromkeys(["same", "refused", "traceback", "ran code", "hang", "died", "other"], 1)
    assert tally.outcomes == kinds
    assert [finding.split(":")[0] for finding in tally.findings] == [f"mutant {number}" for number in (2, 3, 4, 5)]
