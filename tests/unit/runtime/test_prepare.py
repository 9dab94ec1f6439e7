"""Splits and shards, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.recording.sources import Item
from ecgscan_ray.runtime.prepare import assign_splits, prepare, shard_jobs, write_shard
from ecgscan_ray.store.shards import read_row_groups
from tests.records import heart_uv, write_record


def items(*fields: dict) -> list[Item]:
    return [Item(**{"id": str(k), "path": f"/archive/{k}"} | given) for k, given in enumerate(fields)]


def where(by_split: dict[str, list[Item]]) -> dict[str, str]:
    return {item.id: split for split, members in by_split.items() for item in members}


def test_folds_and_explicit_splits() -> None:
    listed = items({"fold": 1}, {"fold": 8}, {"fold": 9}, {"fold": 9, "split": "train"}, {"fold": 0})
    by_split, left = assign_splits(listed, (8,), (9, 10))
    assert where(by_split) == {"0": "train", "1": "validation", "2": "test", "3": "train", "4": "train"}
    assert left == []


def test_a_patient_in_two_splits_is_left_out_whole() -> None:
    listed = items(
        {"fold": 1, "patient_id": "a"}, {"fold": 9, "patient_id": "a"}, {"fold": 9, "patient_id": "b"}, {"fold": 1}
    )
    by_split, left = assign_splits(listed, (8,), (9,))
    assert where(by_split) == {"2": "test", "3": "train"}
    assert [(row["id"], row["reason"]) for row in left] == [
        ("0", "patient_in_two_splits"),
        ("1", "patient_in_two_splits"),
    ]
    assert left[0]["detail"] == "patient a is in test and train"


def test_without_folds_patients_are_hashed() -> None:
    listed = items(*({"patient_id": f"p{k // 2}"} for k in range(2000)))
    by_split, left = assign_splits(listed, (9,), (10,))
    assert not left
    again, _ = assign_splits(listed[::-1], (9,), (10,))
    assert where(by_split) == where(again)
    assert 140 < len(by_split["validation"]) < 260
    assert 140 < len(by_split["test"]) < 260
    for k in range(0, 2000, 2):
        assert where(by_split)[str(k)] == where(by_split)[str(k + 1)]
        if k > 40:
            break


def test_doubled_ids() -> None:
    by_split, left = assign_splits(items({"id": "x"}, {"id": "x"}), (9,), (10,))
    assert len(where(by_split)) == 1
    assert [row["reason"] for row in left] == ["duplicate_id"]


@pytest.mark.parametrize(
    ("rows", "group", "sizes"), [(14 * 64, 64, [128] * 7), (10, 64, [10]), (100, 8, [16] * 6 + [4])]
)
def test_shards_are_whole_row_groups(rows: int, group: int, sizes: list[int]) -> None:
    jobs = shard_jobs({"train": items(*({} for _ in range(rows)))}, "store", "folder", None, group)
    assert [len(job.items) for job in jobs] == sizes
    assert [job.number for job in jobs] == list(range(len(sizes)))


def test_large_archives_have_bounded_shards() -> None:
    jobs = shard_jobs({"train": items(*({} for _ in range(64 * 64 * 10)))}, "store", "folder", None, 64)
    assert {len(job.items) for job in jobs} == {64 * 64}


def test_one_shard_with_resampling(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_record(tmp_path / "in", name, heart_uv(fs=500), fs=500)
    listed = [Item(id=name, path=str(tmp_path / "in" / name)) for name in ("a", "b", "c", "d")]
    (job,) = shard_jobs({"train": listed}, str(tmp_path / "out"), "folder", 100.0, 4)
    shard, left, counts = write_shard(job)
    assert shard is not None
    assert shard.row_groups == [3]
    assert [(row["id"], row["reason"]) for row in left] == [("d", "missing_file")]
    assert counts["fs"] == {"100": 3}
    table = read_row_groups(str(tmp_path / "out"), shard, [0])
    assert table["sig_len"].to_pylist() == [1000] * 3
    assert max(table["rounding_uv"].to_pylist()) <= 0.51


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": "ptb"}, InputError, "Did you mean"),
        ({"from_dir": "nowhere"}, InputError, "no such folder"),
        ({"from_dir": "s3://bucket/archive"}, InputError, "local folder"),
        ({"validation_folds": (9, 10)}, InputError, "overlap"),
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
