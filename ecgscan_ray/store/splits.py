"""The split and the place of each recording: by patient where the patient is known, then in random order.

Two steps, each on a share of the items alone. ``assign_splits`` sees all items of a patient, ``order_items`` all of an id: so
neither needs a list of all patients or all ids.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ecgscan_ray.errors import printable
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources import Item
from ecgscan_ray.store.listing import buckets_of, part_name
from ecgscan_ray.store.manifest import SPLITS
from ecgscan_ray.store.work import Entry, WorkArea, hash64

logger = logging.getLogger(__name__)

RejectedRow = dict[str, str]
"""A row of the quarantine table."""


def reject(item: Item, archive: ArchiveFiles, reason: str, detail: str) -> RejectedRow:
    """The quarantine's row of a recording that is not stored."""
    origin = printable(archive.uri(item.path))
    return {"id": item.id, "origin": origin, "reason": reason, "detail": printable(detail)[:300]}


def warn_about_splits(items: int, unknown: int, counts: Mapping[str, int], folds: Iterable[int]) -> None:
    """Log how many recordings have no patient, and which split will be empty.

    Args:
        items: Recordings.
        unknown: Those without a patient.
        counts: Split -> recordings.
        folds: Found in the table.
    """
    if unknown:
        problem = "have no patient and are split one by one: recordings of one patient may be in two splits"
        logger.warning("%d of %d recordings %s. Give patient_id where it is known.", unknown, items, problem)
    empty = [split for split in SPLITS if not counts.get(split)]
    if empty:
        names = ", ".join(map(str, sorted(set(folds))[:20]))
        known = f"; the table's folds are {names}" if names else ""
        logger.warning("no recording is in the split %s%s", " or ".join(empty), known)


def assign_splits(
    entries: Sequence[Entry], archive: ArchiveFiles, validation_folds: Sequence[int], test_folds: Sequence[int]
) -> tuple[list[Entry], list[RejectedRow]]:
    """Assign each entry to a split, in the order given; patients in two splits are rejected.

    The source's own split comes first, then its fold, then the split in which the store holds the patient, then a hash of
    the patient (of the recording where unknown). What the store holds stays as it is.

    Args:
        entries: All of their patients' ones.
    """
    rejected: list[RejectedRow] = []
    held: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.stored and entry.item.patient_id is not None and entry.split is not None:
            held[entry.item.patient_id].add(entry.split)
    placed = [
        entry if entry.stored else replace(entry, split=_split(entry.item, held, validation_folds, test_folds))
        for entry in entries
    ]
    splits: dict[str, set[str]] = defaultdict(set)
    for entry in placed:
        if entry.item.patient_id is not None and entry.split is not None:
            splits[entry.item.patient_id].add(entry.split)
    accepted = []
    for entry in placed:
        patient = entry.item.patient_id
        if entry.stored or patient is None or len(splits[patient]) == 1:
            accepted.append(entry)
            continue
        detail = f"patient {patient} is in {' and '.join(sorted(splits[patient]))}"
        rejected.append(reject(entry.item, archive, "patient_in_two_splits", detail))
    return accepted, rejected


def _split(item: Item, held: Mapping[str, set[str]], validation_folds: Sequence[int], test_folds: Sequence[int]) -> str:
    if item.split is not None:
        return item.split
    if item.fold is not None:
        return "validation" if item.fold in validation_folds else "test" if item.fold in test_folds else "train"
    if item.patient_id is not None and len(known := held.get(item.patient_id, set())) == 1:
        return next(iter(known))
    return {8: "validation", 9: "test"}.get(hash64(item.patient_id or item.id) % 10, "train")


def order_items(entries: Sequence[Entry], archive: ArchiveFiles) -> tuple[list[Entry], list[RejectedRow], int]:
    """Items in the order of their random keys, each id once; of two, the store's or the first listed one stays.

    Args:
        entries: All of their ids' ones.

    Returns:
        The new items, those rejected, and how many the store holds already.
    """
    rejected: list[RejectedRow] = []
    new: list[Entry] = []
    stored = {entry.item.id for entry in entries if entry.stored}
    seen, skipped = set[str](), 0
    for entry in sorted((entry for entry in entries if not entry.stored), key=lambda entry: entry.number):
        if entry.item.id in stored:
            skipped += 1
        elif entry.item.id in seen:
            rejected.append(reject(entry.item, archive, "duplicate_id", "another recording has this id"))
        else:
            seen.add(entry.item.id)
            new.append(entry)
    return sorted(new, key=lambda entry: (entry.key, entry.item.id)), rejected, skipped


def split_share(store: str, token: str, number: int, listing: Mapping[str, Any]) -> dict[str, Any]:
    """First step, on a share of the patients: ``assign_splits``, and a random key for each item.

    Args:
        store: URI of the store.
        token: Of the job.
        number: Of the share.
        listing: A ``Listing``, as JSON.

    Returns:
        Counts: ``unknown`` (items without a patient), ``folds``, ``reasons``.

    Raises:
        StoreError: The work area cannot be read or written.
    """
    work = WorkArea.open(store, token)
    settings = work.job.settings
    steps = listing["steps"]
    parts = (part_name(number) for number in range(listing["parts"]))
    entries = work.read_entries(parts, buckets_of(number, steps))
    folds, archive = (settings.validation_folds, settings.test_folds), ArchiveFiles(work.job.archive)
    accepted, rejected = assign_splits(entries, archive, *folds)
    keyed = [replace(entry, key=hash64(settings.seed, entry.item.id)) for entry in accepted]
    name = f"split/{number:05d}"
    work.write_entries(f"{name}.parquet", keyed, lambda entry: entry.key * steps >> 64)
    items = [entry.item for entry in entries if not entry.stored]
    outcome: dict[str, Any] = {
        "number": number,
        "unknown": sum(item.patient_id is None for item in items),
        "folds": sorted({item.fold for item in items if item.fold is not None})[:20],
    }
    return write_outcome(work, f"{name}.json", outcome, rejected)


def order_share(store: str, token: str, number: int, listing: Mapping[str, Any]) -> dict[str, Any]:
    """Second step, on a share of the random keys: ``order_items``; arguments as of ``split_share``.

    Returns:
        Counts: ``rows`` (split -> recordings), ``skipped`` (that the store holds already), ``reasons``.

    Raises:
        StoreError: The work area cannot be read or written.
    """
    work = WorkArea.open(store, token)
    archive = ArchiveFiles(work.job.archive)
    entries = work.read_entries((f"split/{other:05d}.parquet" for other in range(listing["steps"])), [number])
    ordered, rejected, skipped = order_items(entries, archive)
    name = f"order/{number:05d}"
    work.write_entries(f"{name}.parquet", ordered)
    rows = Counter(entry.split for entry in ordered)
    return write_outcome(work, f"{name}.json", {"number": number, "rows": dict(rows), "skipped": skipped}, rejected)


def write_outcome(
    work: WorkArea, name: str, outcome: dict[str, Any], rejected: Sequence[RejectedRow], **bulk: object
) -> dict[str, Any]:
    """Write what came of a step, as the sign that it is done, and return it without the rejected rows and other bulk."""
    small = outcome | {"reasons": dict(Counter(row["reason"] for row in rejected)), "first": list(rejected[:1])}
    work.write(name, small | bulk | {"rejected": list(rejected)})
    return small
