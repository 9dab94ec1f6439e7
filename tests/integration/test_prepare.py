"""``prepare`` on real recordings with bad ones among them, into a folder and into a bucket."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray import filesystem
from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources import open_source
from ecgscan_ray.runtime.prepare import prepare
from ecgscan_ray.store.inspect import inspect
from ecgscan_ray.store.manifest import Manifest, read_manifest
from ecgscan_ray.store.shards import iterate_rows, read_quarantine
from tests.records import heart_uv, list_items, write_record
from tests.stores import part_of_sample

COUNT, FOLDS = 40, {"validation_folds": (8,), "test_folds": (9,)}


def spoil(folder: Path, rows: list[dict[str, str]]) -> dict[str, str]:
    """Make four recordings bad: id -> reason."""
    paths = [folder / row["filename_lr"] for row in rows]
    truncated, eleven, missing, gone = (path.with_suffix("") for path in paths[3:7])
    data = truncated.with_suffix(".dat")
    data.write_bytes(data.read_bytes()[:11990])
    header = eleven.with_suffix(".hea")
    header.write_text(header.read_text().replace(" V4\n", " XX\n"))
    samples = np.fromfile(missing.with_suffix(".dat"), "<i2").reshape(-1, 12)
    samples[:500, 7] = -32768  # WFDB's mark of a missing sample: NaN
    samples.tofile(missing.with_suffix(".dat"))
    header, checksum = missing.with_suffix(".hea"), int(samples[:, 7].sum()) & 0xFFFF
    header.write_text(re.sub(r"\S+ 0 V2\n", f"{checksum} 0 V2\n", header.read_text()))
    gone.with_suffix(".dat").unlink()
    reasons = ("truncated", "missing_lead", "missing_samples", "missing_file")
    return dict(zip((row["ecg_id"] for row in rows[3:7]), reasons, strict=True))


def ids(store: str, manifest: Manifest) -> dict[str, list[str]]:
    return {split: [r.id for r in iterate_rows(store, manifest, split)] for split in ("train", "validation", "test")}


def test_bad_recordings_go_to_quarantine_and_the_rest_goes_on(
    ray_cluster: None, sample_tree: Path, tmp_path: Path
) -> None:
    rows = part_of_sample(sample_tree, tmp_path / "tree", COUNT)
    bad = spoil(tmp_path / "tree", rows)
    store, done = str(tmp_path / "store"), []
    manifest = prepare(
        "ptbxl", str(tmp_path / "tree"), store, row_group_rows=8, **FOLDS, progress=lambda k, n: done.append((k, n))
    )
    table = read_quarantine(store)
    assert dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True)) == bad
    assert all(table["detail"].to_pylist())
    assert manifest.quarantined == dict.fromkeys(sorted(bad.values()), 1)
    assert manifest == read_manifest(store)
    assert done[-1] == (COUNT, COUNT)

    source = open_source("ptbxl")
    archive = ArchiveFiles(tmp_path / "tree")
    original = {
        item.id: source.read(item, archive) for item in list_items(source, tmp_path / "tree") if item.id not in bad
    }
    found = {split: list(iterate_rows(store, manifest, split)) for split in ("train", "validation", "test")}
    assert sum(map(len, found.values())) == COUNT - len(bad)
    for split, recordings in found.items():
        assert len(recordings) == manifest.rows(split)
        for recording in recordings:
            same = original[recording.id]
            np.testing.assert_array_equal(recording.signal_mv, same.signal_mv)
            assert (recording.report, recording.labels, recording.age) == (same.report, same.labels, same.age)
            assert split == {8: "validation", 9: "test"}.get(recording.fold, "train")
    train = [int(recording.id) for recording in found["train"]]
    assert train != sorted(train)
    report = inspect(store)
    assert report["patients_in_two_splits"] == 0
    assert report["damaged"] == []
    assert report["missing_share"] == 0
    assert report["rows_without_patient"] == 0
    labels = Counter(code for recording in found["train"] for code in recording.labels)
    counted = report["splits"]["train"]
    assert counted["labels"] == dict(labels.most_common(20))
    assert counted["other_labels"] == max(0, len(labels) - 20)
    assert {split: facets["rows"] for split, facets in report["splits"].items()} == {
        split: manifest.rows(split) for split in found
    }
    for split in found:
        assert report["splits"][split]["superclass"] == manifest.counts[split]["superclass"]
        assert report["splits"][split]["patients"] == manifest.counts[split]["patients"]["known"]


def test_the_same_command_gives_the_same_store_and_never_replaces_one_unasked(
    ray_cluster: None, sample_tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part_of_sample(sample_tree, tmp_path / "tree", 12)
    tree, store = str(tmp_path / "tree"), str(tmp_path / "store")
    first = prepare("ptbxl", tree, store, **FOLDS, limit=9)
    assert sum(first.rows(split) for split in ("train", "validation", "test")) == 9
    with pytest.raises(StoreError, match="a store already, with another limit"):
        prepare("ptbxl", tree, store, **FOLDS)
    with caplog.at_level("INFO", "ecgscan_ray"):
        assert prepare("ptbxl", tree, store, **FOLDS, limit=9) == first
    assert "finished already" in caplog.text
    (tmp_path / "store/train-00077.parquet").write_bytes(b"left by a crash")
    again = prepare("ptbxl", tree, store, **FOLDS, limit=9, overwrite=True)
    assert again.digest() == first.digest()
    assert sorted(filesystem.list_files(store)) == sorted(
        ["manifest.json", "quarantine.parquet", *(shard.path for shard in again.shards)]
    )
    (tmp_path / "store" / again.shards[0].path).unlink()
    with pytest.raises(StoreError, match=r"is missing\. Prepare it again with --overwrite"):
        prepare("ptbxl", tree, store, **FOLDS, limit=9)
    other = prepare("ptbxl", tree, str(tmp_path / "other"), **FOLDS, seed=1)
    assert other.digest() != first.digest()


def test_an_archive_of_bad_recordings_is_no_store(ray_cluster: None, sample_tree: Path, tmp_path: Path) -> None:
    rows = part_of_sample(sample_tree, tmp_path / "tree", 3)
    for row in rows:
        (tmp_path / "tree" / f"{row['filename_lr']}.dat").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 3 recordings.*truncated 3; \d+: fewer samples"):
        prepare("ptbxl", str(tmp_path / "tree"), str(tmp_path / "store"), **FOLDS)
    with pytest.raises(StoreError, match="not a store"):
        read_manifest(str(tmp_path / "store"))
    assert len(read_quarantine(str(tmp_path / "store"))) == 3


def test_a_store_stays_until_the_new_one_is_whole(ray_cluster: None, sample_tree: Path, tmp_path: Path) -> None:
    rows = part_of_sample(sample_tree, tmp_path / "tree", 6)
    tree, store = str(tmp_path / "tree"), str(tmp_path / "store")
    first = prepare("ptbxl", tree, store, **FOLDS)
    before = ids(store, first)
    for row in rows:
        (tmp_path / "tree" / f"{row['filename_lr']}.dat").unlink()
    with pytest.raises(InputError, match="none of 6 recordings can be used"):
        prepare("ptbxl", tree, store, **FOLDS, overwrite=True)
    assert read_manifest(store) == first
    assert ids(store, first) == before
    assert len(read_quarantine(store)) == 0, "that of the store which is there"


def test_a_store_in_a_bucket(ray_cluster: None, s3_server: str, sample_tree: Path, tmp_path: Path) -> None:
    part_of_sample(sample_tree, tmp_path / "tree", 12)
    store = f"{s3_server}/prepared/store"
    manifest = prepare("ptbxl", str(tmp_path / "tree"), store, **FOLDS)
    local = prepare("ptbxl", str(tmp_path / "tree"), str(tmp_path / "store"), **FOLDS)
    assert read_manifest(store).digest() == local.digest()
    assert ids(store, manifest) == ids(str(tmp_path / "store"), local)
    assert sorted(filesystem.list_files(store)) == sorted(
        ["manifest.json", "quarantine.parquet", *(shard.path for shard in manifest.shards)]
    )
    assert inspect(store)["damaged"] == []
    assert prepare("ptbxl", str(tmp_path / "tree"), store, **FOLDS) == manifest


def test_a_bucket_that_is_not_there(s3_server: str, sample_tree: Path) -> None:
    with pytest.raises(StoreError, match="no such bucket") as caught:
        prepare("ptbxl", str(sample_tree), "s3://no-such-bucket-here/store", **FOLDS)
    assert "testing-secret" not in str(caught.value)


def test_a_store_that_breaks_while_it_is_written(ray_cluster: None, sample_tree: Path, tmp_path: Path) -> None:
    """The task's error arrives in one line, and nothing looks like a store."""
    part_of_sample(sample_tree, tmp_path / "tree", 3)
    store = tmp_path / "store"
    for split in ("train", "validation", "test"):
        (store / f"{split}-00000.parquet").mkdir(parents=True)  # a folder where the shard should be
    with pytest.raises(StoreError, match="cannot be written") as caught:
        prepare("ptbxl", str(tmp_path / "tree"), str(store), **FOLDS)
    assert "\n" not in str(caught.value)
    assert "parquet" in str(caught.value)
    with pytest.raises(StoreError, match="not a store"):
        read_manifest(str(store))


def test_sample_store(sample_store: str) -> None:
    report = inspect(sample_store)
    assert sum(facets["rows"] for facets in report["splits"].values()) >= 1300
    assert report["bytes_per_row"] < 7700
    assert report["rounding_uv"] == 0
    assert report["patients_in_two_splits"] == 0


@pytest.mark.verify
def test_a_task_that_fills_the_memory_ends_the_job(tmp_path: Path) -> None:
    """Ray starts it again for ever by default. Here any task is too large, since Ray is told that 2 % is the limit."""
    for k in range(4):
        write_record(tmp_path / "in", f"r{k}", heart_uv(seed=k))
    command = [sys.executable, "-c", "from ecgscan_ray.cli import main; main()", "prepare", "--source", "folder"]
    limits = {"RAY_memory_usage_threshold": "0.02", "RAY_memory_monitor_refresh_ms": "100"}
    done = subprocess.run(
        [*command, "--from", str(tmp_path / "in"), "--to", str(tmp_path / "out")],
        env=os.environ | limits,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 1
    assert "memory ran out: a task was killed at every attempt" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out/manifest.json").exists()
