"""All of a step's time is of some phase; the operations of a model are counted once, whatever computes them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ecgscan_ray.training import timing
from ecgscan_ray.training.gradients import GradCache
from ecgscan_ray.training.timing import PHASES, PhaseTimer, peak_flops
from tests.unit.training.toy import Toy, ToyObjective, toy_batch


def test_phases_are_all_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(seconds)))  # each mark takes a second
    timer = PhaseTimer(torch.device("cpu"))
    for _ in range(2):
        for phase in ("data_wait", "host_to_device", "forward", "loss"):
            timer.start(phase)
        with timer.within("communication"):
            pass
        timer.start("optimizer")
        timer.start("other")
        timer.add_step(rows=6)
    figures = timer.read()
    assert figures["seconds"] == 17 == 2 * sum(figures[f"{phase}_s"] for phase in PHASES)
    assert (figures["step_s"], figures["loss_s"], figures["communication_s"]) == (8.5, 2.0, 1.0)
    assert figures["images_per_s"] == pytest.approx(12 / 17) and figures["data_wait_share"] == pytest.approx(2 / 17)
    timer.start("optimizer")
    assert timer.read()["other_s"] == 1.0, "what came after the last call"


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_operations_of_a_row_are_those_of_the_model_once(micro_batch: int | None) -> None:
    model = Toy()
    gradients = GradCache(model, model, ToyObjective(), micro_batch, "fp32")  # type: ignore[arg-type]
    gradients(toy_batch(), 0.0, 0)
    assert gradients.flops_a_row == 3 * (3 * 2 * 5 * 6), "three layers of 5 x 6; backward is twice forward"


class Attention(nn.Module):
    """Two heads over the rows' own tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, batch: Any) -> dict[str, torch.Tensor]:
        return {"x": nn.functional.scaled_dot_product_attention(*[batch["x"] * self.scale] * 3)}


def sum_loss(output: Any, batch: Any, progress: float) -> dict[str, torch.Tensor]:
    return {"loss": output["x"].sum()}


def test_attention_on_a_cpu_is_counted_as_its_products() -> None:
    batch: Any = {"x": torch.randn(4, 2, 16, 8), "page_ok": torch.ones(4, dtype=torch.bool)}
    counts = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        model = Attention()
        gradients = GradCache(model, model, sum_loss, None, "fp32")
        with sdpa_kernel(backend):
            gradients(batch, 0.0, 0)
        counts.append(gradients.flops_a_row)
    assert counts == [3 * 2 * (2 * 16 * 16 * 8 * 2)] * 2


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12),
        ("Some other", None),
    ],
)
def test_a_gpu_is_known_by_its_name(name: str, flops: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda")) == flops
    assert peak_flops(torch.device("cpu")) is None
