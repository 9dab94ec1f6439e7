"""Who trains, who validates, who tests: the split of each recording of an archive, by patient where the patient is known."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence

from ecgscan_ray.errors import printable
from ecgscan_ray.recording.sources import Item
from ecgscan_ray.store.manifest import SPLITS

logger = logging.getLogger(__name__)

RejectedRow = dict[str, str]
"""A row of the quarantine table."""


def rejected(item: Item, reason: str, detail: str) -> RejectedRow:
    """Why a recording is left out."""
    return {"id": item.id, "origin": printable(item.path), "reason": reason, "detail": printable(detail)[:300]}


def warn_about_splits(by_split: dict[str, list[Item]]) -> None:
    """Say whose patient is unknown, and which split will be empty."""
    items = [item for members in by_split.values() for item in members]
    unknown = sum(item.patient_id is None for item in items)
    if unknown:
        what = "have no patient and are split one by one: recordings of one patient may be in two splits"
        logger.warning("%d of %d recordings %s. Give patient_id where it is known.", unknown, len(items), what)
    empty = [split for split in SPLITS if not by_split.get(split)]
    if empty:
        folds = sorted({item.fold for item in items if item.fold is not None})
        known = f"; the table's folds are {', '.join(map(str, folds[:20]))}" if folds else ""
        logger.warning("no recording is in the split %s%s", " or ".join(empty), known)


def assign_splits(
    items: Sequence[Item], validation_folds: Sequence[int], test_folds: Sequence[int]
) -> tuple[dict[str, list[Item]], list[RejectedRow]]:
    """Give each item its split, in the order given; patients in two splits and doubled ids are left out.

    The source's own split goes before its fold, and that before a hash of the patient (or, unknown, of the recording).
    """
    rejected_rows: list[RejectedRow] = []
    split_of = {id(item): _split(item, validation_folds, test_folds) for item in items}
    splits_of_patient: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.patient_id is not None:
            splits_of_patient[item.patient_id].add(split_of[id(item)])
    by_split: dict[str, list[Item]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    for item in items:
        splits = splits_of_patient[item.patient_id] if item.patient_id is not None else set()
        if len(splits) > 1:
            detail = f"patient {item.patient_id} is in {' and '.join(sorted(splits))}"
            rejected_rows.append(rejected(item, "patient_in_two_splits", detail))
        elif item.id in seen:
            rejected_rows.append(rejected(item, "duplicate_id", "another recording has this id"))
        else:
            by_split[split_of[id(item)]].append(item)
        seen.add(item.id)
    return by_split, rejected_rows


def _split(item: Item, validation_folds: Sequence[int], test_folds: Sequence[int]) -> str:
    if item.split is not None:
        return item.split
    if item.fold is not None:
        return "validation" if item.fold in validation_folds else "test" if item.fold in test_folds else "train"
    digest = hashlib.blake2b((item.patient_id or item.id).encode(), digest_size=8).digest()
    return {8: "validation", 9: "test"}.get(int.from_bytes(digest, "little") % 10, "train")
