"""The whole stream (plan, read, render, tokenise, batch) beside the renderer alone on as many cores, laptop preset's pages."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.config import Config, load
from ecgscan_ray.data.unpack import TEST_FOLDS, VALIDATION_FOLDS, unpack_sample
from ecgscan_ray.store.manifest import read_manifest
from ecgscan_ray.store.shards import iterate_rows

UNITS = 240
WARM_UNITS = 24
BARE_ROUNDS = 12


def _bare(store: str, tokenizer_json: str) -> tuple[int, float]:
    """Pages and seconds of one process that renders the same rows again and again."""
    config = load(Config, "laptop")
    unit = config.unit_rows
    maker = BatchMaker(config, text.parse_tokenizer(tokenizer_json))
    rows = list(iterate_rows(store, read_manifest(store), "train", limit=4 * unit))
    maker.make(rows[:unit], range(unit), [0] * unit)
    start = time.perf_counter()
    for turn in range(BARE_ROUNDS * 4):
        some = rows[turn % 4 * unit : (turn % 4 + 1) * unit]
        maker.renderer.render(some, maker.keys(some, [turn] * unit))
    return BARE_ROUNDS * 4 * unit, time.perf_counter() - start


def run() -> dict[str, float]:
    """Pages a second of both, their ratio, and the time to the first unit."""
    from ecgscan_ray.runs.spec import RunSpec
    from ecgscan_ray.runtime import stream
    from ecgscan_ray.runtime.cluster import start_ray
    from ecgscan_ray.runtime.prepare import prepare

    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store"
        prepare(
            "ptbxl",
            str(unpack_sample(f"{folder}/data")),
            store,
            validation_folds=VALIDATION_FOLDS,
            test_folds=TEST_FOLDS,
        )
        config, manifest = load(Config, "laptop"), read_manifest(store)
        tokenizer_json = text.fit_tokenizer(["sinusrhythmus normales ekg"], config.model.text.vocab_size).to_str()
        cores = len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(_bare, [store] * cores, [tokenizer_json] * cores))
        bare = sum(pages / seconds for pages, seconds in parts)
        start_ray(config.resources)
        unit = config.unit_rows
        spec = RunSpec("pretrain", config, store, manifest, tokenizer_json, total_steps=0, out="")
        dataset = stream.build(spec, 0, UNITS * unit)
        dataset.context.execution_options = stream.execution_options(config)
        began, first, steady = time.perf_counter(), 0.0, 0.0
        for count, _ in enumerate(
            dataset.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=config.stream.prefetch_units),
            start=1,
        ):
            first = first or time.perf_counter() - began
            steady = time.perf_counter() if count == WARM_UNITS else steady
        whole = (UNITS - WARM_UNITS) * unit / (time.perf_counter() - steady)
    return {
        "ingest.pages_per_s": whole,
        "ingest.bare_pages_per_s": bare,
        "ingest.vs_bare": whole / bare,
        "ingest.first_unit_s": first,
        "ingest.cores": float(cores),
    }
