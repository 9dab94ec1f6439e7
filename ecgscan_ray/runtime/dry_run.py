"""What a pretraining would cost, before it starts: counted from store and settings, and two speeds measured here."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
from tokenizers import Tokenizer

from ecgscan_ray import text
from ecgscan_ray.batch import Batch, BatchMaker, concatenate
from ecgscan_ray.config import Config
from ecgscan_ray.cores import set_torch_threads, usable_cores
from ecgscan_ray.errors import StoreError
from ecgscan_ray.objective.objective import Objective
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.runtime.embeddings import under_teacher
from ecgscan_ray.runtime.pretrain import total_steps
from ecgscan_ray.runtime.stream import needs
from ecgscan_ray.store.manifest import read_manifest
from ecgscan_ray.store.shards import iterate_rows
from ecgscan_ray.training.checkpoint import build_model
from ecgscan_ray.training.gradients import Gradients
from ecgscan_ray.training.optimizer import build_optimizer
from ecgscan_ray.training.precision import choose_precision
from ecgscan_ray.training.tensors import to_device

TOKENIZER_REPORTS = 2000
BYTES_PER_PARAMETER = 16
"""fp32 weight, gradient and AdamW's two moments."""


def dry_run(config: Config, store: str) -> dict[str, Any]:
    """Estimate a run; nothing is written and no cluster is started.

    Rendering is measured on one core of this machine. A training step is measured here too, unless the run wants GPUs
    that this machine lacks; then hours are left out rather than guessed.

    Args:
        config: Settings.
        store: URI of a prepared store.

    Returns:
        Name (with unit) -> figure, in the order to print.

    Raises:
        StoreError: No store, or no training rows.
    """
    set_torch_threads(config.resources.torch_threads)
    manifest = read_manifest(store)
    config = under_teacher(config) if config.teacher.run else config
    batch, workers = config.training.global_batch_size, config.resources.num_workers
    rows = list(iterate_rows(store, manifest, "train", limit=min(batch // workers, TOKENIZER_REPORTS)))
    if not rows:
        raise StoreError("has no training recordings", where=store)
    steps = total_steps(config, manifest)
    epochs = steps * batch / manifest.rows("train")
    tokenizer = _tokenizer(config, rows)
    model = build_model(config, tokenizer)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    parameters = sum(p.numel() for p in model.parameters())
    maker = BatchMaker(config, tokenizer)
    pages_per_s, unit = _render(maker, rows[: config.stream.unit_rows])
    row_bytes = sum(array.nbytes for array in unit.values()) / len(unit["position"])
    train_bytes = sum(shard.bytes for shard in manifest.shards_of("train"))
    rendered_per_s = pages_per_s * _render_cores(config)
    estimate: dict[str, Any] = {
        "training recordings": manifest.rows("train"),
        "steps": steps,
        "epochs": round(epochs, 1),
        "pages": steps * batch,
        "parameters": f"{parameters:,}",
        "largest parts": {k: f"{n:,}" for k, n in sorted(parts.items(), key=lambda part: -part[1])[:4]},
        "model memory a worker": f"{parameters * BYTES_PER_PARAMETER / 2**20:.0f} MB, activations not counted",
        "batch": f"{batch} rows, {batch * row_bytes / 2**20:.0f} MB; {batch // workers} rows a worker",
        "read from the store": f"{train_bytes * epochs / 2**30:.2f} GB",
        "logical CPUs": _cpus(config),
        "rendering": f"{pages_per_s:.0f} pages/s a core here, about {rendered_per_s:.0f} with the actors asked for",
    }
    seconds = _step_seconds(config, model, maker, rows, batch // workers)
    if seconds is None:
        return estimate | {"training step": "not measured: the run wants a GPU, this machine has none"}
    needed = max(seconds, batch / rendered_per_s)
    hours = steps * needed / 3600
    return estimate | {
        "training step": f"{seconds:.2f} s on this machine",
        "limited by": "rendering" if needed > seconds else "training",
        "cores a worker wants": f"{batch / workers / seconds / pages_per_s:.1f} to be fed",
        "time": f"{hours:.2f} h, {workers * hours:.2f} worker hours, validation not counted",
    }


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


def _render(maker: BatchMaker, rows: list[Recording]) -> tuple[float, Batch]:
    """Pages a second on one core with warm caches, and the batch."""
    maker.make(rows[:1], [0], [0])
    start = time.perf_counter()
    batch = maker.make(rows, range(len(rows)), [0] * len(rows))
    return len(rows) / (time.perf_counter() - start), batch


def _step_seconds(config: Config, model: Any, maker: BatchMaker, rows: list[Recording], size: int) -> float | None:
    """The faster of two optimiser steps on one worker's share of the batch, or ``None`` without the hardware."""
    if config.resources.use_gpu and not torch.cuda.is_available():
        return None
    device = torch.device("cuda" if config.resources.use_gpu else "cpu")
    some = [rows[k % len(rows)] for k in range(size)]
    parts = [some[k : k + 64] for k in range(0, size, 64)]
    batch = concatenate([maker.make(part, range(len(part)), [0] * len(part)) for part in parts])
    tensors = to_device(batch, device, config.model.signal_fs)
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer, precision = build_optimizer(model, config.training), choose_precision(config.training.precision, device)
    gradients = Gradients(model, model, Objective(config.objective), config.training.micro_batch, precision)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        _, losses, _ = gradients(tensors, 0.0, 0, by_term=False)
        optimizer.step()
        losses["loss"].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times)
