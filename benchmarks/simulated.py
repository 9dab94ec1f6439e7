"""The driver of ``prepare`` on an archive that is only listed: its peak memory and its time.

``python -m benchmarks.simulated ITEMS STORE`` prints a JSON object. Listing, splits, order and plan are those of
``prepare``; the shards are not written.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources import SOURCES, Item
from ecgscan_ray.runtime import prepare as command
from ecgscan_ray.runtime.stages import Stages


class Simulated:
    """So many recordings, four of each patient, with reports of a usual length."""

    name = "simulated"
    licence: str | None = None
    items = 0

    def __init__(self, rate: float | None) -> None:
        self.rate = rate

    def list_records(self, archive: ArchiveFiles) -> Iterator[Item]:
        """Items, one by one."""
        for k in range(self.items):
            path = f"files/p{k // 4_000:04d}/p{k // 4:08d}/s{k:08d}/{k:08d}"
            yield Item(
                id=f"{k:08d}",
                path=path,
                patient_id=f"{k // 4:08d}",
                details={"report": "Sinus rhythm. Possible left atrial abnormality. Borderline ECG", "age": "61"},
                files=(f"{path}.hea", f"{path}.dat"),
            )

    def read(self, item: Item, archive: ArchiveFiles) -> Recording:
        """Not read."""
        raise NotImplementedError


class _WithoutShards(Stages):
    """Every step but the writing of shards."""

    def run(
        self, step: str, arguments: Sequence[dict[str, Any]], on_result: Callable[[dict[str, Any]], None], here: bool
    ) -> None:
        if step != "shard":
            return super().run(step, arguments, on_result, here)
        empty = {"shards": [], "counts": {}, "unknown": 0, "reasons": {}, "first": []}
        for values in arguments:
            on_result(empty | {"split": values["job"]["split"], "items": values["job"]["rows"]})


def main(items: int, store: str) -> None:
    """Measure, and print."""
    Simulated.items = items
    SOURCES["simulated"] = Simulated
    command.Stages = _WithoutShards  # type: ignore[misc]
    planned = [0]
    start = time.perf_counter()
    with suppress(InputError):  # it has no shards
        command.prepare("simulated", store, store, progress=lambda done, _: planned.append(done))
    seconds = time.perf_counter() - start
    assert planned[-1] == items, f"{planned[-1]} of {items} recordings have a place in a shard"
    print(json.dumps({"mb": _peak_mb(), "seconds": seconds}))


def _peak_mb() -> float:
    """Most memory of this program. ``ru_maxrss`` is not it: it begins with that of the process which started this one."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


if __name__ == "__main__":
    main(int(float(sys.argv[1])), sys.argv[2])
