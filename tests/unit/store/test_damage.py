"""Damaged, exchanged and made-up files of a store: one line that names the file, in everything that reads rows."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgscan_ray.errors import StoreError
from ecgscan_ray.runtime.stream import read_span
from ecgscan_ray.store.embeddings import EmbeddingIndex, EmbeddingReader, EmbeddingWriter, write_index
from ecgscan_ray.store.inspect import inspect
from ecgscan_ray.store.manifest import Manifest, Shard, read_manifest, write_manifest
from ecgscan_ray.store.plan import EpochPlan
from ecgscan_ray.store.schema import pack
from ecgscan_ray.store.shards import ShardError, ShardWriter, iterate_rows, parquet_writer
from tests.records import recording


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training shards of two row groups of four rows."""
    folder, shards = tmp_path_factory.mktemp("good"), []
    for number in range(3):
        writer = ShardWriter(str(folder), "train", number, compression_level=3)
        for group in range(2):
            writer.add([recording(f"{number}-{group}-{k}", seed=8 * number + 4 * group + k) for k in range(4)])
        shards += [shard] if (shard := writer.close()) else []
    write_manifest(str(folder), Manifest(source="made-up", shards=shards))
    return folder


@pytest.fixture
def store(good: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(good, tmp_path / "store"))


def one_epoch(store: Path) -> list[str]:
    """Ids as pretraining reads them."""
    plan = EpochPlan(read_manifest(str(store)), "train", 0, 2)
    spans = plan.spans(0, plan.rows_per_epoch, 6)
    return [name for start, stop in spans for name in read_span(str(store), plan, start, stop)["id"].to_pylist()]


def all_rows(store: Path) -> list[str]:
    """Ids as evaluation reads them."""
    return [row.id for row in iterate_rows(str(store), read_manifest(str(store)), "train")]


def replaced(store: Path) -> None:
    shutil.copy(store / "train-00002.parquet", store / "train-00001.parquet")


def missing(store: Path) -> None:
    (store / "train-00001.parquet").unlink()


def cut(store: Path) -> None:
    path = store / "train-00001.parquet"
    path.write_bytes(path.read_bytes()[:-1])


def one_bit(store: Path) -> None:
    path = store / "train-00001.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("read", [one_epoch, all_rows])
@pytest.mark.parametrize("damage", [replaced, missing, cut, one_bit])
def test_a_shard_that_is_not_the_manifests_is_named(
    store: Path, damage: Callable[[Path], None], read: Callable[[Path], list[str]]
) -> None:
    damage(store)
    with pytest.raises(ShardError, match=r"train-00001\.parquet: shard ") as caught:
        read(store)
    assert str(store) in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_status == 2
    assert inspect(str(store))["damaged"] == ["train-00001.parquet"]


@pytest.mark.parametrize("damage", [replaced, missing, cut, one_bit])
def test_also_when_it_happens_while_it_is_in_use(store: Path, damage: Callable[[Path], None]) -> None:
    assert len(set(one_epoch(store))) == len(set(all_rows(store))) == 24
    damage(store)
    with pytest.raises(ShardError, match=r"train-00001\.parquet"):
        one_epoch(store)


def test_another_object_in_a_bucket_is_noticed_by_its_footer(store: Path, s3_server: str) -> None:
    from ecgscan_ray.filesystem import join, write_bytes_atomic
    from ecgscan_ray.store.shards import read_row_groups

    bucket = join(s3_server, "exchanged")
    for path in store.iterdir():
        write_bytes_atomic(join(bucket, path.name), path.read_bytes())
    shard = read_manifest(bucket).shards[1]
    assert len(read_row_groups(bucket, shard, [0])) == 4
    write_bytes_atomic(join(bucket, shard.path), (store / "train-00002.parquet").read_bytes())
    with pytest.raises(ShardError, match="was replaced"):
        read_row_groups(bucket, shard, [0])


def _rewrite(store: Path, tables: list[pa.Table]) -> None:
    """Other content under shard 1, and a manifest made to fit its bytes."""
    path = store / "train-00001.parquet"
    with parquet_writer(str(path), tables[0].schema, 3) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=len(table))
    _fit(store, path)


def _fit(store: Path, path: Path) -> None:
    content, manifest = path.read_bytes(), json.loads((store / "manifest.json").read_text())
    for shard in manifest["shards"]:
        if shard["path"] == path.name:
            shard |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (store / "manifest.json").write_text(json.dumps(manifest))


def _change(table: pa.Table, name: str, values: list[object]) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


ROWS = pack([recording(str(k), seed=k) for k in range(4)], "train")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([ROWS], "row groups of 4 rows, not 4, 4"),
        ([ROWS, ROWS.slice(0, 3)], "row groups of 4, 3 rows, not 4, 4"),
        ([ROWS.drop_columns(["report"])] * 2, "other columns"),
        ([ROWS, _change(ROWS, "sig_len", [1000, 1000, 999, 1000])], "recording '2' is damaged"),
        ([ROWS, _change(ROWS, "sig_len", [2**31 - 1] * 4)], "recording '0' is damaged"),
        ([ROWS, _change(ROWS, "sig_len", [-1000] * 4)], "recording '0' is damaged"),
        ([ROWS, _change(ROWS, "steps_per_mv", [1000.0, 0.0, 1000.0, 1000.0])], "recording '1' is damaged"),
        ([ROWS, _change(ROWS, "steps_per_mv", [1000.0, np.nan, 1000.0, 1000.0])], "recording '1' is damaged"),
        ([ROWS, _change(ROWS, "fs", [100.0, 100.0, 1e-300, 100.0])], "recording '2' is damaged"),
        ([ROWS, _change(ROWS, "leads_low", [b"", b"x", b"", b""])], "recording '0' is damaged"),
        ([ROWS, _change(ROWS, "leads_high", [b"\0" * 8000] * 3 + [b"\0" * 16000])], "recording '3' is damaged"),
        ([ROWS, _change(ROWS, "missing", [[], [], [0, 1], []])], "recording '2' is damaged"),
        ([ROWS, _change(ROWS, "missing", [[], [], [12, 1, 2], []])], "recording '2' is damaged"),
        ([ROWS, _change(ROWS, "missing", [[], [], [1, 1, 1001], []])], "recording '2' is damaged"),
    ],
)
@pytest.mark.parametrize("read", [one_epoch, all_rows])
def test_a_shard_that_fits_its_digest_and_nothing_else(
    store: Path, tables: list[pa.Table], message: str, read: Callable[[Path], list[str]]
) -> None:
    _rewrite(store, tables)
    with pytest.raises(ShardError, match=message):
        read(store)
    assert inspect(str(store))["damaged"] == ["train-00001.parquet"]


def test_no_parquet_file_under_a_digest_that_fits(store: Path) -> None:
    for content in (b"no Parquet file", b"PAR1" + b"\xff" * 100 + b"PAR1", b"\0" * 10):
        (store / "train-00001.parquet").write_bytes(content)
        _fit(store, store / "train-00001.parquet")
        with pytest.raises(ShardError, match="cannot be parsed"):
            one_epoch(store)
        assert inspect(str(store))["damaged"] == ["train-00001.parquet"]


def test_a_file_that_unpacks_to_far_more_than_it_is(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = _change(ROWS, "report", ["0" * 2**22] * 4)
    _rewrite(store, [ROWS, pa.concat_tables([bomb])])
    size = (store / "train-00001.parquet").stat().st_size
    monkeypatch.setattr("ecgscan_ray.store.shards.MAX_EXPANSION", 2**22 // size)
    with pytest.raises(ShardError, match="would unpack to"):
        one_epoch(store)


def _edit(store: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((store / "manifest.json").read_text())
    change(content)
    (store / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["shards"][1].update(path="../x.parquet"), "not a path within the store"),
        (lambda m: m["shards"][1].update(path="/etc/passwd"), "not a path within the store"),
        (lambda m: m["shards"][1].update(path=""), "not a path within the store"),
        (lambda m: m["shards"][1].update(path="a/../../b"), "not a path within the store"),
        (lambda m: m["shards"][1].update(path="~/b"), "not a path within the store"),
        (lambda m: m["shards"][1].update(path="train-00000.parquet"), "named 2 times"),
        (lambda m: m["shards"][1].update(split="nosuch"), "no split named 'nosuch'"),
        (lambda m: m["shards"][1].update(rows=9), "9 rows, but 8 in its row groups"),
        (lambda m: m["shards"][1].update(rows=-1), "-1 rows"),
        (lambda m: m["shards"][1].update(rows="many"), r"shards\.1\.rows"),
        (lambda m: m["shards"][1].update(row_groups=[]), "row groups of 1 to"),
        (lambda m: m["shards"][1].update(row_groups=[9, -1]), "row groups of 1 to"),
        (lambda m: m["shards"][1].update(row_groups=[10**12], rows=10**12), "row groups of 1 to"),
        (lambda m: m["shards"][1].update(row_groups=[10**400]), "row groups"),
        (lambda m: m["shards"][1].update(bytes=-5), "no size or no digest"),
        (lambda m: m["shards"][1].update(bytes=7 * 10**12), "no size or no digest"),
        (lambda m: m["shards"][1].update(sha256="0"), "no size or no digest"),
        (lambda m: m["shards"][1].update(extra=1), r"shards\.1\.extra"),
        (lambda m: m.update(shards={}), "shards"),
        (lambda m: m.update(shards=None), "shards"),
        (lambda m: m.update(schema_version="x" * 10000), "schema version x"),
    ],
)
def test_a_manifest_that_cannot_be_is_one_line(store: Path, change: Callable[[dict], object], message: str) -> None:
    _edit(store, change)
    with pytest.raises(StoreError, match=message) as caught:
        read_manifest(str(store))
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, '"', "null", "[1]"])
def test_a_manifest_that_is_no_json_object(store: Path, content: str) -> None:
    (store / "manifest.json").write_text(content)
    with pytest.raises(StoreError, match="damaged manifest"):
        read_manifest(str(store))


def test_vectors_of_a_teacher_are_checked_as_they_are_read(tmp_path: Path) -> None:
    shard = Shard(path="train-0.parquet", split="train", rows=4, row_groups=[4], bytes=1, sha256="0")
    for name, value in (("a", 1.0), ("b", 2.0)):
        writer, has = EmbeddingWriter(), np.ones(4, bool)
        writer.add(np.full((4, 8), value, np.float32), np.full((4, 6), value, np.float32), has, has)
        files = [writer.close(str(tmp_path / name), shard.path, "train")]
        write_index(str(tmp_path / name), EmbeddingIndex(teacher_digest="t", manifest_digest="m", files=files))
    reader = EmbeddingReader(str(tmp_path / "a"))
    assert len(reader.read(shard, [0])) == 4
    shutil.copy(tmp_path / "b" / shard.path, tmp_path / "a" / shard.path)
    with pytest.raises(ShardError, match=r"train-0\.parquet"):
        reader.read(shard, [0])
    (tmp_path / "a" / "index.json").write_text("[" * 100_000)
    with pytest.raises(ShardError, match="damaged index"):
        EmbeddingReader(str(tmp_path / "a"))


def test_the_rows_of_a_good_store_are_as_before(store: Path) -> None:
    assert (
        sorted(one_epoch(store))
        == sorted(all_rows(store))
        == sorted(name for path in store.glob("*.parquet") for name in pq.read_table(path)["id"].to_pylist())
    )
