"""The progress line: what the driver shows of a run, and of storage that does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ecgscan_ray.errors import StoreError
from ecgscan_ray.runs import progress
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.progress import ProgressLine, write_progress


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "READ_EVERY_S", 0.01)
    monkeypatch.setattr(progress, "SILENT_S", 0.1)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_storage_that_does_not_answer_is_said_once_and_its_return_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, reads, folder = threading.Event(), [0], RunFolder(str(tmp_path))
    really = progress.exists

    def exists(uri: str) -> bool:
        reads[0] += 1
        if failing.is_set():
            raise StoreError("cannot be read (503)", where=uri)
        return really(uri)

    monkeypatch.setattr(progress, "exists", exists)
    text = ""

    def shows(part: str) -> bool:
        nonlocal text
        text += capsys.readouterr().err
        return part in text

    with ProgressLine(folder):
        failing.set()
        wait_for(lambda: shows("does not answer (cannot be read (503)): training goes on without it"))
        seen = reads[0]
        wait_for(lambda: reads[0] > seen + 20)
        failing.clear()
        wait_for(lambda: shows("answers again"))
        write_progress(folder, {"stalled": "no page has come"})
        wait_for(lambda: shows("warning: no page has come"))
    assert text.count("does not answer") == text.count("answers again") == 1


def test_a_slow_answer_does_not_hold_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(progress, "exists", lambda uri: hanging.wait(20))
    with ProgressLine(RunFolder(str(tmp_path))):
        wait_for(lambda: "does not answer (no answer)" in capsys.readouterr().err)
        hanging.set()
