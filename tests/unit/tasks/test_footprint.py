"""What is traced without computing agrees with what a real step takes."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch

from ecgscan_ray import text
from ecgscan_ray.batch import Batch, BatchMaker
from ecgscan_ray.config import Config, load
from ecgscan_ray.tasks.footprint import trace_step
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.gradients import GradCache
from ecgscan_ray.training.optimizer import build_optimizer
from ecgscan_ray.training.tensors import to_device
from ecgscan_ray.training.timing import peak_memory_mb
from ecgscan_ray.training.towers import prepare_towers
from tests.records import recording
from tests.tiny import tiny_config

TOKENIZER = text.fit_tokenizer(["sinusrhythmus normales ekg", "linksschenkelblock"], 300)
CPU = torch.device("cpu")
VIT = {"name": "vit_tiny_patch16_224", "kwargs": {"depth": 3, "embed_dim": 48, "num_heads": 2}}


def a_batch(config: Config, rows: int) -> Batch:
    recordings = [recording(str(n), seed=n, report=f"sinusrhythmus {n}") for n in range(rows)]
    return BatchMaker(config, TOKENIZER).make(recordings, range(rows), [0] * rows)


def real_step(config: Config) -> tuple[float, float]:
    """Operations of a row, and by how many bytes this process grew."""
    torch.set_num_threads(1)
    batch = a_batch(config, config.training.global_batch_size)
    before = peak_memory_mb(CPU)
    model = Pretrain().build_model(config, TOKENIZER).train()
    prepare_towers(model, config.training)
    optimizer, loss = build_optimizer(model, config.training), Pretrain().build_loss(config)
    gradients = GradCache(model, model, loss, config.training.micro_batch, "fp32")
    gradients(to_device(batch, CPU, config.model.signal_fs), 0.0, 0)
    optimizer.step()
    return gradients.flops_a_row, (peak_memory_mb(CPU) - before) * 1e6


@pytest.mark.parametrize("changes", [{"model__image": VIT, "training__micro_batch": 4}, {"model__input": "leads"}])
def test_operations_are_those_of_a_real_step(changes: dict[str, Any]) -> None:
    config = tiny_config(**changes)
    traced = trace_step(config, TOKENIZER, a_batch(config, 2), "fp32")
    assert traced.flops_a_row == pytest.approx(real_step(config)[0], rel=0.02)
    assert traced.memory_bytes > traced.state_bytes > 0


def test_micro_batches_and_activations_computed_again_take_less_memory() -> None:
    plain, *smaller = (
        trace_step(config, TOKENIZER, a_batch(config, 2), "fp32")
        for config in (
            tiny_config(model__image=VIT, **changes)
            for changes in ({}, {"training__micro_batch": 3}, {"training__activation_checkpointing": True})
        )
    )
    for footprint in smaller:
        assert footprint.memory_bytes < 0.97 * plain.memory_bytes
        assert footprint.state_bytes == plain.state_bytes
        assert footprint.flops_a_row == pytest.approx(plain.flops_a_row, rel=0.01), "some are for a whole micro-batch"
    average = trace_step(
        tiny_config(model__image=VIT, training__ema_decay=0.9), TOKENIZER, a_batch(tiny_config(), 2), "fp32"
    )
    assert average.state_bytes == pytest.approx(plain.state_bytes * 20 / 16, rel=0.01)


@pytest.mark.verify
@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("laptop", ["model.input=image", "model.image.name=convnext_atto", "training.global_batch_size=72"]),
        ("paper", ["training.global_batch_size=2", "training.activation_checkpointing=true"]),
    ],
)
def test_a_process_grows_by_what_is_traced(preset: str, changes: list[str]) -> None:
    """One step of the whole model on a CPU; for preset paper 8 GB and some minutes."""
    config = load(Config, preset, [*changes, "resources.num_workers=1", "stream.unit_rows=2"])
    traced = trace_step(config, TOKENIZER, a_batch(config, 2), "fp32")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        flops, grown = pool.submit(real_step, config).result()
    print(
        f"{preset}: traced {traced.memory_bytes / 1e6:.0f} MB, grown by {grown / 1e6:.0f} MB; {flops / 1e9:.1f} GFLOP a row"
    )
    assert traced.flops_a_row == pytest.approx(flops, rel=0.02)
    assert traced.memory_bytes == pytest.approx(grown, rel=0.15)
