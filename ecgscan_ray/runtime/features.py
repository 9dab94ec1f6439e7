"""Features of a benchmark as a Ray Data job: pages are drawn, read and embedded on all cores, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

import ray
import torch

from ecgscan_ray.benchmark.extract import Extractor, Piece
from ecgscan_ray.model.external import trust, trusted
from ecgscan_ray.runtime.actors import map_in_actors, trim_freed_memory
from ecgscan_ray.runtime.attend import attend


def write_features(store: str, pieces: Sequence[Piece], where: str, cpus: float) -> None:
    """Make all pieces; Ray must be running. What is finished stays when the job is killed.

    Args:
        store: URI of the store.
        pieces: What to make; the longest first.
        where: Named in errors.
        cpus: Logical CPUs of each process.
    """
    numbers = [{"number": number} for number in range(len(pieces))]
    dataset = map_in_actors(_Write, (store, ray.put(tuple(pieces)), trusted()), numbers, cpus=cpus)
    attend(dataset.take_all, where, "The same command goes on: finished files are kept.")


class _Write:
    def __init__(self, store: str, pieces: ray.ObjectRef, modules: tuple[str, ...]) -> None:
        torch.set_num_threads(1)
        trim_freed_memory()
        trust(modules)
        self._pieces: tuple[Piece, ...] = ray.get(pieces)
        self._extractor = Extractor(store, "cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, row: dict[str, int]) -> dict[str, int]:
        self._extractor.write(self._pieces[row["number"]])
        return row
