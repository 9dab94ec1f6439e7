"""``ecgscan prepare``: an archive of recordings becomes a store, as a Ray Data job.

The driver lists the archive, assigns every patient to a split and cuts each split, in random order, into shards. A task
reads, checks and packs the recordings of one shard and writes it in one piece; rejected recordings come back with their
reason. At the end the driver writes the quarantine and, last of all, the manifest. A store that is replaced keeps its
manifest and shards until then: the new shards have other names.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ecgscan_ray import filesystem
from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.errors import InputError, RecordingError, StoreError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.filesystem.lease import exclusive
from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.labels import superclasses
from ecgscan_ray.recording.language import language
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources import Item, Source, open_source
from ecgscan_ray.runs.needs import Need
from ecgscan_ray.runtime.attend import attend
from ecgscan_ray.runtime.cluster import check_address, start_ray
from ecgscan_ray.runtime.demand import await_room
from ecgscan_ray.store.manifest import (
    MANIFEST_NAME,
    SPLITS,
    Counts,
    Manifest,
    Shard,
    read_manifest,
    write_manifest,
)
from ecgscan_ray.store.revisions import check_files, delete_other_files, file_names, files_to_keep, unused_revision
from ecgscan_ray.store.schema import pack
from ecgscan_ray.store.shards import ShardWriter, write_quarantine
from ecgscan_ray.store.splits import RejectedRow, assign_splits, count_patients, reject, warn_about_splits

logger = logging.getLogger(__name__)

_MIN_SHARDS_PER_SPLIT = 8  # where there are enough rows: the tasks of a small archive
_MAX_ROW_GROUPS_PER_SHARD = 64  # 30 MB at 100 Hz, which a task holds in memory
_RETRIES = 2  # of a task whose process died; Ray Data's default is without end
_RATES_HZ = (50.0, 5000.0)


@dataclass(frozen=True)
class ShardJob:
    """The work of one task: read these items and write them as one shard."""

    store: str
    source: str
    archive: str
    rate: float | None
    split: str
    number: int
    revision: int
    row_group_rows: int
    items: list[Item]


@dataclass(frozen=True)
class PrepareSettings:
    """The settings that, with the archive, determine a store's rows and their order; see ``prepare``."""

    rate: float | None
    limit: int | None
    seed: int
    row_group_rows: int
    validation_folds: list[int]
    test_folds: list[int]

    def check(self) -> None:
        """Refuse values out of their range.

        Raises:
            InputError: With the value.
        """
        if self.rate is not None and not _RATES_HZ[0] <= self.rate <= _RATES_HZ[1]:
            fix = f"Give {_RATES_HZ[0]:g} to {_RATES_HZ[1]:g} Hz, or 0 to keep each recording's own."
            raise InputError(f"rate {self.rate:g} is out of range", fix=fix)
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit {self.limit} is out of range", fix="Give at least 1, or leave it out to take all.")
        if self.row_group_rows < 1:
            raise InputError(f"row groups of {self.row_group_rows} rows", fix="Give at least 1.")
        if set(self.validation_folds) & set(self.test_folds):
            raise InputError(
                f"validation folds {self.validation_folds} and test folds {self.test_folds} overlap",
                fix="Give each fold to one of them.",
            )


@dataclass(frozen=True)
class Archive:
    """A listed archive."""

    source: Source
    root: str
    items: list[Item]

    def digest(self) -> str:
        """sha256 of the listing: equal for the same archive in another folder."""
        listing = [[item.id, item.patient_id, item.fold, item.split, item.details] for item in self.items]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


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
        from_dir: The archive: a folder (on a cluster, one that every node sees), ``s3://``, ``gs://`` or ``https://``.
        to: URI of the store.
        rate: Recordings are resampled to this rate, 50 to 5000 Hz; ``None`` keeps each as it is.
        validation_folds: The source's validation folds. Without folds, a tenth of the patients, by a stable hash.
        test_folds: The source's test folds. Without folds, another tenth.
        limit: Take at most so many recordings, chosen at random.
        row_group_rows: Rows per Parquet row group: what the stream reads at once.
        seed: Of the rows' random order.
        overwrite: Replace an existing store; it stays valid until the new one is complete.
        resources: Of a cluster started here.
        progress: Called with the recordings done and their total after each shard.

    Raises:
        InputError: No such source, an argument out of range, a table not understood, no usable recording, no cluster.
        StoreError: ``to`` cannot be written, holds another store, or is being written by another command.
        WorkError: A task failed.
    """
    settings = PrepareSettings(rate, limit, seed, row_group_rows, [*validation_folds], [*test_folds])
    settings.check()
    check_address()
    archive = _list_archive(source, from_dir, rate)
    store = filesystem.absolute(to)
    with exclusive(store, "ecgscan prepare"):
        finished = None if overwrite else _finished_store(store, archive, settings)
        return finished or _write_store(store, archive, settings, resources or ResourceConfig(), progress)


def _list_archive(source: str, from_dir: str, rate: float | None) -> Archive:
    reader, files = open_source(source, rate), ArchiveFiles(from_dir)
    return Archive(reader, files.root, list(reader.list_records(files)))


def _manifest_settings(archive: Archive, settings: PrepareSettings) -> dict[str, Any]:
    return asdict(settings) | {"archive": archive.digest()}


def _finished_store(store: str, archive: Archive, settings: PrepareSettings) -> Manifest | None:
    """The manifest of a finished store that is the one asked for; ``None`` where there is no store.

    Raises:
        StoreError: It is another store, or files of it are missing.
    """
    if not filesystem.exists(filesystem.join(store, MANIFEST_NAME)):
        return None
    manifest = read_manifest(store)
    existing = manifest.settings | {"source": manifest.source}
    requested = _manifest_settings(archive, settings) | {"source": archive.source.name}
    different = sorted(key for key in existing.keys() | requested.keys() if existing.get(key) != requested.get(key))
    if different:
        fix = "Choose another URI, or replace it with --overwrite."
        names = ", ".join("listing of the archive" if key == "archive" else key for key in different)
        raise StoreError(f"there is a store already, with another {names}", where=store, fix=fix)
    check_files(store, manifest)
    logger.info("%s is finished already: nothing to do", store)
    return manifest


def _write_store(
    store: str,
    archive: Archive,
    settings: PrepareSettings,
    resources: ResourceConfig,
    progress: Callable[[int, int], None] | None,
) -> Manifest:
    """Read, check and write everything; the manifest last."""
    exists = filesystem.exists(filesystem.join(store, MANIFEST_NAME))
    filesystem.open_filesystem(store, create=True)
    keep = files_to_keep(store) if exists else set()
    delete_other_files(store, keep)
    order = np.random.default_rng(settings.seed).permutation(len(archive.items))[: settings.limit]
    items = [archive.items[k] for k in order]
    by_split, rejected = assign_splits(items, settings.validation_folds, settings.test_folds)
    warn_about_splits(by_split)
    job = ShardJob(
        store,
        archive.source.name,
        archive.root,
        settings.rate,
        "",
        0,
        unused_revision(keep),
        settings.row_group_rows,
        [],
    )
    jobs = shard_jobs(by_split, job)
    shards, counts, unreadable = _run(jobs, resources, progress, where=store)
    rejected += unreadable
    if shards or not exists:
        write_quarantine(store, rejected)
    if not shards:
        raise InputError(f"none of {len(items)} recordings can be used ({_reasons(rejected)})", where=archive.root)
    manifest = Manifest(
        source=archive.source.name,
        licence=archive.source.licence,
        settings=_manifest_settings(archive, settings),
        shards=sorted(shards, key=lambda shard: (SPLITS.index(shard.split), shard.path)),
        counts=count_patients(counts, by_split, rejected),
        quarantined=_by_reason(rejected),
    )
    check_files(store, manifest)
    write_manifest(store, manifest)
    delete_other_files(store, file_names(manifest))
    return manifest


def shard_jobs(by_split: dict[str, list[Item]], job: ShardJob) -> list[ShardJob]:
    """Cut each split into shards of whole row groups; ``job`` gives all else."""
    jobs = []
    for split, items in by_split.items():
        groups = math.ceil(len(items) / job.row_group_rows)
        size = min(_MAX_ROW_GROUPS_PER_SHARD, max(1, math.ceil(groups / _MIN_SHARDS_PER_SPLIT))) * job.row_group_rows
        for number, start in enumerate(range(0, len(items), size)):
            jobs.append(replace(job, split=split, number=number, items=items[start : start + size]))
    return jobs


def write_shard(job: ShardJob) -> tuple[Shard | None, list[RejectedRow], dict[str, dict[str, int]]]:
    """Read, check, pack and write one shard.

    Returns:
        The shard (``None`` if no recording could be used), the recordings left out, and counts by facet and value.

    Raises:
        StoreError: The store cannot be written.
    """
    source, archive = open_source(job.source, job.rate), ArchiveFiles(job.archive)
    writer = ShardWriter(job.store, job.split, job.number, revision=job.revision)
    rejected: list[RejectedRow] = []
    counts: dict[str, Counter[str]] = {"superclass": Counter(), "language": Counter(), "fs": Counter()}
    group: list[pa.Table] = []
    for item in job.items:
        result = read_checked(source, item, archive, job, rejected)
        if result is None:
            continue
        recording, row = result
        group.append(row)
        counts["superclass"].update(superclasses(recording.labels) or {"none"})
        counts["language"][language(recording.report) or "none"] += 1
        counts["fs"][f"{recording.fs:g}"] += 1
        if len(group) == job.row_group_rows:
            writer.add_table(pa.concat_tables(group))
            group = []
    if group:
        writer.add_table(pa.concat_tables(group))
    return writer.close(), rejected, {facet: dict(count) for facet, count in counts.items()}


def read_checked(
    source: Source, item: Item, archive: ArchiveFiles, job: ShardJob, rejected: list[RejectedRow]
) -> tuple[Recording, pa.Table] | None:
    """One recording, read, checked and packed; ``None`` where it is rejected, with its reason in ``rejected``."""
    try:
        recording = source.read(item, archive)
        check(recording)
        recording = recording if job.rate is None else recording.resampled(float(job.rate))
        return recording, pack([recording], job.split)
    except StoreError:  # the storage's fault, not the recording's
        raise
    except RecordingError as error:
        rejected.append(reject(item, error.reason, f"{error.what}. {error.fix}" if error.fix else error.what))
    except Exception as error:  # one odd file must not end the job
        logger.warning("recording %s: %r", item.id, error)
        rejected.append(reject(item, "unreadable", f"{type(error).__name__}: {error}"))
    return None


def _reasons(rejected: Sequence[RejectedRow]) -> str:
    """Counts by reason, with the details of the first."""
    counts = ", ".join(f"{reason} {count}" for reason, count in _by_reason(rejected).items())
    return f"{counts}; {rejected[0]['id']}: {rejected[0]['detail']}" if rejected else counts


def _by_reason(rejected: Sequence[RejectedRow]) -> dict[str, int]:
    return dict(sorted(Counter(row["reason"] for row in rejected).items()))


def _run(
    jobs: Sequence[ShardJob], resources: ResourceConfig, progress: Callable[[int, int], None] | None, where: str
) -> tuple[list[Shard], Counts, list[RejectedRow]]:
    """All jobs as tasks of Ray Data; results come in any order."""
    start_ray(resources, dashboard=False)
    await_room([Need("task", {"CPU": 1})], "prepare")
    import ray.data

    total, done = sum(len(job.items) for job in jobs), 0
    shards: list[Shard] = []
    rejected: list[RejectedRow] = []
    counts: Counts = {split: {} for split in SPLITS}
    if not jobs:
        return shards, counts, rejected
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
            rejected.extend(result["rejected"])
            for facet, values in result["counts"].items():
                into = counts[result["split"]].setdefault(facet, {})
                for value, count in values.items():
                    into[value] = into.get(value, 0) + count
            done += result["items"]
            if progress:
                progress(done, total)

    attend(gather, where, "The same command starts again.")
    return shards, counts, rejected


def _task(row: dict[str, str]) -> dict[str, str]:
    content = json.loads(row["job"])
    job = ShardJob(**content | {"items": [Item(**item | {"files": tuple(item["files"])}) for item in content["items"]]})
    try:
        shard, rejected, counts = write_shard(job)
    except StoreError as error:  # as a result: raised, Ray would print its stack, twice
        return {"result": json.dumps({"error": {"what": error.what, "where": error.where, "fix": error.fix}})}
    result = {"shard": shard and shard.model_dump(), "rejected": rejected, "counts": counts}
    return {"result": json.dumps(result | {"split": job.split, "items": len(job.items)})}
