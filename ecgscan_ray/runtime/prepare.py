"""``ecgscan prepare``: an archive of recordings becomes a store, in steps whose results are files.

The driver streams the archive's listing into files. Tasks assign splits and a random order, share by share, then read,
check, pack and write shards, which are named by file and range: no list of recordings travels. All of it lies in the work area
(``store.work``), so that the same command goes on after an interruption. The manifest is written last; a store that is
replaced or added to stays valid until then, since the new shards have other names.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

from ecgscan_ray import filesystem
from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.filesystem.lease import exclusive
from ecgscan_ray.recording.sources import Item, Source, open_source
from ecgscan_ray.runtime.cluster import check_address
from ecgscan_ray.runtime.stages import Stages
from ecgscan_ray.store.listing import LISTING_NAME, Digest, Listing, stored_entries, write_listing
from ecgscan_ray.store.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from ecgscan_ray.store.revisions import (
    check_files,
    delete_other_files,
    file_names,
    files_to_keep,
    next_numbers,
    unused_revision,
)
from ecgscan_ray.store.splits import warn_about_splits
from ecgscan_ray.store.tally import Tally, archive_settings
from ecgscan_ray.store.work import PrepareJob, PrepareSettings, WorkArea, delete_work, find_job, hash64
from ecgscan_ray.store.writing import ShardJob, first_rows, shard_jobs

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


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
    add: bool = False,
    resources: ResourceConfig | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Make a store from an archive, or go on with it. Where the same store is finished already, nothing is done.

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
        add: Append to an existing store what it does not hold yet; a patient of the same source keeps their split.
        resources: Of a cluster started here.
        progress: Called with the recordings done and their total after each shard.

    Raises:
        InputError: No such source, an argument out of range, a table not understood, no usable recording, no cluster.
        StoreError: The archive cannot be read, or ``to`` cannot be written, holds another store, holds none to add to, or
            is being written by another command.
        WorkError: A task failed.
    """
    settings = PrepareSettings(rate, limit, seed, row_group_rows, [*validation_folds], [*test_folds])
    settings.check()
    if add and overwrite:
        raise InputError("a store is added to or replaced, not both", fix="Leave out --add or --overwrite.")
    check_address()
    command = _Command(open_source(source, rate), ArchiveFiles(from_dir), filesystem.absolute(to), settings, add)
    items = None if command.look(overwrite).unfinished else command.list_records()
    with exclusive(command.store, "ecgscan prepare"):
        state = command.look(overwrite)
        if items is None and not state.unfinished:  # another command ended it meanwhile
            items = command.list_records()
        if items is not None and state.manifest is not None and not add:
            return command.confirm_finished(state.manifest, items)
        return _write_store(command, state, items, resources or ResourceConfig(), progress)


@dataclass(frozen=True)
class _State:
    """What there is at the store's URI.

    Attributes:
        manifest: Of a finished store that is not to be replaced.
        keep: Files of the finished store, also of one to be replaced.
        job: What is to be made.
        unfinished: Of the same command, interrupted after it had listed the archive.
    """

    manifest: Manifest | None
    keep: set[str]
    job: PrepareJob
    unfinished: WorkArea | None


@dataclass(frozen=True)
class _Command:
    """What one command reads and writes."""

    source: Source
    archive: ArchiveFiles
    store: str
    settings: PrepareSettings
    add: bool

    @cached_property
    def stamp(self) -> str:
        """Of the archive, looked at once."""
        return self.archive.stamp()

    def look(self, overwrite: bool) -> _State:
        """What there is.

        Raises:
            StoreError: There is no store to add to, or it cannot be read.
        """
        exists = filesystem.exists(filesystem.join(self.store, MANIFEST_NAME))
        if self.add and not exists:
            raise StoreError("no store to add to", where=self.store, fix="Leave out --add to make one.")
        keep = files_to_keep(self.store) if exists else set()
        manifest = read_manifest(self.store) if exists and not overwrite else None
        job = PrepareJob(
            source=self.source.name,
            archive=self.archive.root,
            settings=self.settings,
            stamp=self.stamp,
            base=str(hash64(*sorted(keep))) if exists else None,
            add=self.add,
            revision=0 if self.add else unused_revision(keep),
            first=next_numbers(keep) if self.add else {},
        )
        begun = find_job(self.store) if manifest is None or self.add else None
        work = WorkArea(self.store, begun) if begun == job and begun is not None else None
        return _State(manifest, keep, job, work if work and LISTING_NAME in work.names() else None)

    def list_records(self) -> Iterator[Item]:
        """The archive's items; faults of its table are raised here, before the store is touched."""
        items = iter(self.source.list_records(self.archive))
        first = next(items, None)
        if first is None:
            raise InputError("no recordings here", where=self.archive.root)
        return chain([first], items)

    def confirm_finished(self, manifest: Manifest, items: Iterator[Item]) -> Manifest:
        """The manifest of the finished store, where it is the one asked for.

        Raises:
            StoreError: It is another store, or files of it are missing.
        """
        digest = Digest()
        for _ in digest.watch(items):
            pass
        existing = manifest.settings | {"source": manifest.source}
        requested = archive_settings(self.settings, digest.hexdigest()) | {"source": self.source.name}
        different = sorted(key for key in existing.keys() | requested.keys() if existing.get(key) != requested.get(key))
        if different:
            fix = "Choose another URI, replace it with --overwrite, or append to it with --add."
            names = ", ".join("listing of the archive" if key == "archive" else key for key in different)
            raise StoreError(f"there is a store already, with another {names}", where=self.store, fix=fix)
        check_files(self.store, manifest)
        delete_work(self.store)  # of a command that was interrupted at its very end
        logger.info("%s is finished already: nothing to do", self.store)
        return manifest


def _write_store(
    command: _Command,
    state: _State,
    items: Iterator[Item] | None,
    resources: ResourceConfig,
    progress: Progress | None,
) -> Manifest:
    """Begin, or go on where ``items`` is ``None``."""
    filesystem.open_filesystem(command.store, create=True)
    work = state.unfinished
    if work is None or items is not None:
        work, listing = _list_into(command, state, items or command.list_records())
    else:
        listing = Listing(**work.read(LISTING_NAME))
    stages = Stages(command.store, work.job.token, resources)
    return _Writer(command, state, work, stages, listing, goes_on=items is None).write(progress)


def _list_into(command: _Command, state: _State, items: Iterator[Item]) -> tuple[WorkArea, Listing]:
    """Begin anew, with the listing."""
    before = find_job(command.store)
    if before is not None:
        why = "while it listed the archive" if before == state.job else "with other settings or another archive"
        logger.info("%s: prepare was interrupted %s: it starts afresh", command.store, why)
    work = WorkArea.start(command.store, state.job)
    delete_other_files(command.store, state.keep)
    manifest, name = state.manifest, command.source.name
    return work, write_listing(work, items, stored_entries(command.store, manifest, name) if manifest else ())


@dataclass
class _Writer:
    """Makes one store, step by step, from a listing."""

    command: _Command
    state: _State
    work: WorkArea
    stages: Stages
    listing: Listing
    goes_on: bool
    tally: Tally = field(default_factory=Tally)

    def write(self, progress: Progress | None) -> Manifest:
        """All steps; the manifest last."""
        store, job, listing = self.command.store, self.work.job, self.listing
        counts = first_rows(self.work, self._place(), job.settings.limit)
        jobs = list(shard_jobs(counts, job.settings.row_group_rows, job.first))
        self._warn(jobs)
        self._write_shards(jobs, progress)
        patients = dict[str, int]()
        arguments = {"with_stored": job.add, "write": bool(self.tally.shards) or not self.state.keep}
        self.stages.run("finish", [arguments], patients.update, here=listing.is_small)
        if self.stages.repeated:
            logger.info("%s: tasks repeated %d requests that had failed", store, self.stages.repeated)
        if not self.tally.shards:
            delete_work(store)
            return self._nothing_new(sum(job.rows for job in jobs))
        manifest = self.tally.manifest(self.command.source, job.settings, listing.digest, patients, self.state.manifest)
        check_files(store, manifest)
        write_manifest(store, manifest)
        delete_work(store)
        delete_other_files(store, file_names(manifest))
        return manifest

    def _place(self) -> list[dict[str, int]]:
        """Splits and order; recordings by share of the order and by split."""
        names, shares = self.work.names(), range(self.listing.steps)
        rows: dict[int, dict[str, int]] = {}

        def add(outcome: dict[str, Any]) -> None:
            self.tally.add_placed(outcome)
            rows[outcome["number"]] = outcome.get("rows", {})

        for step in ("split", "order"):
            outcomes = {number: f"{step}/{number:05d}.json" for number in shares}
            for name in outcomes.values():
                if name in names:
                    add(self.work.read_outcome(name))
            missing = [number for number, name in outcomes.items() if name not in names]
            arguments = [{"number": number, "listing": asdict(self.listing)} for number in missing]
            self.stages.run(step, arguments, add, here=self.listing.is_small)
        return [rows[number] for number in shares]

    def _warn(self, jobs: Sequence[ShardJob]) -> None:
        if self.tally.skipped:
            logger.info("%d recordings are in the store already and stay as they are", self.tally.skipped)
        rows = Counter[str]()
        for job in jobs:
            rows[job.split] += job.rows
        for shard in self.state.manifest.shards if self.state.manifest else ():
            rows[shard.split] += shard.rows
        warn_about_splits(self.listing.items, self.tally.unknown, rows, self.tally.folds)

    def _write_shards(self, jobs: Sequence[ShardJob], progress: Progress | None) -> None:
        """Read, check, pack and write what is not there yet."""
        store, total = self.command.store, sum(job.rows for job in jobs)
        missing = self._missing(jobs)
        done = total - sum(job.rows for job in missing)
        if self.goes_on:
            there = len(jobs) - len(missing)
            logger.info("%s goes on: its listing and %d of %d shards are there", store, there, len(jobs))
            delete_other_files(store, self.state.keep | {shard.path for shard in self.tally.shards})

        def add(outcome: dict[str, Any]) -> None:
            nonlocal done
            self.tally.add_shard(outcome)
            done += int(outcome["items"])
            if progress:
                progress(done, total)

        self.stages.run("shard", [{"job": asdict(job)} for job in missing], add, here=False)

    def _missing(self, jobs: Sequence[ShardJob]) -> list[ShardJob]:
        """The jobs whose shards are not there; the others are counted."""
        names, sizes = self.work.names(), filesystem.list_sizes(self.command.store)
        missing = []
        for job in jobs:
            name = f"done/{job.name}.json"
            outcome = self.work.read_outcome(name) if name in names else None
            if outcome and all(sizes.get(shard["path"]) == shard["bytes"] for shard in outcome["shards"]):
                self.tally.add_shard(outcome)
            else:
                missing.append(job)
        return missing

    def _nothing_new(self, planned: int) -> Manifest:
        """No recording was stored: the store that was added to, where it holds them all."""
        if self.state.manifest is not None and not self.tally.reasons:
            return self.state.manifest
        count = planned + self.tally.put_aside
        raise InputError(
            f"none of {count} recordings can be used ({self.tally.why()})", where=self.command.archive.root
        )
