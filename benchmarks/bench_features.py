"""Features of the benchmark: Ray Data's job beside as many bare processes, for pages as read and for pages drawn and read.

``features.*``: 10,000 pages as read (what probes are fitted on). ``features.drawn.*``: mixed test pages, drawn and read. Times
include the start of the processes, not that of Ray; each has one thread. Of an untrained encoder of the laptop preset: the work
is the same.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

CORES = len(os.sched_getaffinity(0))
PAGES, DRAWN = 10_000, 96


def _untrained_run(folder: Path) -> str:
    """A run folder of the laptop preset with random weights."""
    from ecgscan_ray import text
    from ecgscan_ray.config import Config, dump_yaml, load
    from ecgscan_ray.runs.checkpoints import TrainingState
    from ecgscan_ray.tasks.pretrain import Pretrain
    from ecgscan_ray.training.checkpoint import Snapshot, save_checkpoint
    from ecgscan_ray.training.optimizer import build_optimizer

    config, tokenizer = load(Config, "laptop"), text.fit_tokenizer(["sinusrhythmus normales ekg"], 300)
    model, checkpoint = Pretrain().build_model(config, tokenizer), folder / "checkpoints" / "checkpoint_000000001"
    checkpoint.mkdir(parents=True)
    state = TrainingState(1, 1, config.digest(), "pretrain")
    snapshot = Snapshot.of(model, build_optimizer(model, config.training))
    save_checkpoint(checkpoint, snapshot, config, tokenizer.to_str(), state)
    (folder / "config.yaml").write_text(dump_yaml(config))
    return str(folder)


def _pieces(run: str, store: str, drawn: bool, home: str) -> list:  # type: ignore[type-arg]
    """The store's rows, again and again under other homes until there are enough pages; shares of equal size."""
    from ecgscan_ray.benchmark.conditions import FIT, MIXED
    from ecgscan_ray.benchmark.encoders import run_specs
    from ecgscan_ray.benchmark.extract import Piece
    from ecgscan_ray.benchmark.facts import parts_of
    from ecgscan_ray.store.manifest import read_manifest

    spec = run_specs(run, "run", "best")[0]
    parts = parts_of(read_manifest(store), "test")
    if drawn:
        return [
            Piece(MIXED, replace(part, rows=DRAWN // len(parts)), (replace(spec, home=f"{home}/0"),), f"{home}/0")
            for part in parts
        ]
    pieces = []
    while sum(piece.part.rows for piece in pieces) < PAGES:
        copy = f"{home}/{len(pieces)}"
        pieces += [Piece(FIT, part, (replace(spec, home=copy),), copy) for part in parts]
    return pieces


def _bare(arguments: tuple[str, Sequence]) -> int:  # type: ignore[type-arg]
    from ecgscan_ray.benchmark.extract import Extractor
    from ecgscan_ray.cores import limit_threads

    limit_threads(1)
    store, pieces = arguments
    extractor = Extractor(store)
    for piece in pieces:
        extractor.write(piece)
    return sum(piece.part.rows for piece in pieces)


def _measure(run: str, store: str, drawn: bool, home: str) -> dict[str, float]:
    from ecgscan_ray.runtime.features import write_features

    bare, by_ray = (_pieces(run, store, drawn, f"{home}/{kind}") for kind in ("bare", "ray"))
    start = time.perf_counter()
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
        pages = sum(pool.map(_bare, [(store, bare[first::CORES]) for first in range(CORES)]))
    bare_s, start = time.perf_counter() - start, time.perf_counter()
    write_features(store, by_ray, home, cpus=0.5)
    ray_s = time.perf_counter() - start
    return {"pages": pages, "pages_per_s": pages / ray_s, "bare_pages_per_s": pages / bare_s, "vs_bare": bare_s / ray_s}


def run() -> dict[str, float]:
    """The figures of both kinds."""
    import ray

    from ecgscan_ray.config import ResourceConfig
    from ecgscan_ray.data.unpack import TEST_FOLDS, VALIDATION_FOLDS, unpack_sample
    from ecgscan_ray.runtime.cluster import start_ray
    from ecgscan_ray.runtime.prepare import prepare

    os.environ["OMP_NUM_THREADS"] = "1"  # of the bare processes; Ray says so to its own
    with tempfile.TemporaryDirectory() as folder:
        store, data = f"{folder}/store", str(unpack_sample(f"{folder}/data"))
        prepare("ptbxl", data, store, validation_folds=VALIDATION_FOLDS, test_folds=TEST_FOLDS)
        run_folder = _untrained_run(Path(folder) / "run")
        start_ray(ResourceConfig(), dashboard=False)
        figures = _measure(run_folder, store, False, f"{folder}/read")
        drawn = _measure(run_folder, store, True, f"{folder}/drawn")
        ray.shutdown()
    return {**figures, **{f"drawn.{name}": value for name, value in drawn.items()}, "cores": float(CORES)}
