"""Splits by patient, and a random order in which each id stands once."""

from __future__ import annotations

import pytest

from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources import Item
from ecgscan_ray.store.splits import assign_splits, order_items, warn_about_splits
from ecgscan_ray.store.work import Entry

ARCHIVE = ArchiveFiles("/archive")


def entries(*fields: dict) -> list[Entry]:
    """Items; ``stored`` names the split in which the store holds one."""
    listed = []
    for number, given in enumerate(fields):
        split = given.pop("stored", None)
        listed.append(
            Entry(number, Item(**{"id": str(number), "path": str(number)} | given), split, stored=split is not None)
        )
    return listed


def where(accepted: list[Entry]) -> dict[str, str | None]:
    return {entry.item.id: entry.split for entry in accepted}


def test_folds_and_explicit_splits() -> None:
    listed = entries({"fold": 1}, {"fold": 8}, {"fold": 9}, {"fold": 9, "split": "train"}, {"fold": 0})
    accepted, rejected = assign_splits(listed, ARCHIVE, (8,), (9, 10))
    assert where(accepted) == {"0": "train", "1": "validation", "2": "test", "3": "train", "4": "train"}
    assert rejected == []


def test_a_patient_in_two_splits_is_left_out_whole() -> None:
    listed = entries(
        {"fold": 1, "patient_id": "a"}, {"fold": 9, "patient_id": "a"}, {"fold": 9, "patient_id": "b"}, {"fold": 1}
    )
    accepted, rejected = assign_splits(listed, ARCHIVE, (8,), (9,))
    assert where(accepted) == {"2": "test", "3": "train"}
    assert [(row["id"], row["reason"]) for row in rejected] == [
        ("0", "patient_in_two_splits"),
        ("1", "patient_in_two_splits"),
    ]
    assert rejected[0]["detail"] == "patient a is in test and train"
    assert rejected[0]["origin"] == "/archive/0"


def test_a_patient_of_the_store_keeps_the_split() -> None:
    """A recording without a fold goes where its patient is; one whose fold says otherwise is put aside, the store's stays."""
    held = [{"patient_id": f"p{k}", "stored": "test"} for k in range(20)]
    new = [{"id": f"new{k}", "patient_id": f"p{k}"} for k in range(20)]
    accepted, rejected = assign_splits(entries(*held, *new), ARCHIVE, (9,), (10,))
    assert set(where(accepted).values()) == {"test"} and not rejected
    other = {"id": "other", "patient_id": "p0", "fold": 1}
    accepted, rejected = assign_splits(entries(held[0] | {"stored": "test"}, other), ARCHIVE, (9,), (10,))
    assert where(accepted) == {"0": "test"}
    assert [(row["id"], row["reason"]) for row in rejected] == [("other", "patient_in_two_splits")]


def test_without_folds_patients_are_hashed() -> None:
    listed = entries(*({"patient_id": f"p{k // 2}"} for k in range(2000)))
    accepted, rejected = assign_splits(listed, ARCHIVE, (9,), (10,))
    assert not rejected
    again, _ = assign_splits(listed[::-1], ARCHIVE, (9,), (10,))
    found = where(accepted)
    assert found == where(again)
    for split in ("validation", "test"):
        assert 140 < sum(other == split for other in found.values()) < 260
    assert all(found[str(k)] == found[str(k + 1)] for k in range(0, 2000, 2))


def test_each_id_stands_once() -> None:
    listed = entries({"id": "x"}, {"id": "x"}, {"id": "y"}, {"id": "y", "stored": "train"})
    ordered, rejected, skipped = order_items(listed[::-1], ARCHIVE)
    assert [(entry.item.id, entry.number) for entry in ordered] == [("x", 0)], "of two, the first listed"
    assert [row["reason"] for row in rejected] == ["duplicate_id"]
    assert skipped == 1, "the store's own y stays, and is no fault of the archive"


def test_unknown_patients_and_empty_splits_are_said(caplog: pytest.LogCaptureFixture) -> None:
    warn_about_splits(2, 1, {"train": 1, "validation": 1}, {9, 0})
    assert "1 of 2 recordings have no patient and are split one by one" in caplog.text
    assert "no recording is in the split test; the table's folds are 0, 9" in caplog.text
