"""Splits and shards, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources import Item, open_source
from ecgscan_ray.runtime.prepare import ShardJob, prepare, shard_jobs, write_shard
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.store.revisions import unused_revision
from ecgscan_ray.store.shards import ShardWriter, read_row_groups, write_quarantine
from ecgscan_ray.store.splits import assign_splits, warn_about_splits
from tests.records import heart_uv, list_items, recording, write_record


def items(*fields: dict) -> list[Item]:
    return [Item(**{"id": str(k), "path": str(k)} | given) for k, given in enumerate(fields)]


def job(folder: Path, **changes: object) -> ShardJob:
    """Reads ``in`` and writes ``out``."""
    fields: dict[str, object] = {
        "store": str(folder / "out"),
        "source": "folder",
        "archive": str(folder / "in"),
        "rate": None,
        "split": "",
        "number": 0,
        "revision": 0,
        "row_group_rows": 64,
        "items": [],
    }
    return ShardJob(**fields | changes)  # type: ignore[arg-type]


def where(by_split: dict[str, list[Item]]) -> dict[str, str]:
    return {item.id: split for split, members in by_split.items() for item in members}


def test_folds_and_explicit_splits() -> None:
    listed = items({"fold": 1}, {"fold": 8}, {"fold": 9}, {"fold": 9, "split": "train"}, {"fold": 0})
    by_split, rejected = assign_splits(listed, (8,), (9, 10))
    assert where(by_split) == {"0": "train", "1": "validation", "2": "test", "3": "train", "4": "train"}
    assert rejected == []


def test_a_patient_in_two_splits_is_left_out_whole() -> None:
    listed = items(
        {"fold": 1, "patient_id": "a"}, {"fold": 9, "patient_id": "a"}, {"fold": 9, "patient_id": "b"}, {"fold": 1}
    )
    by_split, rejected = assign_splits(listed, (8,), (9,))
    assert where(by_split) == {"2": "test", "3": "train"}
    assert [(row["id"], row["reason"]) for row in rejected] == [
        ("0", "patient_in_two_splits"),
        ("1", "patient_in_two_splits"),
    ]
    assert rejected[0]["detail"] == "patient a is in test and train"


def test_without_folds_patients_are_hashed() -> None:
    listed = items(*({"patient_id": f"p{k // 2}"} for k in range(2000)))
    by_split, rejected = assign_splits(listed, (9,), (10,))
    assert not rejected
    again, _ = assign_splits(listed[::-1], (9,), (10,))
    assert where(by_split) == where(again)
    assert 140 < len(by_split["validation"]) < 260
    assert 140 < len(by_split["test"]) < 260
    for k in range(0, 2000, 2):
        assert where(by_split)[str(k)] == where(by_split)[str(k + 1)]
        if k > 40:
            break


def test_doubled_ids() -> None:
    by_split, rejected = assign_splits(items({"id": "x"}, {"id": "x"}), (9,), (10,))
    assert len(where(by_split)) == 1
    assert [row["reason"] for row in rejected] == ["duplicate_id"]


@pytest.mark.parametrize(
    ("rows", "group", "sizes"), [(14 * 64, 64, [128] * 7), (10, 64, [10]), (100, 8, [16] * 6 + [4])]
)
def test_shards_are_whole_row_groups(rows: int, group: int, sizes: list[int]) -> None:
    jobs = shard_jobs({"train": items(*({} for _ in range(rows)))}, job(Path("."), row_group_rows=group))
    assert [len(part.items) for part in jobs] == sizes
    assert [part.number for part in jobs] == list(range(len(sizes)))


def test_large_archives_have_bounded_shards() -> None:
    jobs = shard_jobs({"train": items(*({} for _ in range(64 * 64 * 10)))}, job(Path(".")))
    assert {len(part.items) for part in jobs} == {64 * 64}


def test_one_shard_with_resampling(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_record(tmp_path / "in", name, heart_uv(fs=500), fs=500)
    listed = [Item(id=name, path=name) for name in ("a", "b", "c", "d")]
    (shard_job,) = shard_jobs({"train": listed}, job(tmp_path, rate=100.0, row_group_rows=4))
    shard, rejected, counts = write_shard(shard_job)
    assert shard is not None
    assert shard.row_groups == [3]
    assert [(row["id"], row["reason"]) for row in rejected] == [("d", "missing_file")]
    assert counts["fs"] == {"100": 3}
    table = read_row_groups(str(tmp_path / "out"), shard, [0])
    assert table["sig_len"].to_pylist() == [1000] * 3
    assert max(table["rounding_uv"].to_pylist()) <= 0.51


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": "ptb"}, InputError, "Did you mean"),
        ({"from_dir": "nowhere"}, InputError, "no such folder"),
        ({"from_dir": "https://127.0.0.1:1/archive"}, InputError, "cannot be listed"),
        ({"validation_folds": (9, 10)}, InputError, "overlap"),
        ({"rate": -100}, InputError, "rate -100"),
        ({"rate": float("nan")}, InputError, "rate nan"),
        ({"rate": float("inf")}, InputError, "rate inf"),
        ({"rate": 20}, InputError, "50 to 5000 Hz"),
        ({"limit": -5}, InputError, "limit -5"),
        ({"limit": 0}, InputError, "limit 0"),
        ({"row_group_rows": 0}, InputError, "row groups"),
        ({"to": "in/a.hea"}, StoreError, "cannot be written"),
        ({"source": "ptbxl"}, InputError, "no PTB-XL recordings"),
    ],
)
def test_bad_input_is_found_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_record(tmp_path / "in", "a")
    arguments = {"source": "folder", "from_dir": "in", "to": "out"} | changes
    with pytest.raises(error, match=message):
        prepare(**arguments)
    assert not (tmp_path / "out").exists()


def test_an_odd_recording_is_its_own_reason(tmp_path: Path) -> None:
    """Whatever it raises, in reading, checking or packing; and what is written of it can be stored."""
    for name in ("good", "odd"):
        write_record(tmp_path / "in", name)
    source = open_source("folder")
    listed = {item.id: item for item in list_items(source, tmp_path / "in")}
    listed["bad-labels"] = replace(listed["good"], id="bad-labels", details={"labels": "['NORM' 'SR']"})
    listed["half"] = replace(listed["good"], id="half", details={"report": "half a letter: \udcfc"})
    (tmp_path / "in/odd.hea").write_bytes(b"\xff\xfe\0\x1b[31m")
    odd = job(tmp_path, rate=100.0, split="train", row_group_rows=2, items=list(listed.values()))
    shard, rejected, _ = write_shard(odd)
    assert shard is not None and shard.row_groups == [1]
    assert {row["id"] for row in rejected} == {"bad-labels", "half", "odd"}
    assert all(text.isprintable() for row in rejected for text in row.values())
    reasons = {row["id"]: row["detail"] for row in rejected}
    assert "Write NORM;SR" in reasons["bad-labels"], "the reason says what to do"
    write_quarantine(str(tmp_path / "out"), rejected)


def test_rows_packed_one_by_one_are_the_same_bytes(tmp_path: Path) -> None:
    for k in range(5):
        write_record(tmp_path / "in", f"r{k}", heart_uv(seed=k))
    items = list_items(open_source("folder"), tmp_path / "in")
    shard, _, _ = write_shard(job(tmp_path, split="train", row_group_rows=3, items=items))
    writer = ShardWriter(str(tmp_path / "other"), "train", 0)
    recordings = [open_source("folder").read(item, ArchiveFiles(tmp_path / "in")) for item in items]
    writer.add(recordings[:3])
    writer.add(recordings[3:])
    assert shard == writer.close()


@pytest.mark.parametrize(
    ("there", "revision"),
    [
        (set(), 0),
        ({"manifest.json", "train-00000.parquet"}, 1),
        ({"train-00000-r1.parquet"}, 0),
        ({"train-00000.parquet", "test-00003-r1.parquet"}, 2),
    ],
)
def test_shards_of_a_new_store_have_names_of_their_own(there: set[str], revision: int) -> None:
    assert unused_revision(there) == revision


def test_the_digest_is_that_of_the_rows(tmp_path: Path) -> None:
    manifests = []
    for revision in (0, 1):
        writer = ShardWriter(str(tmp_path / str(revision)), "train", 0, revision=revision)
        writer.add([recording()])
        manifests.append(Manifest(source="made-up", shards=[shard for shard in [writer.close()] if shard]))
    assert [m.shards[0].path for m in manifests] == ["train-00000.parquet", "train-00000-r1.parquet"]
    assert manifests[0].digest() == manifests[1].digest()


def test_one_prepare_at_a_time(tmp_path: Path) -> None:
    write_record(tmp_path / "in", "a")
    code = (
        "import sys\nfrom ecgscan_ray.filesystem.lease import exclusive\n"
        "with exclusive(sys.argv[1], 'ecgscan prepare'):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="in use by 'ecgscan prepare'"):
            prepare("folder", str(tmp_path / "in"), str(tmp_path / "out"))
        other.communicate("")
    assert not list((tmp_path / "out").iterdir())


def test_unknown_patients_and_empty_splits_are_said(caplog: pytest.LogCaptureFixture) -> None:
    by_split, _ = assign_splits(items({"fold": 0}, {"fold": 9, "patient_id": "p"}), (9,), (10,))
    warn_about_splits(by_split)
    assert "1 of 2 recordings have no patient and are split one by one" in caplog.text
    assert "no recording is in the split test; the table's folds are 0, 9" in caplog.text


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "no such thing"])
def test_an_address_without_a_cluster_is_the_first_thing_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=f"RAY_ADDRESS={address}"):
        prepare("folder", str(tmp_path / "no such archive"), str(tmp_path / "store"))
