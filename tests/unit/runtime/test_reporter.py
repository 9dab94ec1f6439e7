"""A checkpoint whose storage fails for a while is stored later, after its metrics; what cannot change ends the run at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
from ray.train import Checkpoint

from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem import explained
from ecgscan_ray.runtime import reporter
from ecgscan_ray.runtime.reporter import MAX_WAITING, PATIENCE_S, RayReporter

BUSY = OSError("When completing multiple part upload: AWS Error SLOW_DOWN")


def metrics_cannot_be_written() -> Exception:
    """As ``RunLog.flush`` raises it from a server that is overloaded."""
    with pytest.raises(StoreError) as caught, explained("s3://bucket/run/metrics/part-0.jsonl", "cannot be written"):
        raise BUSY
    return caught.value


class Storage:
    """Fails in turn with the errors that are given."""

    def __init__(self, *errors: Exception, flush: Sequence[Exception] = ()) -> None:
        self.errors, self.flush_errors, self.done = list(errors), list(flush), list[str]()

    def flush(self) -> None:
        if self.flush_errors:
            raise self.flush_errors.pop(0)
        self.done.append("metrics")

    def persist_current_checkpoint(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        if self.errors:
            raise self.errors.pop(0)
        self.done.append(name)
        return Checkpoint("/stored/" + name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its last entry is the time, which passes in pauses alone."""
    times = [1.0]
    monkeypatch.setattr(
        reporter, "time", SimpleNamespace(monotonic=lambda: times[-1], sleep=lambda s: times.append(times[-1] + s))
    )
    return times


def store(storage: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[RayReporter, Checkpoint]:
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_storage=lambda: storage))
    link = RayReporter(None, folder, storage)
    return link, Checkpoint.from_directory(str(link.new_folder()))


def test_it_is_stored_when_the_storage_works_again(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Storage(*[BUSY] * 12)
    link, checkpoint = store(storage, monkeypatch, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert link.store(checkpoint, "checkpoint_2").path == "/stored/checkpoint_2"
    assert storage.done == ["metrics"] * 13 + ["checkpoint_2"], "a run's metrics reach as far as its checkpoints"
    assert 200 < clock[-1] < PATIENCE_S
    assert "checkpoint_2 is not stored yet (OSError: When completing" in caplog.messages[0]
    assert caplog.messages[-1] == "checkpoint_2 is stored: the storage of the run works again"
    assert not list(tmp_path.iterdir()), "no local copy is left"
    for _ in range(MAX_WAITING):
        link.new_folder()  # there is room again


def test_metrics_that_cannot_be_written_for_a_while_wait_too(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Storage(flush=[metrics_cannot_be_written()] * 3)
    link, checkpoint = store(storage, monkeypatch, tmp_path)
    with caplog.at_level(logging.WARNING):
        link.store(checkpoint, "checkpoint_2")
    assert storage.done == ["metrics", "checkpoint_2"]
    assert (
        "checkpoint_2 is not stored yet (s3://bucket/run/metrics/part-0.jsonl: cannot be written" in caplog.messages[0]
    )


def test_patience_ends(clock: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    link, checkpoint = store(Storage(*[BUSY] * 1000), monkeypatch, tmp_path)
    with pytest.raises(StoreError, match=r"checkpoint_2 could not be stored for 10 minutes \(OSError: When completing"):
        link.store(checkpoint, "checkpoint_2")
    assert PATIENCE_S < clock[-1] < PATIENCE_S + 60
    with pytest.raises(StoreError):
        link.store(checkpoint, "checkpoint_2")  # Ray repeats some errors; they get no more time


@pytest.mark.parametrize("error", [PermissionError("ACCESS_DENIED"), OSError(28, "No space left on device")])
def test_what_another_attempt_would_meet_again_is_raised_at_once(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    link, checkpoint = store(Storage(error), monkeypatch, tmp_path)
    with pytest.raises(type(error)):
        link.store(checkpoint, "checkpoint_2")
    assert clock == [1.0]
