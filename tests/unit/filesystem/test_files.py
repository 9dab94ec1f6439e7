"""Shards, manifest and file system: whole or absent, and one clear line when something is wrong."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ecgscan_ray import filesystem
from ecgscan_ray.errors import RecordingError, StoreError
from ecgscan_ray.store.inspect import inspect
from ecgscan_ray.store.manifest import Manifest, read_manifest, write_manifest
from ecgscan_ray.store.schema import SCHEMA, pack, unpack
from ecgscan_ray.store.shards import ShardWriter, iterate_rows, read_quarantine, read_row_groups, write_quarantine
from tests.records import recording


def small_store(folder: Path) -> tuple[str, Manifest]:
    """Ten training rows in groups of 4, 4, 2, and three test rows."""
    train, test = ShardWriter(str(folder), "train", 0), ShardWriter(str(folder), "test", 0)
    rows = [recording(id=str(k), seed=k) for k in range(13)]
    for start in (0, 4, 8):
        train.add(rows[start : min(start + 4, 10)])
    test.add(rows[10:])
    shards = [shard for writer in (train, test) if (shard := writer.close())]
    manifest = Manifest(source="made-up", shards=shards)
    write_manifest(str(folder), manifest)
    return str(folder), manifest


def test_shards_are_what_the_manifest_says(tmp_path: Path) -> None:
    store, _ = small_store(tmp_path)
    manifest = read_manifest(store)
    train, _ = manifest.shards
    assert (train.path, train.rows, train.row_groups) == ("train-00000.parquet", 10, [4, 4, 2])
    assert (manifest.rows("train"), manifest.rows("validation"), manifest.rows("test")) == (10, 0, 3)
    content = (tmp_path / train.path).read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (train.bytes, train.sha256)
    table = read_row_groups(store, train, [2, 0])
    assert table["id"].to_pylist() == ["8", "9", "0", "1", "2", "3"]
    assert table.schema.equals(SCHEMA)
    assert [row.id for row in iterate_rows(store, manifest, "train", limit=6)] == list("012345")
    assert [row.id for row in iterate_rows(store, manifest, "test")] == ["10", "11", "12"]
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "test-00000.parquet", "train-00000.parquet"]


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    digests = {small_store(tmp_path / name)[1].digest() for name in "ab"}
    assert len(digests) == 1


def test_a_shard_without_rows_is_no_file(tmp_path: Path) -> None:
    writer = ShardWriter(str(tmp_path), "train", 0)
    writer.add([])
    assert writer.close() is None
    assert not list(tmp_path.iterdir())


def test_a_folder_without_manifest_is_no_store(tmp_path: Path) -> None:
    store, _ = small_store(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(StoreError, match="not a store"):
        read_manifest(store)
    with pytest.raises(StoreError, match="not a store"):
        read_manifest(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 1}', "\x80"])
def test_damaged_manifest(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(StoreError, match=r"manifest\.json"):
        read_manifest(str(tmp_path))


def test_another_schema_version(tmp_path: Path) -> None:
    store, manifest = small_store(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.model_dump() | {"schema_version": 99, "new": 1}))
    with pytest.raises(StoreError, match="schema version 99"):
        read_manifest(store)


def test_unknown_split(tmp_path: Path) -> None:
    _, manifest = small_store(tmp_path)
    with pytest.raises(StoreError, match="Did you mean 'validation'"):
        manifest.rows("validaton")


def test_missing_and_damaged_shards(tmp_path: Path) -> None:
    store, manifest = small_store(tmp_path)
    with pytest.raises(StoreError, match="row groups"):
        read_row_groups(store, manifest.shards[0], [3])
    path = tmp_path / "train-00000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    assert inspect(store)["damaged"] == ["train-00000.parquet"]
    with pytest.raises(StoreError, match=r"train-00000\.parquet"):
        read_row_groups(store, manifest.shards[0], [0])
    path.unlink()
    with pytest.raises(StoreError, match=r"train-00000\.parquet"):
        list(iterate_rows(store, manifest, "train"))


def test_inspect_counts_rows_and_finds_faults(tmp_path: Path) -> None:
    gap, flat = recording(id="gap"), recording(id="flat", seed=2)
    gap.signal_mv[3, :100] = np.nan
    flat.signal_mv[8] = 0.5
    x = recording(id="x", patient_id=gap.patient_id)
    shards = []
    for split, rows in {"train": [gap, flat], "test": [x, recording(id="y", patient_id=None)]}.items():
        writer = ShardWriter(str(tmp_path), split, 0)
        writer.add(rows)
        shards += [shard] if (shard := writer.close()) else []
    write_manifest(str(tmp_path), Manifest(source="made-up", shards=shards))
    found = inspect(str(tmp_path))
    assert found["splits"]["train"]["rows"] == 2
    assert found["splits"]["train"]["superclass"] == {"NORM": 2}
    assert found["splits"]["test"]["language"] == {"de": 2}
    assert found["patients_in_two_splits"] == 1
    assert found["rows_without_patient"] == 1
    assert found["splits"]["train"]["labels"] == {"NORM": 2, "SR": 2}
    assert found["missing_share"] == pytest.approx(100 / 48000)
    assert found["flat_leads"] == 1
    assert found["damaged"] == []
    assert found["lead_residual_uv"]["max"] < 3
    json.dumps(found)


def test_quarantine(tmp_path: Path) -> None:
    rows = [{"id": k, "origin": f"/a/{k}", "reason": r, "detail": "d"} for k, r in (("2", "z"), ("1", "a"))]
    write_quarantine(str(tmp_path), rows)
    assert read_quarantine(str(tmp_path))["id"].to_pylist() == ["1", "2"]
    write_quarantine(str(tmp_path), [])
    assert len(read_quarantine(str(tmp_path))) == 0


def test_infinite_samples_are_refused() -> None:
    signal = recording().signal_mv.copy()
    signal[0, 0] = np.inf
    with pytest.raises(RecordingError, match="infinite"):
        pack([recording(signal_mv=signal)])


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem.write_bytes_atomic(str(tmp_path / "x"), b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="No space left"):
        filesystem.write_bytes_atomic(str(tmp_path / "x"), b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_file_in_the_way_cannot_be_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        filesystem.open_filesystem(str(tmp_path / "file" / "store"), create=True)
    with pytest.raises(StoreError, match="cannot be written"):
        filesystem.open_filesystem(str(tmp_path / "file"), create=True)


@pytest.mark.parametrize(("uri", "message"), [("s3://", "names no bucket"), ("gopher://x/y", "gopher")])
def test_bad_uris(uri: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        filesystem.open_filesystem(uri)


def test_other_storage_has_odd_names_and_a_limit() -> None:
    """Google's client is silent for 15 minutes by itself (apache/arrow#43497)."""
    files, path = filesystem.other_filesystem("gs://anonymous@bucket/a b#%20")
    assert path == "bucket/a b#%20"
    assert "retry_time_limit': datetime.timedelta(seconds=10)" in repr(files.__reduce__())


def test_an_endpoint_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        filesystem.open_filesystem("s3://bucket/store", create=True)
    assert "hidden-secret" not in str(caught.value)
    assert "someone" not in str(caught.value)


@pytest.mark.parametrize("endpoint", ["http://[", "ftp://u:HUSH@host", "http://", "http://u:HUSH@host:port", "//HUSH"])
def test_an_endpoint_that_is_no_server(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL: not the address of a server") as caught:
        filesystem.exists("s3://bucket/x")
    assert "HUSH" not in str(caught.value)


def test_places() -> None:
    assert filesystem.join("s3://b/p/", "/x/", "y") == "s3://b/p/x/y"
    assert filesystem.join("/tmp", "x") == "/tmp/x"
    assert filesystem.join("/", "x") == "/x"
    assert filesystem.is_local("/tmp/x")
    assert filesystem.is_local("file:///tmp/x")
    assert not filesystem.is_local("s3://b")


def test_rows_cost_a_third_of_their_samples(tmp_path: Path) -> None:
    _, manifest = small_store(tmp_path)
    assert sum(shard.bytes for shard in manifest.shards) / 13 < 12 * 1000 * 2 / 2.5
    assert isinstance(pack([recording()]), pa.Table)


def test_older_stores_hold_reports_of_ptbxl_as_published(tmp_path: Path) -> None:
    table = pack([recording(report="f#r lvh. Edit: LVH", source=source) for source in ("ptbxl", "folder")])
    assert [row.report for row in unpack(table)] == ["für lvh.", "f#r lvh. Edit: LVH"]


def test_a_folder_to_write_into_is_here_or_goes_there(tmp_path: Path, s3_server: str) -> None:
    here, there = str(tmp_path / "pages"), filesystem.join(s3_server, "pages")
    for place in (here, f"file://{here}-2", there):
        with filesystem.local_folder(place) as folder:
            (folder / "sub").mkdir(parents=True)
            (folder / "sub" / "page.png").write_bytes(b"page")
        assert filesystem.read_bytes(filesystem.join(place, "sub", "page.png")) == b"page"
    assert not folder.exists(), "what was uploaded is not kept here"
    with pytest.raises(StoreError, match="no such bucket"), filesystem.local_folder("s3://no-such-bucket/x"):
        raise AssertionError("found before the work begins")
