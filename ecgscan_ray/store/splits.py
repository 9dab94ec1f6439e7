"""The split of each recording of an archive: by patient, where the patient is known."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence

from ecgscan_ray.errors import printable
from ecgscan_ray.recording.sources import Item
from ecgscan_ray.store.manifest import SPLITS, Counts

logger = logging.getLogger(__name__)

RejectedRow = dict[str, str]
"""A row of the quarantine table."""


def reject(item: Item, reason: str, detail: str) -> RejectedRow:
    """The quarantine's row of a recording that is not stored."""
    return {"id": item.id, "origin": printable(item.path), "reason": reason, "detail": printable(detail)[:300]}


def warn_about_splits(by_split: dict[str, list[Item]]) -> None:
    """Log how many recordings have no patient, and which split will be empty."""
    items = [item for split_items in by_split.values() for item in split_items]
    unknown = sum(item.patient_id is None for item in items)
    if unknown:
        problem = "have no patient and are split one by one: recordings of one patient may be in two splits"
        logger.warning("%d of %d recordings %s. Give patient_id where it is known.", unknown, len(items), problem)
    empty = [split for split in SPLITS if not by_split.get(split)]
    if empty:
        folds = sorted({item.fold for item in items if item.fold is not None})
        known = f"; the table's folds are {', '.join(map(str, folds[:20]))}" if folds else ""
        logger.warning("no recording is in the split %s%s", " or ".join(empty), known)


def assign_splits(
    items: Sequence[Item], validation_folds: Sequence[int], test_folds: Sequence[int]
) -> tuple[dict[str, list[Item]], list[RejectedRow]]:
    """Assign each item to a split, in the order given; patients in two splits and duplicate ids are rejected.

    The source's own split comes first, then its fold, then a hash of the patient (of the recording where unknown).
    """
    rejected: list[RejectedRow] = []
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
            rejected.append(reject(item, "patient_in_two_splits", detail))
        elif item.id in seen:
            rejected.append(reject(item, "duplicate_id", "another recording has this id"))
        else:
            by_split[split_of[id(item)]].append(item)
        seen.add(item.id)
    return by_split, rejected


def count_patients(counts: Counts, by_split: dict[str, list[Item]], rejected: Sequence[RejectedRow]) -> Counts:
    """The counts, sorted, with each split's known patients and its recordings without a patient."""
    rejected_ids = {row["id"] for row in rejected}
    for split, items in by_split.items():
        patients = Counter(item.patient_id for item in items if item.id not in rejected_ids)
        unknown = patients.pop(None, 0)
        counts[split]["patients"] = {"known": len(patients), "recordings_without": unknown}
    return {split: {facet: dict(sorted(values.items())) for facet, values in counts[split].items()} for split in SPLITS}


def _split(item: Item, validation_folds: Sequence[int], test_folds: Sequence[int]) -> str:
    if item.split is not None:
        return item.split
    if item.fold is not None:
        return "validation" if item.fold in validation_folds else "test" if item.fold in test_folds else "train"
    digest = hashlib.blake2b((item.patient_id or item.id).encode(), digest_size=8).digest()
    return {8: "validation", 9: "test"}.get(int.from_bytes(digest, "little") % 10, "train")
