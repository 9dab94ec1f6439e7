"""``ecgscan prepare``: an archive of recordings becomes a store, as a Ray Data job.

The driver lists the archive, gives every patient a split and cuts each split, in random order, into shards. A task
reads, checks and packs the recordings of one shard and writes it in one piece; what cannot be used comes back with its
reason.
At the end the driver writes the quarantine and, last of all, the manifest. A store that is replaced keeps its manifest and
shards until then: the new shards have names of their own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ecgscan_ray import filesystem
from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.errors import InputError, RecordingError, StoreError
from ecgscan_ray.filesystem.lease import exclusive
from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.labels import superclasses
from ecgscan_ray.recording.language import language
from ecgscan_ray.recording.sources import Item, Source, open_source
from ecgscan_ray.runtime.attend import attend
from ecgscan_ray.runtime.cluster import check_address, start_ray
from ecgscan_ray.runtime.demand import Need, await_room
from ecgscan_ray.store.manifest import (
    MANIFEST_NAME,
    SPLITS,
    Counts,
    Manifest,
    Shard,
    read_manifest,
    write_manifest,
)
from ecgscan_ray.store.revisions import check_files, clear, file_names, files_to_keep, unused_revision
from ecgscan_ray.store.schema import pack
from ecgscan_ray.store.shards import ShardWriter, write_quarantine
from ecgscan_ray.store.splits import RejectedRow, assign_splits, rejected, warn_about_splits

logger = logging.getLogger(__name__)

_SHARDS_A_SPLIT = 8  # at least so many where there are rows enough: the tasks of a small archive
_ROW_GROUPS_A_SHARD = 64  # at most: 30 MB at 100 Hz, which a task holds in memory
_RETRIES = 2  # of a task whose process died; Ray Data's own default is for ever
_RATES_HZ = (50.0, 5000.0)


@dataclass(frozen=True)
class ShardJob:
    """What one task does: read these items and write them as one shard."""

    store: str
    source: str
    rate: float | None
    split: str
    number: int
    revision: int
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
    """Make a store from an archive. Where the same store is finished already, nothing is done.

    Args:
        source: Name of the source: ``ptbxl`` or ``folder``.
        from_dir: The archive's folder; on a cluster, one that every node sees.
        to: URI of the store.
        rate: Recordings of another rate are resampled to this one, 50 to 5000 Hz; ``None`` keeps each as it is (PTB-XL
            has 100 and 500 as published).
        validation_folds: The source's folds that validate. Without folds, a tenth of the patients, by a stable hash.
        test_folds: The source's folds that test. Without folds, another tenth.
        limit: Take only so many recordings, chosen at random.
        row_group_rows: Rows of a Parquet row group: what the stream reads at once.
        seed: Of the rows' random order.
        overwrite: Replace a store that is there; it stays as it is until the new one is complete.
        resources: Of a cluster started here.
        progress: Called with the recordings done and their total after each shard.

    Returns:
        The manifest, which is also the last file written.

    Raises:
        InputError: No such source, an argument out of its range, no recordings in ``from_dir``, a table that is not
            understood, or no recording that can be used; or ``RAY_ADDRESS`` names no cluster.
        StoreError: ``to`` cannot be written, holds another store already, or is being written by another command.
        WorkError: A task failed.
    """
    _check_arguments(rate, limit, row_group_rows, validation_folds, test_folds)
    check_address()
    archive = open_source(source, rate)
    items = archive.list_records(_local_folder(from_dir))
    settings: dict[str, Any] = {"rate": rate, "limit": limit, "seed": seed, "row_group_rows": row_group_rows}
    settings |= {"validation_folds": list(validation_folds), "test_folds": list(test_folds), "archive": _digest(items)}
    store = filesystem.absolute(to)
    with exclusive(store, "ecgscan prepare"):
        there = filesystem.exists(filesystem.join(store, MANIFEST_NAME))
        if there and not overwrite:
            return _same(store, read_manifest(store), source, settings)
        filesystem.open_filesystem(store, create=True)
        kept = files_to_keep(store) if there else set()
        clear(store, kept)
        order = np.random.default_rng(seed).permutation(len(items))[:limit]
        by_split, rejected_rows = assign_splits([items[k] for k in order], validation_folds, test_folds)
        warn_about_splits(by_split)
        jobs = shard_jobs(by_split, store, source, rate, row_group_rows, unused_revision(kept))
        shards, counts, unreadable = _run(jobs, resources or ResourceConfig(), progress, where=store)
        rejected_rows += unreadable
        if shards or not there:
            write_quarantine(store, rejected_rows)
        if not shards:
            raise InputError(f"none of {len(order)} recordings can be used ({_reasons(rejected_rows)})", where=from_dir)
        manifest = Manifest(
            source=source,
            licence=archive.licence,
            settings=settings,
            shards=sorted(shards, key=lambda shard: (SPLITS.index(shard.split), shard.path)),
            counts=_count_patients(counts, by_split, rejected_rows),
            quarantined=_by_reason(rejected_rows),
        )
        check_files(store, manifest)
        write_manifest(store, manifest)
        clear(store, file_names(manifest))
    return manifest


def _check_arguments(
    rate: float | None,
    limit: int | None,
    row_group_rows: int,
    validation_folds: Sequence[int],
    test_folds: Sequence[int],
) -> None:
    if rate is not None and not _RATES_HZ[0] <= rate <= _RATES_HZ[1]:
        fix = f"Give {_RATES_HZ[0]:g} to {_RATES_HZ[1]:g} Hz, or 0 to keep each recording's own."
        raise InputError(f"rate {rate:g} is out of range", fix=fix)
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} is out of range", fix="Give at least 1, or leave it out to take all.")
    if row_group_rows < 1:
        raise InputError(f"row groups of {row_group_rows} rows", fix="Give at least 1.")
    if set(validation_folds) & set(test_folds):
        raise InputError(f"validation folds {list(validation_folds)} and test folds {list(test_folds)} overlap")


def _local_folder(from_dir: str) -> str:
    folder = filesystem.absolute(from_dir)
    if not filesystem.is_local(folder):
        fix = "Mount it, or copy it to a folder that every node sees."
        raise InputError("archives are read from a local folder", where=folder, fix=fix)
    return folder


def _digest(items: Sequence[Item]) -> str:
    """Of the listing: the same archive in another place has the same one."""
    listing = [[item.id, item.patient_id, item.fold, item.split, item.details] for item in items]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _same(store: str, old: Manifest, source: str, settings: dict[str, Any]) -> Manifest:
    """The manifest of a finished store, if it is the one that was asked for.

    Raises:
        StoreError: It is another one, or files of it are gone.
    """
    theirs, ours = old.settings | {"source": old.source}, settings | {"source": source}
    different = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    if different:
        fix = "Choose another place, or replace it with --overwrite."
        names = ", ".join("listing of the archive" if key == "archive" else key for key in different)
        raise StoreError(f"there is a store already, with another {names}", where=store, fix=fix)
    check_files(store, old)
    logger.info("%s is finished already: nothing to do", store)
    return old


def shard_jobs(
    by_split: dict[str, list[Item]], store: str, source: str, rate: float | None, row_group_rows: int, revision: int = 0
) -> list[ShardJob]:
    """Cut each split into shards of whole row groups, whose names carry the revision."""
    jobs = []
    for split, items in by_split.items():
        groups = math.ceil(len(items) / row_group_rows)
        size = min(_ROW_GROUPS_A_SHARD, max(1, math.ceil(groups / _SHARDS_A_SPLIT))) * row_group_rows
        for number, start in enumerate(range(0, len(items), size)):
            part = items[start : start + size]
            jobs.append(ShardJob(store, source, rate, split, number, revision, row_group_rows, part))
    return jobs


def write_shard(job: ShardJob) -> tuple[Shard | None, list[RejectedRow], dict[str, dict[str, int]]]:
    """Read, check, pack and write one shard.

    Returns:
        The shard (``None`` if no recording could be used), the recordings left out, and counts by facet and value.

    Raises:
        StoreError: The store cannot be written.
    """
    source = open_source(job.source, job.rate)
    writer = ShardWriter(job.store, job.split, job.number, revision=job.revision)
    rejected_rows: list[RejectedRow] = []
    counts: dict[str, Counter[str]] = {"superclass": Counter(), "language": Counter(), "fs": Counter()}
    waiting: list[pa.Table] = []
    for item in job.items:
        row = _row_of(source, item, job, counts, rejected_rows)
        if row is not None:
            waiting.append(row)
        if len(waiting) == job.row_group_rows:
            writer.add_table(pa.concat_tables(waiting))
            waiting = []
    if waiting:
        writer.add_table(pa.concat_tables(waiting))
    return writer.close(), rejected_rows, {facet: dict(count) for facet, count in counts.items()}


def _row_of(
    source: Source, item: Item, job: ShardJob, counts: dict[str, Counter[str]], rejected_rows: list[RejectedRow]
) -> pa.Table | None:
    """One recording read, checked, packed and counted; whatever is wrong with it is its reason to be left out."""
    try:
        recording = source.read(item)
        check(recording)
        recording = recording if job.rate is None else recording.resampled(float(job.rate))
        row = pack([recording], job.split)
    except RecordingError as error:
        rejected_rows.append(rejected(item, error.reason, f"{error.what}. {error.fix}" if error.fix else error.what))
    except Exception as error:  # one odd file must not end the job
        logger.warning("recording %s: %r", item.id, error)
        rejected_rows.append(rejected(item, "unreadable", f"{type(error).__name__}: {error}"))
    else:
        counts["superclass"].update(superclasses(recording.labels) or {"none"})
        counts["language"][language(recording.report) or "none"] += 1
        counts["fs"][f"{recording.fs:g}"] += 1
        return row
    return None


def _reasons(rejected_rows: Sequence[RejectedRow]) -> str:
    """Counts by reason, with the first one's words."""
    counts = ", ".join(f"{reason} {count}" for reason, count in _by_reason(rejected_rows).items())
    return f"{counts}; {rejected_rows[0]['id']}: {rejected_rows[0]['detail']}" if rejected_rows else counts


def _by_reason(rejected_rows: Sequence[RejectedRow]) -> dict[str, int]:
    return dict(sorted(Counter(row["reason"] for row in rejected_rows).items()))


def _run(
    jobs: Sequence[ShardJob], resources: ResourceConfig, progress: Callable[[int, int], None] | None, where: str
) -> tuple[list[Shard], Counts, list[RejectedRow]]:
    """All jobs as tasks of Ray Data; results come in any order."""
    start_ray(resources, dashboard=False)
    await_room([Need("task", {"CPU": 1})], "prepare")
    import ray.data

    total, done = sum(len(job.items) for job in jobs), 0
    shards: list[Shard] = []
    rejected_rows: list[RejectedRow] = []
    counts: Counts = {split: {} for split in SPLITS}
    if not jobs:
        return shards, counts, rejected_rows
    rows = [{"job": json.dumps(asdict(job))} for job in jobs]
    results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _task, num_cpus=1, ray_remote_args_fn=lambda: {"max_retries": _RETRIES}
    )

    def gather() -> None:
        nonlocal done
        for row in results.iter_rows():
            result = json.loads(row["result"])
            if "error" in result:
                raise StoreError(**result["error"])
            shards.extend([Shard(**result["shard"])] if result["shard"] else [])
            rejected_rows.extend(result["left"])
            for facet, values in result["counts"].items():
                into = counts[result["split"]].setdefault(facet, {})
                for value, count in values.items():
                    into[value] = into.get(value, 0) + count
            done += result["items"]
            if progress:
                progress(done, total)

    attend(gather, where, "The same command starts again.")
    return shards, counts, rejected_rows


def _task(row: dict[str, str]) -> dict[str, str]:
    content = json.loads(row["job"])
    job = ShardJob(**content | {"items": [Item(**item) for item in content["items"]]})
    try:
        shard, rejected_rows, counts = write_shard(job)
    except StoreError as error:  # as a result: raised, Ray would print its stack, twice
        return {"result": json.dumps({"error": {"what": error.what, "where": error.where, "fix": error.fix}})}
    result = {"shard": shard and shard.model_dump(), "left": rejected_rows, "counts": counts}
    return {"result": json.dumps(result | {"split": job.split, "items": len(job.items)})}


def _count_patients(counts: Counts, by_split: dict[str, list[Item]], rejected_rows: Sequence[RejectedRow]) -> Counts:
    """The counts, sorted, with the known patients of each split and its recordings without one."""
    gone = {row["id"] for row in rejected_rows}
    for split, items in by_split.items():
        patients = Counter(item.patient_id for item in items if item.id not in gone)
        unknown = patients.pop(None, 0)
        counts[split]["patients"] = {"known": len(patients), "recordings_without": unknown}
    return {split: {facet: dict(sorted(values.items())) for facet, values in counts[split].items()} for split in SPLITS}
