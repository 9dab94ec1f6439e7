"""The listing as files, and the steps on shares of it: the same places, however many shares; memory that does not grow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from ecgscan_ray.recording.sources import Item
from ecgscan_ray.store import listing
from ecgscan_ray.store.listing import write_listing
from ecgscan_ray.store.splits import order_share, split_share
from ecgscan_ray.store.work import Entry, PrepareJob, PrepareSettings, WorkArea
from ecgscan_ray.store.writing import read_items, shard_jobs

ROOT = Path(__file__).parents[3]


def items(count: int) -> Iterator[Item]:
    """Three recordings of each patient, some without one, and a few ids that stand twice."""
    for k in range(count):
        patient = None if k % 10 == 9 else f"p{k // 3}"
        yield Item(f"r{k - (k % 97 == 96):05d}", f"in/r{k:05d}", patient, details={"report": "x" * 40})


def placed(store: Path, count: int) -> tuple[dict[str, list[str]], list[dict[str, str]], int]:
    """Split -> ids in the order of the shards; what was put aside; the steps."""
    settings = PrepareSettings(None, None, 3, 16, [9], [10])
    work = WorkArea.start(str(store), PrepareJob("folder", "/in", settings, "", None, False, 0, {}))
    stored = [Entry(-1, Item("r00005", "", "p1"), "test", stored=True)]
    whole = write_listing(work, items(count), stored)
    rejected, rows = [], []
    for step in (split_share, order_share):
        for number in range(whole.steps):
            step(str(store), work.job.token, number, asdict(whole))
            name = f"{'split' if step is split_share else 'order'}/{number:05d}.json"
            rejected += work.read(name)["rejected"]
            rows += [work.read(name)["rows"]] if step is order_share else []
    found: dict[str, list[str]] = {}
    for job in shard_jobs(rows, 16):
        found.setdefault(job.split, []).extend(item.path for item in read_items(work, job))
    return found, sorted(rejected, key=lambda row: row["origin"]), whole.steps


def test_places_do_not_depend_on_the_number_of_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = placed(tmp_path / "one", 1000)
    monkeypatch.setattr(listing, "PART_ROWS", 100)
    many = placed(tmp_path / "many", 1000)
    assert (one[2], many[2]) == (1, 16)
    assert many[:2] == one[:2]
    paths = [path for split in one[0].values() for path in split]
    assert len(set(paths)) == len(paths) == 1000 - 10 - 1, "ten ids stand twice, one is in the store"
    assert {row["reason"] for row in one[1]} == {"duplicate_id"}
    split = {path: name for name, members in one[0].items() for path in members}
    assert {split["in/r00003"], split["in/r00004"]} == {"test"}, "where the store has their patient"
    train = one[0]["train"]
    assert train != sorted(train)


def test_memory_does_not_grow_with_the_archive() -> None:
    """Six times the recordings, in parts of 1,000: the same memory, where a list of them has 54 MB more."""
    code = (
        "import resource, sys, tempfile; from pathlib import Path; from ecgscan_ray.store import listing\n"
        "import tests.unit.store.test_listing as here\n"
        "listing.PART_ROWS, here.shard_jobs = 1_000, lambda *_: ()\n"
        "here.placed(Path(tempfile.mkdtemp()), int(sys.argv[1]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    peaks = []
    for count in (5_000, 30_000):
        command = [sys.executable, "-c", code, str(count)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
    assert peaks[1] < peaks[0] + 20, peaks
