"""The last step of ``prepare``: the table of what was put aside, and the number of patients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ecgscan_ray.filesystem.threads import in_order
from ecgscan_ray.store.listing import stored_patients
from ecgscan_ray.store.manifest import SPLITS, read_manifest
from ecgscan_ray.store.shards import QuarantineWriter, read_quarantine
from ecgscan_ray.store.work import WorkArea

_THREADS = 8


def finish(store: str, token: str, with_stored: bool, write: bool = True) -> dict[str, int]:
    """Write the quarantine and count known patients by split.

    Args:
        store: URI of the store.
        token: Of the job.
        with_stored: Whether what the store held before stays.
        write: Whether to write the quarantine.

    Raises:
        StoreError: The store cannot be read or written.
    """
    work = WorkArea.open(store, token)
    names = sorted(name for name in work.names() if name.endswith(".json") and "/" in name)
    patients: dict[str, list[NDArray[np.uint64]]] = {split: [] for split in SPLITS}
    with QuarantineWriter() as quarantine:
        if with_stored:
            quarantine.add(read_quarantine(store).to_pylist())
            for split, hashes in _stored_patients(store):
                patients[split].append(hashes)
        for outcome in in_order(work.read, names, _THREADS):
            quarantine.add(outcome["rejected"])
            if "patients" in outcome:
                hashes = np.frombuffer(bytes.fromhex(outcome["patients"]), np.uint64)
                patients[outcome["split"]].append(hashes)
        if write:
            quarantine.write(store)
    return {split: _distinct(parts) for split, parts in patients.items()}


def _stored_patients(store: str) -> Iterator[tuple[str, NDArray[np.uint64]]]:
    shards = read_manifest(store).shards
    parts: Iterable[list[int]] = in_order(lambda shard: stored_patients(store, shard), shards, _THREADS)
    for shard, hashes in zip(shards, parts, strict=True):
        yield shard.split, np.unique(np.array(hashes, np.uint64))


def _distinct(parts: list[NDArray[np.uint64]]) -> int:
    return len(np.unique(np.concatenate(parts))) if parts else 0
