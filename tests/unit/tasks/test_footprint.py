"""What is traced without computing agrees with what a real step takes."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ecgscan_ray import text
from ecgscan_ray.batch import Batch, BatchMaker
from ecgscan_ray.config import Config, load
from ecgscan_ray.tasks.footprint import trace_step
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.gradients import GradCache
from ecgscan_ray.training.optimizer import build_optimizer
from ecgscan_ray.training.tensors import to_device
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
    """Operations of a row, and the most bytes that torch holds at once in a second step, when the moments are there."""
    torch.set_num_threads(1)
    model = Pretrain().build_model(config, TOKENIZER).train()
    prepare_towers(model, config.training)
    optimizer, loss = build_optimizer(model, config.training), Pretrain().build_loss(config)
    gradients = GradCache(model, model, loss, config.training.micro_batch, "fp32")
    batch = to_device(a_batch(config, config.training.global_batch_size), CPU, config.model.signal_fs)

    def step() -> None:
        gradients(batch, 0.0, 0)
        optimizer.step()

    step()
    optimizer.zero_grad(set_to_none=True)
    tensors = [*model.state_dict().values(), *cast(dict[str, Tensor], batch).values()]
    tensors += [moment for moments in optimizer.state.values() for moment in moments.values()]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return gradients.flops_a_row, sum(tensor.nbytes for tensor in tensors) + max(itertools.accumulate(sizes))


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


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("laptop", ["training.global_batch_size=16"]),
        pytest.param("laptop", ["model.input=image", "training.global_batch_size=24"], marks=pytest.mark.verify),
        pytest.param("paper", ["training.global_batch_size=2"], marks=pytest.mark.verify),
    ],
)
def test_a_step_holds_what_is_traced(preset: str, changes: list[str]) -> None:
    """The whole model on a CPU; for preset paper 8 GB and some minutes."""
    config = load(Config, preset, [*changes, "resources.num_workers=1", "stream.unit_rows=2"])
    traced = trace_step(config, TOKENIZER, a_batch(config, 2), "fp32")
    flops, held = real_step(config)
    print(
        f"{preset}: traced {traced.memory_bytes / 1e6:.0f} MB, held {held / 1e6:.0f} MB; {flops / 1e9:.1f} GFLOP a row"
    )
    assert traced.flops_a_row == pytest.approx(flops, rel=0.02)
    assert traced.memory_bytes == pytest.approx(held, rel=0.05)
