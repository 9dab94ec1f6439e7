"""The whole stream (plan, read, make, batch) beside the maker alone, on as many cores, for three kinds of pages.

``ingest.*``: pictures of the laptop preset's pages; ``ingest.rgb336.*``: of the paper preset's; ``ingest.leads.*``: leads as
read, the laptop preset's own. ``bare`` makes the pages of rows that lie in memory: the renderer alone, or of leads as read
the maker of views. ``work`` also reads these rows from the store, unpacks and tokenises them, in as many processes and without
Ray. ``engine`` is Ray Data's chain with the same blocks and nothing to compute. Both are needed for each page, on the same
cores: the best that the stream can reach beside ``bare`` follows (``vs_bare_bound``). ``dataloader`` is torch's, with the same
reading and making. ``ingest.start.*``: 30 epochs of 10^4, 10^6 and 10^7 recordings, whose shards are links to one file: time from
the manifest to the first batch, and the driver's peak memory.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.config import Config, load
from ecgscan_ray.data.unpack import TEST_FOLDS, VALIDATION_FOLDS, unpack_sample
from ecgscan_ray.runs.spec import RunSpec, total_steps
from ecgscan_ray.store.manifest import read_manifest, write_manifest
from ecgscan_ray.store.shards import ShardWriter, iterate_rows
from ecgscan_ray.store.writing import shard_jobs

CORES = len(os.sched_getaffinity(0))
LARGE = ["training.global_batch_size=64", "stream.unit_rows=64", "resources.num_workers=1", "resources.use_gpu=false"]
SMALL_MACHINE = ["resources.cpus_per_worker=0", "resources.cpus_per_read=0.1", "resources.cpus_per_render_actor=0.5"]
STORE = [f"resources.render_actors={CORES}", "resources.object_store_mb=2000"]
KINDS: dict[str, tuple[str, list[str], int]] = {
    "": ("laptop", ["model.input=image"], 240),
    "rgb336.": ("paper", [*LARGE, *SMALL_MACHINE, *STORE], 120),
    "leads.": ("laptop", [], 160),
}
"""Prefix of the figures -> preset, settings, units to stream."""
SIZES = {"1e4": 10**4, "1e6": 10**6, "1e7": 10**7}
EPOCHS = 30
WARM_UNITS = 24
BARE_UNITS = 48


def _pages(maker: BatchMaker, rows: list[Any], epoch: int) -> None:
    if maker.renderer:
        maker.renderer.render(rows, maker.keys(rows, [epoch] * len(rows)))
    else:
        maker.make(rows, range(len(rows)), [epoch] * len(rows))


def _bare(spec: RunSpec) -> float:
    """Pages a second of one process that makes the pages of the same rows again and again."""
    unit, maker = spec.config.unit_rows, BatchMaker(spec.config, text.parse_tokenizer(spec.tokenizer_json))
    rows = list(iterate_rows(spec.store, spec.manifest, "train", limit=4 * unit))
    _pages(maker, rows[:unit], 0)
    start = time.perf_counter()
    for turn in range(BARE_UNITS):
        _pages(maker, rows[turn % 4 * unit : (turn % 4 + 1) * unit], turn)
    return BARE_UNITS * unit / (time.perf_counter() - start)


def _work(spec: RunSpec, process: int) -> float:
    """Pages a second of one process that reads and makes its share of the plan."""
    units = iter(_Units(spec, CORES * (BARE_UNITS + 2), process))
    next(units)
    start, rows = time.perf_counter(), 0
    for _ in units:
        rows += spec.config.unit_rows
    return rows / (time.perf_counter() - start)


class _Units:
    """The stream's units without Ray: process k makes each ``CORES``-th; in torch's DataLoader it says which it is."""

    def __init__(self, spec: RunSpec, units: int, process: int | None = None) -> None:
        self.spec, self.units, self.process = spec, units, process

    def __iter__(self) -> Iterator[Any]:
        from torch.utils.data import get_worker_info

        from ecgscan_ray.runtime.stream import make_unit, read_span

        spec, worker = self.spec, get_worker_info().id if self.process is None else self.process
        maker, unit = BatchMaker(spec.config, text.parse_tokenizer(spec.tokenizer_json)), spec.config.unit_rows
        for number, (start, stop) in enumerate(spec.plan().spans(0, self.units * unit, unit)):
            if number % CORES == worker:  # a span for each worker in turn: each reads its own row groups
                rows = read_span(spec.store, spec.plan(), start, stop)
                for first in range(0, stop - start, unit):
                    yield make_unit(maker, rows.slice(first, unit))


def _dataloader(spec: RunSpec, units: int) -> Iterable[Any]:
    from torch.utils.data import DataLoader, IterableDataset

    class Dataset(_Units, IterableDataset):  # type: ignore[type-arg]
        pass

    return DataLoader(Dataset(spec, units), batch_size=None, num_workers=CORES, prefetch_factor=4)


def _stream(spec: RunSpec, units: int) -> Iterable[Any]:
    from ecgscan_ray.runtime import stream

    dataset = stream.build(spec, 0, units * spec.config.unit_rows)
    return _batches(dataset, spec)


def _engine(spec: RunSpec, units: int) -> Iterable[Any]:
    """The stream whose actors give the same packed rows and the same arrays again and again."""
    from unittest.mock import patch

    from ecgscan_ray.runtime import stream

    with patch.object(stream, "Read", _SameRows), patch.object(stream, "Render", _SameArrays):
        dataset = stream.build(spec, 0, units * spec.config.unit_rows)
    return _batches(dataset, spec)


def _batches(dataset: Any, spec: RunSpec) -> Iterable[Any]:
    from ecgscan_ray.runtime import stream

    dataset.context.execution_options = stream.execution_options(spec.config)
    ahead = spec.config.stream.prefetch_units
    return dataset.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=ahead)


class _SameRows:
    def __init__(self, spec: RunSpec, part: object) -> None:
        from ecgscan_ray.runtime import stream

        self._unit = spec.config.unit_rows
        start, stop = next(spec.plan().spans(0, 1_000_000, self._unit))
        self._packed = stream.serialise(stream.read_span(spec.store, spec.plan(), start, stop).slice(0, self._unit))

    def __call__(self, spans: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for start, stop in zip(spans["start"].tolist(), spans["stop"].tolist(), strict=True):
            for _ in range(start, stop, self._unit):
                yield {"unit": np.array([self._packed], dtype=object)}


class _SameArrays:
    def __init__(self, spec: RunSpec) -> None:
        from ecgscan_ray.runtime.stream import Render

        self._render, self._arrays = Render(spec), None

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._arrays is None:
            self._arrays = self._render(block)
        return self._arrays


def _rate(batches: Iterable[Any], units: int, rows: int) -> tuple[float, float, np.ndarray]:
    """Pages a second after the first units, s until the first one, and the waits for each of the others in s."""
    times = [time.perf_counter()]
    for _ in islice(batches, units):
        times.append(time.perf_counter())
    waits = np.diff(times)
    return (len(waits) - WARM_UNITS) * rows / float(waits[WARM_UNITS:].sum()), float(waits[0]), waits[WARM_UNITS:]


@contextmanager
def _object_store(figures: dict[str, float]) -> Iterator[None]:
    """Adds the MB of the object store that were taken at most, and the MB that were spilled to the disk."""
    import ray
    from ray._private.internal_api import memory_summary

    done, taken = threading.Event(), [0.0]

    def watch() -> None:
        while not done.wait(0.5):
            free = ray.available_resources().get("object_store_memory", np.nan)
            taken.append(ray.cluster_resources()["object_store_memory"] - free)

    thread = threading.Thread(target=watch)
    thread.start()
    yield
    done.set()
    thread.join()
    spilled = re.search(r"Spilled (\d+) MiB", memory_summary(ray.get_runtime_context().gcs_address, stats_only=True))
    figures["object_store_peak_mb"] = float(np.nanmax(taken)) / 2**20
    figures["spilled_mb"] = float(spilled[1]) if spilled else 0.0


def _measure(kind: str, store: str) -> dict[str, float]:
    import ray

    from ecgscan_ray.runtime.cluster import start_ray

    preset, settings, units = KINDS[kind]
    config, manifest = load(Config, preset, settings), read_manifest(store)
    tokenizer = text.fit_tokenizer(["sinusrhythmus normales ekg"], config.model.text.vocab_size).to_str()
    spec = RunSpec("pretrain", config, store, manifest, tokenizer, total_steps=0, out="")
    rows = config.unit_rows
    with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as pool:
        bare = sum(pool.map(_bare, [spec] * CORES))
        work = sum(pool.map(_work, [spec] * CORES, range(CORES)))
    loader, _, _ = _rate(_dataloader(spec, units), units, rows)
    start_ray(config.resources)
    engine, _, _ = _rate(_engine(spec, units), units, rows)
    figures: dict[str, float] = {}
    with _object_store(figures):
        whole, first, waits = _rate(_stream(spec, units), units, rows)
    ray.shutdown()
    return {
        **figures,
        "pages_per_s": whole,
        "bare_pages_per_s": bare,
        "vs_bare": whole / bare,
        "engine_pages_per_s": engine,
        "work_pages_per_s": work,
        "vs_bare_bound": work * engine / (work + engine) / bare,
        "vs_dataloader": whole / loader,
        "first_batch_s": first,
        "wait_s.p50": float(np.quantile(waits, 0.5)),
        "wait_s.p99": float(np.quantile(waits, 0.99)),
    }


def _large_store(store: str, rows: int, folder: str) -> None:
    """A store of so many training recordings: a shard as ``prepare`` would cut it, and links to it."""
    manifest, group = read_manifest(store), 64
    recordings = list(iterate_rows(store, manifest, "train", limit=group))
    size = next(shard_jobs([{"train": rows}], group)).rows
    Path(folder).mkdir()
    writer = ShardWriter(folder, "train", 0)
    for _ in range(size // group):
        writer.add(recordings)
    shard = writer.close()
    assert shard
    shards = [shard.model_copy(update={"path": f"train-{number:05d}.parquet"}) for number in range(rows // size)]
    for other in shards[1:]:
        os.link(f"{folder}/{shard.path}", f"{folder}/{other.path}")
    write_manifest(folder, manifest.model_copy(update={"shards": shards}))


def _start(store: str) -> tuple[float, float]:
    """Seconds from the manifest to the first batch of a run, and this process's peak memory in MB."""
    import ray

    from ecgscan_ray.runtime.cluster import start_ray

    config = load(Config, "laptop", [f"training.epochs={EPOCHS}", "training.steps=null"])
    tokenizer = text.fit_tokenizer(["sinusrhythmus normales ekg"], config.model.text.vocab_size).to_str()
    start_ray(config.resources)
    began = time.perf_counter()
    manifest = read_manifest(store)
    steps = total_steps(config, manifest)
    spec = RunSpec("pretrain", config, store, manifest, tokenizer, steps, out="")
    next(iter(_stream(spec, steps * config.training.global_batch_size // config.unit_rows)))
    took = time.perf_counter() - began
    ray.shutdown()
    status = Path("/proc/self/status").read_text()
    return took, int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def _starts(store: str, folder: str) -> dict[str, float]:
    figures = {}
    for name, rows in SIZES.items():
        _large_store(store, rows, f"{folder}/{name}")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            took, memory = pool.submit(_start, f"{folder}/{name}").result()
        figures |= {f"ingest.start.{name}.first_batch_s": took, f"ingest.start.{name}.driver_mb": memory}
    return figures


def run() -> dict[str, float]:
    """The figures of all kinds."""
    from ecgscan_ray.runtime.prepare import prepare

    with tempfile.TemporaryDirectory() as folder:
        store, data = f"{folder}/store", str(unpack_sample(f"{folder}/data"))
        prepare("ptbxl", data, store, validation_folds=VALIDATION_FOLDS, test_folds=TEST_FOLDS)
        figures = {f"ingest.{kind}{name}": value for kind in KINDS for name, value in _measure(kind, store).items()}
        figures |= _starts(store, folder)
    return {**figures, "ingest.cores": float(CORES)}
