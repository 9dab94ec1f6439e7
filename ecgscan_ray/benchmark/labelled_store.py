"""A store of the recordings that a task fits on: part of the training recordings, or those of published lists.

Labels are the task's classes. It is written once beside the run that is trained on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ecgscan_ray.batch import stable_key
from ecgscan_ray.benchmark.facts import Facts, Part
from ecgscan_ray.benchmark.task import Selection
from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem import exists, join
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.manifest import MANIFEST_NAME, Manifest, Shard, read_manifest, write_manifest
from ecgscan_ray.store.schema import unpack
from ecgscan_ray.store.shards import ShardWriter, read_row_groups

ROW_GROUP = 64
LIKELIHOOD = 100.0
"""In percent, of a class that a recording has."""
NO_CLASS = "none of them"
"""Label of a recording that is known to have no class."""
PART_OF = "part_of"
"""Key in the manifest's settings: digest of the manifest of the store that the recordings are from."""


def write_labelled_store(
    store: str,
    manifest: Manifest,
    parts: Sequence[Part],
    facts: Facts,
    selection: Selection,
    rows: np.ndarray,
    out: str,
) -> Manifest:
    """Write training and validation recordings of a task as a store; one that is there already is used again.

    Args:
        store: URI of the store they are from.
        manifest: Of it.
        parts: Of it, all that have such recordings.
        facts: Of the recordings in the parts.
        selection: Of the task.
        rows: Training rows of the facts that are used.
        out: URI of the store to write.

    Raises:
        StoreError: It cannot be written, or holds other recordings.
    """
    rows_of = {"train": rows, "validation": selection.validation}
    content = hashlib.sha256(repr((selection.task.name, selection.targets.classes)).encode())
    for split in rows_of:
        content.update(facts.key[np.sort(rows_of[split])].tobytes())
    settings = {PART_OF: manifest.digest(), "rows": content.hexdigest()}
    if exists(join(out, MANIFEST_NAME)):
        written = read_manifest(out)
        if written.settings != settings:
            raise StoreError("holds other recordings than this run is trained on", where=out, fix="Remove it.")
        return written
    shards: list[Shard] = []
    for split, rows_of_split in rows_of.items():
        classes = {
            int(facts.key[row]): [
                name for name, has in zip(selection.targets.classes, selection.targets.values[row], strict=True) if has
            ]
            for row in rows_of_split
        }
        shards += _write_split(out, split, _labelled(store, parts, classes))
    written = Manifest(
        source=manifest.source,
        licence=manifest.licence,
        settings=settings,
        additions=manifest.additions,
        shards=shards,
    )
    write_manifest(out, written)
    return written


def _labelled(store: str, parts: Sequence[Part], classes: dict[int, list[str]]) -> Iterator[Recording]:
    for part in parts:
        for group in range(len(part.shard.row_groups)):
            for recording in unpack(read_row_groups(store, part.shard, [group])):
                names = classes.get(stable_key(f"{recording.source}/{recording.id}"))
                if names is not None:
                    yield replace(recording, labels=dict.fromkeys(names or [NO_CLASS], LIKELIHOOD))


def _write_split(out: str, split: str, recordings: Iterator[Recording]) -> list[Shard]:
    writer, group = ShardWriter(out, split, 0), list[Recording]()
    for recording in recordings:
        group.append(recording)
        if len(group) == ROW_GROUP:
            writer.add(group)
            group = []
    writer.add(group)
    shard = writer.close()
    return [shard] if shard else []
