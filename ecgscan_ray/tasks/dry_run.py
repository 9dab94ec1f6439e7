"""What a pretraining would cost, before it starts: counted from store and settings, and two speeds measured here.

Other processes can only make a timing longer. So each is repeated, the fastest is believed, and the spread is said.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer

from ecgscan_ray import text
from ecgscan_ray.batch import Batch, BatchMaker, concatenate
from ecgscan_ray.config import Config
from ecgscan_ray.cores import set_torch_threads, usable_cores
from ecgscan_ray.errors import StoreError
from ecgscan_ray.precision import Precision, choose_precision
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.runs.needs import needs
from ecgscan_ray.runs.spec import total_steps
from ecgscan_ray.store.manifest import read_manifest
from ecgscan_ray.store.shards import iterate_rows
from ecgscan_ray.tasks.fit_to_store import fit_to_store
from ecgscan_ray.tasks.footprint import Footprint, trace_step
from ecgscan_ray.tasks.frozen import with_teacher_settings
from ecgscan_ray.tasks.loading import is_sized_by_settings, without_first_weights
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.tasks.prices import Prices, price
from ecgscan_ray.training.gradients import GradCache
from ecgscan_ray.training.optimizer import build_optimizer
from ecgscan_ray.training.tensors import to_device
from ecgscan_ray.training.timing import PEAK_FLOPS, peak_memory_mb
from ecgscan_ray.training.towers import prepare_towers, train_mode

TOKENIZER_REPORTS = 2000
UNCERTAINTY = "least time: fastest timings, drawing and training at once; most: slowest, one after the other"
ASSUMED_MFU = 0.4
"""Share of a GPU's arithmetic that a step is assumed to use where it cannot be measured: what large vision transformers reach."""
DEFAULT_GPUS = ("L4", "A100", "H100")
"""Estimated without a table of prices."""
LEAST_TIMINGS, MOST_TIMINGS, TIMING_S = 3, 20, 8.0
"""Each timing is repeated until it has taken this many seconds, within these bounds."""


@dataclass(frozen=True)
class Timing:
    """Seconds of the same work, repeated."""

    fastest: float
    slowest: float
    repeats: int

    @classmethod
    def of(cls, work: Callable[[], object]) -> Timing:
        """Do the work, which a first time without a clock has warmed up."""
        seconds: list[float] = []
        while len(seconds) < LEAST_TIMINGS or (sum(seconds) < TIMING_S and len(seconds) < MOST_TIMINGS):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return cls(min(seconds), max(seconds), len(seconds))


def dry_run(config: Config, store: str, prices: Prices | None = None) -> dict[str, Any]:
    """Estimate a run; nothing is written and no cluster is started.

    Rendering is measured on one core of this machine, and time and memory of a step too. Where the run needs GPUs that this
    machine lacks, the memory of a step is traced, and its time follows from its operations and a stated share of what some
    kinds of GPU can do.

    Args:
        config: Settings.
        store: URI of a prepared store.
        prices: An hour's price of each GPU and of a ``cpu`` core.

    Returns:
        Name (with unit) -> figure, in the order to print.

    Raises:
        StoreError: No store, or no training rows.
    """
    set_torch_threads(config.resources.torch_threads)
    manifest = read_manifest(store)
    config = with_teacher_settings(config)[0] if config.teacher.run else config
    batch, workers = config.training.global_batch_size, config.resources.num_workers
    rows = list(iterate_rows(store, manifest, "train", limit=min(batch // workers, TOKENIZER_REPORTS)))
    if not rows:
        raise StoreError("has no training recordings", where=store)
    steps = total_steps(config, manifest)
    config = fit_to_store(config, Pretrain(), store, manifest)
    epochs = steps * batch / manifest.rows("train")
    tokenizer = _tokenizer(config, rows)
    maker = BatchMaker(config, tokenizer)
    rendering, unit = _render(maker, rows[: config.unit_rows])
    row_bytes = sum(array.nbytes for array in cast(dict[str, np.ndarray], unit).values()) / len(unit["position"])
    footprint = _footprint(config, tokenizer, unit)
    counted: dict[str, Any] = {
        "training recordings": manifest.rows("train"),
        "steps": steps,
        "epochs": round(epochs, 1),
        "pages": steps * batch,
        **_size(config, tokenizer),
        **_memory(footprint, config),
        **_workers(config),
        "step": _step_settings(config),
        "batch": f"{batch} rows, {batch * row_bytes / 2**20:.0f} MB; {batch // workers} rows a worker",
        "read from the store": f"{sum(shard.bytes for shard in manifest.shards_of('train')) * epochs / 2**30:.2f} GB",
        "logical CPUs": _cpus(config),
    }
    pages_per_s = len(unit["position"]) / rendering.fastest
    rendered_per_s = pages_per_s * _render_cores(config)
    counted["rendering"] = (
        f"{pages_per_s:.0f} pages/s a core here, about {rendered_per_s:.0f} with the actors asked for"
    )
    if config.resources.use_gpu and not torch.cuda.is_available():
        return counted | _on_gpus(config, steps, footprint, pages_per_s, prices or {})
    step, peak_mb = _time_step(config, tokenizer, maker, rows, batch // workers)
    if workers == 1 or not config.resources.shard_model:
        counted["memory a worker"] = f"{peak_mb:.0f} MB at the peak, measured here{_whose_memory(config)}"
    return counted | _here(config, steps, step, rendering, pages_per_s, prices or {})


def _here(
    config: Config, steps: int, step: Timing, rendering: Timing, pages_per_s: float, prices: Prices
) -> dict[str, Any]:
    """Time and price on machines like this one."""
    batch, workers = config.training.global_batch_size, config.resources.num_workers
    feeding = batch / (pages_per_s * _render_cores(config))
    most = step.slowest + feeding * rendering.slowest / rendering.fastest
    least = max(step.fastest, feeding)
    return {
        "training step": f"{step.fastest:.2f} s on this machine (the slowest of {step.repeats}: {step.slowest:.2f} s)",
        "limited by": "rendering" if feeding > step.fastest else "training",
        "cores a worker needs": f"{batch / workers / step.fastest / pages_per_s:.1f} to be fed",
        "time": _time(steps, workers, least, most),
        **_price_here(config, steps * least / 3600, prices),
        "uncertainty": UNCERTAINTY + busy_note(),
    }


def _price_here(config: Config, hours: float, prices: Prices) -> dict[str, str]:
    """On machines like this one, at the least time."""
    workers, gpu = config.resources.num_workers, config.resources.use_gpu
    cores = usable_cores() if workers == 1 else workers * config.resources.cpus_per_worker + _render_cores(config)
    cost = price(prices, hours, cores, torch.cuda.get_device_name() if gpu else "", workers if gpu else 0)
    return {"price": f"{cost} at the least time"} if cost else {}


def _precision(config: Config) -> Precision:
    """Of the run, where this machine has no GPU too."""
    if config.resources.use_gpu and config.training.precision == "auto":
        return "bf16"
    return choose_precision(config.training.precision, "cpu")


def _footprint(config: Config, tokenizer: Tokenizer, unit: Batch) -> Footprint | None:
    """None with towers of others, which cannot be built without their weights."""
    return trace_step(config, tokenizer, unit, _precision(config)) if is_sized_by_settings(config) else None


def _memory(footprint: Footprint | None, config: Config) -> dict[str, str]:
    if footprint is None:
        return {"memory a worker": "not counted: a tower of another package"}
    return {
        "memory a worker": f"{footprint.memory_bytes / 1e6:.0f} MB at the peak of a step",
        "without activations": f"{footprint.state_bytes / 1e6:.0f} MB of weights, gradients, moments and averages",
        "operations": f"{footprint.flops_a_row / 1e9:.3g} GFLOP a row, forward and backward",
    }


def _whose_memory(config: Config) -> str:
    return "" if config.resources.use_gpu else ", with Python and its libraries"


def _on_gpus(
    config: Config, steps: int, footprint: Footprint | None, pages_per_s: float, prices: Prices
) -> dict[str, Any]:
    """Hours, render cores and price on kinds of GPU that are not here, at an assumed use of their arithmetic."""
    batch, workers = config.training.global_batch_size, config.resources.num_workers
    figures: dict[str, Any] = {"training step": f"not measured: no GPU here; computed at {ASSUMED_MFU:.0%} MFU"}
    if footprint is None:
        return {"training step": "not measured: no GPU here, and operations are not counted"}
    for gpu in [name for name in PEAK_FLOPS if name in prices] or DEFAULT_GPUS:
        rows_per_s = workers * ASSUMED_MFU * PEAK_FLOPS[gpu] / footprint.flops_a_row
        hours, cores = steps * batch / rows_per_s / 3600, math.ceil(rows_per_s / pages_per_s)
        cost = price(prices, hours, cores, gpu, workers)
        figures[f"on {workers} x {gpu}"] = (
            f"{rows_per_s:.0f} rows/s, {cores} cores to draw them, {hours:.2f} h, {hours * workers:.1f} GPU hours"
            + (f", price {cost}" if cost else "")
        )
    return figures


def _workers(config: Config) -> dict[str, str]:
    """Where their number follows the cluster: for which number the figures hold."""
    batch, (*fewer, most) = config.training.global_batch_size, config.resources.worker_counts
    if not fewer:
        return {}
    numbers = f"{', '.join(map(str, fewer))} or {most}, as the cluster has room"
    return {"workers": f"{numbers}; the figures are for {most}. With {fewer[0]}, each holds {batch // fewer[0]} rows"}


def _step_settings(config: Config) -> str:
    """What the settings add to a plain step."""
    training, workers = config.training, config.resources.num_workers
    size = min(training.micro_batch or training.global_batch_size, training.global_batch_size // workers)
    parts = {
        "fused AdamW": config.resources.use_gpu,
        f"micro-batches of {size} rows, whose forward runs twice": size < training.global_batch_size // workers,
        f"learning rates of the tower's layers {training.layer_decay:g} apart": training.layer_decay < 1,
        f"{training.frozen_layers} of its layers frozen": training.frozen_layers,
        "activations of the towers' blocks computed again": training.activation_checkpointing,
        f"weights, gradients and moments shared out among {workers} workers": config.resources.shard_model
        and workers > 1,
        "compiled blocks": training.compile,
        f"running average of the weights ({training.ema_decay:g})": training.ema_decay,
    }
    return ", ".join(part for part, used in parts.items() if used) or "plain"


def _size(config: Config, tokenizer: Tokenizer) -> dict[str, object]:
    with torch.device("meta" if is_sized_by_settings(config) else "cpu"):
        model = Pretrain().build_model(without_first_weights(config), tokenizer)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    return {
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "largest parts": {k: f"{n:,}" for k, n in sorted(parts.items(), key=lambda part: -part[1])[:4]},
    }


def _time(steps: int, workers: int, least: float, most: float) -> str:
    """Of the run, from the least and the most seconds of a step."""
    hours, worker_hours = (f"{_hours(number, least)} to {_hours(number, most)}" for number in (steps, steps * workers))
    return f"{hours} h, {worker_hours} worker hours, validation not counted"


def _hours(steps: int, seconds: float) -> str:
    return f"{steps * seconds / 3600:.2f}"


def busy_note() -> str:
    """A warning where other processes keep this machine busy: then even the fastest timing is too long."""
    load, cores = os.getloadavg()[0], usable_cores()
    return f". This machine is busy (load {load:.1f} on {cores} cores): when idle it is faster" if load > cores else ""


def _cpus(config: Config) -> dict[str, str]:
    """Logical CPUs that each kind of process holds."""
    counts: Counter[str] = Counter()
    for need in needs(config):
        counts[f"{need.part}s"] += need.resources["CPU"]  # type: ignore[assignment]  # a Counter adds floats too
    return {part: f"{cpus:g}" for part, cpus in counts.items() if cpus}


def _render_cores(config: Config) -> int:
    """Cores that render: one an actor; actors that reserve less than a whole CPU share this machine."""
    actors = config.resources.render_actors
    return actors if config.resources.cpus_per_render_actor >= 1 else min(actors, usable_cores())


def _tokenizer(config: Config, rows: list[Recording]) -> Tokenizer:
    if config.model.text.name != "small":
        return text.load_tokenizer(config.model.text.name)
    return text.fit_tokenizer([row.report or "" for row in rows], config.model.text.vocab_size)


def _render(maker: BatchMaker, rows: list[Recording]) -> tuple[Timing, Batch]:
    """Seconds to draw the pages on one core with warm caches, and their batch; every repeat draws other pages."""
    epochs = itertools.count(1)

    def draw() -> Batch:
        return maker.make(rows, range(len(rows)), [next(epochs)] * len(rows))

    batch = draw()
    return Timing.of(draw), batch


def _time_step(
    config: Config, tokenizer: Tokenizer, maker: BatchMaker, rows: list[Recording], size: int
) -> tuple[Timing, float]:
    """Optimiser steps on one worker's share of the batch: their time, and the most memory they have held, in 10^6 bytes."""
    device = torch.device("cuda" if config.resources.use_gpu else "cpu")
    repeated = [rows[k % len(rows)] for k in range(size)]
    parts = [repeated[k : k + 64] for k in range(0, size, 64)]
    batch = concatenate([maker.make(part, range(len(part)), [0] * len(part)) for part in parts])
    tensors = to_device(batch, device, config.model.signal_fs)
    model = Pretrain().build_model(config, tokenizer).to(device).to(memory_format=torch.channels_last)
    prepare_towers(model, config.training)
    train_mode(model)
    optimizer, precision = build_optimizer(model, config.training), choose_precision(config.training.precision, device)
    gradients = GradCache(model, model, Pretrain().build_loss(config), config.training.micro_batch, precision)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        _, losses = gradients(tensors, 0.0, 0)
        optimizer.step()
        losses["loss"].item()  # waits for the device

    step()  # the first one also allocates
    return Timing.of(step), peak_memory_mb(device)
