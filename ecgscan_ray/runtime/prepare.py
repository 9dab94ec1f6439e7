"""``ecgscan prepare``: an archive of recordings becomes a store, as a Ray Data job.

The driver lists the archive, gives every patient a split and cuts each split, in random order, into shards. A task
reads, checks and packs the recordings of one shard and writes it in one piece; what cannot be used comes back with its
reason.
At the end the driver writes the quarantine and, last of all, the manifest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.errors import InputError, RecordingError, StoreError
from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.labels import superclasses
from ecgscan_ray.recording.language import language
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources import Item, Source, open_source
from ecgscan_ray.runtime.attend import attend
from ecgscan_ray.runtime.cluster import start_ray
from ecgscan_ray.store import filesystem
from ecgscan_ray.store.manifest import MANIFEST_NAME, QUARANTINE_NAME, SPLITS, Counts, Manifest, Shard, write_manifest
from ecgscan_ray.store.shards import ShardWriter, write_quarantine

logger = logging.getLogger(__name__)

_SHARDS_A_SPLIT = 8  # at least so many where there are rows enough: the tasks of a small archive
_ROW_GROUPS_A_SHARD = 64  # at most: 30 MB at 100 Hz, which a task holds in memory
_OURS = re.compile(rf"({'|'.join(SPLITS)})-\d{{5}}\.parquet(\.tmp-\w+)?|{re.escape(QUARANTINE_NAME)}(\.tmp-\w+)?")

Left = dict[str, str]
"""A row of the quarantine table."""


@dataclass(frozen=True)
class ShardJob:
    """What one task does: read these items and write them as one shard."""

    store: str
    source: str
    rate: float | None
    split: str
    number: int
    row_group_rows: int
    items: list[Item]


def prepare(
    source: str,
    from_dir: str,
    to: str,
    *,
    rate: float | None = 100,
    validation_folds: Sequence[int] = (9,),
    test_folds: Sequence[int] = (10,),
    limit: int | None = None,
    row_group_rows: int = 64,
    seed: int = 0,
    overwrite: bool = False,
    resources: ResourceConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Make a store from an archive.

    Args:
        source: Name of the source: ``ptbxl`` or ``folder``.
        from_dir: The archive's folder; on a cluster, one that every node sees.
        to: URI of the store.
        rate: Recordings of another rate are resampled to this one, Hz; ``None`` keeps each as it is (PTB-XL has 100 and
            500 as published).
        validation_folds: The source's folds that validate. Without folds, a tenth of the patients, by a stable hash.
        test_folds: The source's folds that test; otherwise likewise.
        limit: Take only so many recordings, chosen at random.
        row_group_rows: Rows of a Parquet row group: what the stream reads at once.
        seed: Of the rows' random order.
        overwrite: Replace a store that is there.
        resources: Of a cluster started here.
        progress: Called with the recordings done and their total after each shard.

    Returns:
        The manifest, which is also the last file written.

    Raises:
        InputError: No such source, no recordings in ``from_dir``, or none that can be used.
        StoreError: ``to`` cannot be written, or holds a store already.
        WorkError: A task failed.
    """
    if "://" in from_dir:
        raise InputError("archives are read from a local folder", where=from_dir, fix="Copy it, or mount it.")
    if set(validation_folds) & set(test_folds):
        raise InputError(f"validation folds {list(validation_folds)} and test folds {list(test_folds)} overlap")
    archive = open_source(source, rate)
    items = archive.list_records(filesystem.absolute(from_dir))
    store = filesystem.absolute(to)
    _claim(store, overwrite)
    order = np.random.default_rng(seed).permutation(len(items))[:limit]
    by_split, left = assign_splits([items[k] for k in order], validation_folds, test_folds)
    jobs = shard_jobs(by_split, store, source, rate, row_group_rows)
    shards, counts, unreadable = _run(jobs, resources or ResourceConfig(), progress, where=store)
    left += unreadable
    write_quarantine(store, left)
    if not shards:
        reasons = ", ".join(f"{reason} {count}" for reason, count in _by_reason(left).items())
        raise InputError(f"none of {len(order)} recordings can be used ({reasons})", where=from_dir)
    settings: dict[str, Any] = {"rate": rate, "limit": limit, "seed": seed, "row_group_rows": row_group_rows}
    manifest = Manifest(
        source=source,
        licence=archive.licence,
        settings=settings | {"validation_folds": list(validation_folds), "test_folds": list(test_folds)},
        shards=sorted(shards, key=lambda shard: (SPLITS.index(shard.split), shard.path)),
        counts=_with_patients(counts, by_split, left),
        quarantined=_by_reason(left),
    )
    write_manifest(store, manifest)
    return manifest


def assign_splits(
    items: Sequence[Item], validation_folds: Sequence[int], test_folds: Sequence[int]
) -> tuple[dict[str, list[Item]], list[Left]]:
    """Give each item its split, in the order given; patients in two splits and doubled ids are left out.

    The source's own split goes before its fold, and that before a hash of the patient (or, unknown, of the recording).
    """
    left: list[Left] = []
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
            left.append(_left(item, "patient_in_two_splits", detail))
        elif item.id in seen:
            left.append(_left(item, "duplicate_id", "another recording has this id"))
        else:
            by_split[split_of[id(item)]].append(item)
        seen.add(item.id)
    return by_split, left


def _split(item: Item, validation_folds: Sequence[int], test_folds: Sequence[int]) -> str:
    if item.split is not None:
        return item.split
    if item.fold is not None:
        return "validation" if item.fold in validation_folds else "test" if item.fold in test_folds else "train"
    digest = hashlib.blake2b((item.patient_id or item.id).encode(), digest_size=8).digest()
    return {8: "validation", 9: "test"}.get(int.from_bytes(digest, "little") % 10, "train")


def shard_jobs(
    by_split: dict[str, list[Item]], store: str, source: str, rate: float | None, row_group_rows: int
) -> list[ShardJob]:
    """Cut each split into shards of whole row groups."""
    jobs = []
    for split, items in by_split.items():
        groups = math.ceil(len(items) / row_group_rows)
        size = min(_ROW_GROUPS_A_SHARD, max(1, math.ceil(groups / _SHARDS_A_SPLIT))) * row_group_rows
        for number, start in enumerate(range(0, len(items), size)):
            jobs.append(ShardJob(store, source, rate, split, number, row_group_rows, items[start : start + size]))
    return jobs


def write_shard(job: ShardJob) -> tuple[Shard | None, list[Left], dict[str, dict[str, int]]]:
    """Read, check, pack and write one shard.

    Returns:
        The shard (``None`` if no recording could be used), the recordings left out, and counts by facet and value.

    Raises:
        StoreError: The store cannot be written.
    """
    source, writer = open_source(job.source, job.rate), ShardWriter(job.store, job.split, job.number)
    left: list[Left] = []
    counts: dict[str, Counter[str]] = {"superclass": Counter(), "language": Counter(), "fs": Counter()}
    waiting: list[Recording] = []
    for item in job.items:
        recording = _usable(source, item, job.rate, left)
        if recording is None:
            continue
        counts["superclass"].update(superclasses(recording.labels) or {"none"})
        counts["language"][language(recording.report) or "none"] += 1
        counts["fs"][f"{recording.fs:g}"] += 1
        waiting.append(recording)
        if len(waiting) == job.row_group_rows:
            writer.add(waiting)
            waiting = []
    writer.add(waiting)
    return writer.close(), left, {facet: dict(count) for facet, count in counts.items()}


def _usable(source: Source, item: Item, rate: float | None, left: list[Left]) -> Recording | None:
    try:
        recording = source.read(item)
        check(recording)
        return recording if rate is None else recording.resampled(float(rate))
    except RecordingError as error:
        left.append(_left(item, error.reason, error.what))
    except Exception as error:  # one odd file must not end the job
        logger.warning("recording %s: %r", item.id, error)
        left.append(_left(item, "unreadable", f"{type(error).__name__}: {error}"))
    return None


def _left(item: Item, reason: str, detail: str) -> Left:
    return {"id": item.id, "origin": item.path, "reason": reason, "detail": " ".join(detail.split())[:300]}


def _by_reason(left: Sequence[Left]) -> dict[str, int]:
    return dict(sorted(Counter(row["reason"] for row in left).items()))


def _run(
    jobs: Sequence[ShardJob], resources: ResourceConfig, progress: Callable[[int, int], None] | None, where: str
) -> tuple[list[Shard], Counts, list[Left]]:
    """All jobs as tasks of Ray Data; results come in any order."""
    start_ray(resources, dashboard=False)
    import ray.data

    total, done = sum(len(job.items) for job in jobs), 0
    shards: list[Shard] = []
    left: list[Left] = []
    counts: Counts = {split: {} for split in SPLITS}
    if not jobs:
        return shards, counts, left
    rows = [{"job": json.dumps(asdict(job))} for job in jobs]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(_task, num_cpus=1)

    def gather() -> None:
        nonlocal done
        for row in results.iter_rows():
            result = json.loads(row["result"])
            if "error" in result:
                raise StoreError(**result["error"])
            shards.extend([Shard(**result["shard"])] if result["shard"] else [])
            left.extend(result["left"])
            for facet, values in result["counts"].items():
                into = counts[result["split"]].setdefault(facet, {})
                for value, count in values.items():
                    into[value] = into.get(value, 0) + count
            done += result["items"]
            if progress:
                progress(done, total)

    attend(gather, where, "The same command starts again.")
    return shards, counts, left


def _task(row: dict[str, str]) -> dict[str, str]:
    content = json.loads(row["job"])
    job = ShardJob(**content | {"items": [Item(**item) for item in content["items"]]})
    try:
        shard, left, counts = write_shard(job)
    except StoreError as error:  # as a result: raised, Ray would print its stack, twice
        return {"result": json.dumps({"error": {"what": error.what, "where": error.where, "fix": error.fix}})}
    result = {"shard": shard and shard.model_dump(), "left": left, "counts": counts}
    return {"result": json.dumps(result | {"split": job.split, "items": len(job.items)})}


def _with_patients(counts: Counts, by_split: dict[str, list[Item]], left: Sequence[Left]) -> Counts:
    """The counts, sorted, with the number of known patients whose recordings are in each split."""
    gone = {row["id"] for row in left}
    for split, items in by_split.items():
        patients = {item.patient_id for item in items if item.id not in gone} - {None}
        counts[split]["patients"] = {"known": len(patients)}
    return {split: {facet: dict(sorted(values.items())) for facet, values in counts[split].items()} for split in SPLITS}


def _claim(store: str, overwrite: bool) -> None:
    """Show that the store can be written, and clear away what an earlier attempt left."""
    filesystem.open_filesystem(store, create=True)
    if filesystem.exists(filesystem.join(store, MANIFEST_NAME)):
        if not overwrite:
            fix = "Choose another place, or overwrite it (--overwrite)."
            raise StoreError("there is a store already", where=store, fix=fix)
        filesystem.delete_file(filesystem.join(store, MANIFEST_NAME))  # first: from here on it is no store
    for name in filesystem.list_files(store):
        if _OURS.fullmatch(name):
            filesystem.delete_file(filesystem.join(store, name))
