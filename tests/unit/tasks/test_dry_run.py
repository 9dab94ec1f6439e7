"""A dry run repeats its timings: other processes can only make them longer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ecgscan_ray.tasks import dry_run
from ecgscan_ray.tasks.dry_run import LEAST_TIMINGS, MOST_TIMINGS, Timing


@pytest.mark.parametrize(
    ("seconds", "repeats"), [([6.0, 1.0, 6.0], LEAST_TIMINGS), ([0.1, 0.6] + [0.1] * 18, MOST_TIMINGS)]
)
def test_the_fastest_timing_is_believed(seconds: list[float], repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def clock() -> Iterator[float]:
        now = 0.0
        for each in seconds:
            yield now
            now += each
            yield now

    ticks = clock()
    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: next(ticks))
    timing = Timing.of(lambda: None)
    assert timing.repeats == repeats
    assert timing.fastest == pytest.approx(min(seconds)) and timing.slowest == pytest.approx(max(seconds))


def test_a_busy_machine_is_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(dry_run.os, "getloadavg", lambda: (8.0, 8.0, 8.0))
    assert "busy (load 8.0 on 2 cores)" in dry_run.busy_note()
    monkeypatch.setattr(dry_run.os, "getloadavg", lambda: (1.0, 8.0, 8.0))
    assert dry_run.busy_note() == ""
