"""From the ordered items to shards: jobs of whole row groups, and what one job writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources import Item, open_source
from ecgscan_ray.store import writing
from ecgscan_ray.store.manifest import Manifest, Shard
from ecgscan_ray.store.shards import ShardWriter, iterate_rows, read_row_groups, write_quarantine
from ecgscan_ray.store.work import Entry, PrepareJob, PrepareSettings, WorkArea, find_job
from ecgscan_ray.store.writing import ShardJob, read_items, shard_jobs, write_shard
from tests.records import heart_uv, list_items, recording, write_record


def write_items(
    folder: Path, items: Sequence[Item], rate: float | None = None, row_group_rows: int = 64
) -> dict[str, Any]:
    """Write the items of the archive ``in`` as the only shard of ``out``; what came of it."""
    settings = PrepareSettings(rate, None, 0, row_group_rows, [9], [10])
    job = PrepareJob("folder", str(folder / "in"), settings, "", None, False, 0, {})
    work = WorkArea.start(str(folder / "out"), job)
    work.write_entries("order/00000.parquet", [Entry(k, item, "train") for k, item in enumerate(items)])
    return write_shard(
        str(folder / "out"), work.job.token, asdict(ShardJob("train", 0, len(items), [(0, 0, len(items))]))
    )


def rejected(folder: Path) -> list[dict[str, str]]:
    job = find_job(str(folder / "out"))
    assert job is not None
    rows: list[dict[str, str]] = WorkArea(str(folder / "out"), job).read("done/train-00000.json")["rejected"]
    return rows


@pytest.mark.parametrize(
    ("rows", "group", "sizes"),
    [
        (14 * 64, 64, [128] * 7),
        (10, 64, [10]),
        (100, 8, [16] * 6 + [4]),
        (64 * 64 * 10, 64, [64 * 64] * 10),
        (64 * 64 * 300, 64, [75 * 64] * 256),
    ],
)
def test_shards_are_whole_row_groups(rows: int, group: int, sizes: list[int]) -> None:
    jobs = list(shard_jobs([{"train": rows}], group))
    assert [job.rows for job in jobs] == sizes
    assert [job.number for job in jobs] == list(range(len(sizes)))


def test_jobs_take_every_item_once(tmp_path: Path) -> None:
    settings = PrepareSettings(None, None, 0, 1, [], [])
    work = WorkArea(str(tmp_path), PrepareJob("folder", "in", settings, "", None, False, 0, {}))
    buckets = [
        [("a", "train"), ("b", "test"), ("c", "train")],
        [],
        [("d", "train"), ("e", "validation"), ("f", "train")],
    ]
    counts = []
    for number, bucket in enumerate(buckets):
        entries = [Entry(0, Item(id, id), split) for id, split in bucket]
        work.write_entries(f"order/{number:05d}.parquet", entries)
        counts.append({s: n for s in ("train", "validation", "test") if (n := sum(split == s for _, split in bucket))})
    jobs = list(shard_jobs(counts, 1, {"train": 5}))
    found = {job.name: [item.id for item in read_items(work, job)] for job in jobs}
    assert found == {"train-00005": ["a"], "train-00006": ["c"], "train-00007": ["d"], "train-00008": ["f"],
                     "validation-00000": ["e"], "test-00000": ["b"]}  # fmt: skip
    (whole,) = [job for job in shard_jobs(counts, 64) if job.split == "train"]
    assert [item.id for item in read_items(work, whole)] == ["a", "c", "d", "f"]
    first = writing.first_rows(work, counts, 4)
    assert first == [{"train": 2, "test": 1}, {}, {"train": 1}]


def test_one_shard_with_resampling(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_record(tmp_path / "in", name, heart_uv(fs=500), fs=500)
    outcome = write_items(tmp_path, [Item(id=name, path=name) for name in ("a", "b", "c", "d")], 100.0, 4)
    (shard,) = [Shard(**shard) for shard in outcome["shards"]]
    assert shard.row_groups == [3]
    assert [(row["id"], row["reason"]) for row in rejected(tmp_path)] == [("d", "missing_file")]
    assert outcome["counts"]["fs"] == {"100": 3} and outcome["counts"]["source"] == {"folder": 3}
    table = read_row_groups(str(tmp_path / "out"), shard, [0])
    assert table["sig_len"].to_pylist() == [1000] * 3
    assert max(table["rounding_uv"].to_pylist()) <= 0.51


def test_an_odd_recording_is_its_own_reason(tmp_path: Path) -> None:
    """Whatever it raises, in reading, checking or packing; and what is written of it can be stored."""
    for name in ("good", "odd"):
        write_record(tmp_path / "in", name)
    listed = {item.id: item for item in list_items(open_source("folder"), tmp_path / "in")}
    listed["bad-labels"] = replace(listed["good"], id="bad-labels", details={"labels": "['NORM' 'SR']"})
    listed["half"] = replace(listed["good"], id="half", details={"report": "half a letter: \udcfc"})
    (tmp_path / "in/odd.hea").write_bytes(b"\xff\xfe\0\x1b[31m")
    outcome = write_items(tmp_path, list(listed.values()), 100.0, 2)
    assert [shard["row_groups"] for shard in outcome["shards"]] == [[1]]
    rows = rejected(tmp_path)
    assert {row["id"] for row in rows} == {"bad-labels", "half", "odd"}
    assert all(text.isprintable() for row in rows for text in row.values())
    reasons = {row["id"]: row["detail"] for row in rows}
    assert "Write NORM;SR" in reasons["bad-labels"], "the reason says what to do"
    write_quarantine(str(tmp_path / "out"), rows)


def test_rows_packed_one_by_one_are_the_same_bytes(tmp_path: Path) -> None:
    for k in range(5):
        write_record(tmp_path / "in", f"r{k}", heart_uv(seed=k))
    items = list_items(open_source("folder"), tmp_path / "in")
    outcome = write_items(tmp_path, items, row_group_rows=3)
    writer = ShardWriter(str(tmp_path / "other"), "train", 0)
    recordings = [open_source("folder").read(item, ArchiveFiles(tmp_path / "in")) for item in items]
    writer.add(recordings[:3])
    writer.add(recordings[3:])
    assert Shard(**outcome["shards"][0]) == writer.close()


def test_a_shard_of_large_recordings_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(5):
        write_record(tmp_path / "in", f"r{k}", heart_uv(seed=k))
    items = list_items(open_source("folder"), tmp_path / "in")
    monkeypatch.setattr(writing, "MAX_ROW_GROUP_BYTES", 30_000)
    monkeypatch.setattr(writing, "MAX_SHARD_BYTES", 60_000)
    outcome = write_items(tmp_path, items)
    shards = [Shard(**shard) for shard in outcome["shards"]]
    assert [(shard.path, shard.row_groups) for shard in shards] == [
        ("train-00000.parquet", [2]),
        ("train-00000-p1.parquet", [2, 1]),
    ]
    manifest = Manifest(source="folder", shards=shards)
    assert [row.id for row in iterate_rows(str(tmp_path / "out"), manifest, "train")] == [item.id for item in items]


def test_the_digest_is_that_of_the_rows(tmp_path: Path) -> None:
    manifests = []
    for revision in (0, 1):
        writer = ShardWriter(str(tmp_path / str(revision)), "train", 0, revision=revision)
        writer.add([recording()])
        manifests.append(Manifest(source="made-up", shards=[shard for shard in [writer.close()] if shard]))
    assert [m.shards[0].path for m in manifests] == ["train-00000.parquet", "train-00000-r1.parquet"]
    assert manifests[0].digest() == manifests[1].digest()
