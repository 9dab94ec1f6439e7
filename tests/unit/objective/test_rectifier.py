"""Losses of the reader's networks: finite, 0 for a perfect output, blind to pages that failed."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from ecgscan_ray.objective.rectifier import WEIGHTS, RectifierObjective, reader_errors, summarise
from ecgscan_ray.reading.maker import DeviceSamples, SampleMaker, samples_to_device
from ecgscan_ray.reading.page_reader import ReaderOutput
from tests.records import recording
from tests.tiny import tiny_reader_config

ROWS = 4
CERTAIN = 40.0
"""Logit of what is sure."""


@functools.cache
def samples() -> DeviceSamples:
    """Of four pages, the third of which could not be drawn."""
    rows = [recording(str(n), seed=n) for n in range(ROWS)]
    rows[2] = recording("empty", signal_mv=np.full((12, 1000), np.nan, np.float32))
    return samples_to_device(SampleMaker(tiny_reader_config()).make(rows, range(ROWS), [0] * ROWS), "cpu")


def of_rows(tensors: dict[str, Tensor], rows: slice | list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in tensors.items()}


def random_output(dtype: torch.dtype = torch.float32) -> ReaderOutput:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "coarse_maps": (ROWS, 4, 3, 48, 64),
        "coarse_turns": (ROWS, 4, 4),
        "page_maps": (ROWS, 24, 40, 40),
        "row_heights": (ROWS, 120, 1024),
        "row_presence": (ROWS, 1024),
    }
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}  # type: ignore[return-value]


def perfect_output(batch: DeviceSamples) -> ReaderOutput:
    """What a network without any error would say."""
    coarse, page, height = batch["coarse_target"], batch["page_target"], batch["row_height"]
    maps = torch.cat([(coarse[:, :, :1] * 2 - 1) * CERTAIN, coarse[:, :, 1:]], 2)
    bins = torch.arange(120)[:, None] * 2 + 0.5
    return {
        "coarse_maps": maps,
        "coarse_turns": torch.nn.functional.one_hot(batch["coarse_turns"], 4) * CERTAIN,
        "page_maps": torch.cat([page[:, :8], page[:, 8:].logit(1e-7)], 1),
        "row_heights": -0.5 * ((bins - height.nan_to_num()[:, None]) / 1.6) ** 2,
        "row_presence": (batch["row_trace"] * 2.0 - 1) * CERTAIN,
    }


def test_a_perfect_output_costs_nothing_and_has_no_error() -> None:
    batch = samples()
    terms = RectifierObjective()(perfect_output(batch), batch)
    assert terms.keys() == {*WEIGHTS, "loss"}
    for name, term in terms.items():
        assert abs(term) < 1e-4, name
    means = summarise(reader_errors(perfect_output(batch), batch))
    right = {"turn_right", "presence_right", "grid_length_5mm", "grid_length_1mm"}
    for name, value in means.items():
        assert value == pytest.approx(1.0, abs=1e-5) if name in right else value < 1e-2, name


def test_each_term_notices_its_own_error() -> None:
    batch = samples()
    for name, (key, change) in {
        "coarse_page_loss": ("coarse_maps", lambda x: torch.cat([-x[:, :, :1], x[:, :, 1:]], 2)),
        "coarse_frame_loss": ("coarse_maps", lambda x: torch.cat([x[:, :, :1], x[:, :, 1:] + 0.1], 2)),
        "coarse_turn_loss": ("coarse_turns", lambda x: x.roll(1, -1)),
        "grid_loss": ("page_maps", lambda x: torch.cat([x[:, :8].roll(1, -1), x[:, 8:]], 1)),
        "marks_loss": ("page_maps", lambda x: torch.cat([x[:, :8], x[:, 8:].roll(1, -1)], 1)),
        "height_loss": ("row_heights", lambda x: x.roll(1, 1)),
        "presence_loss": ("row_presence", lambda x: -x),
    }.items():
        output = perfect_output(batch)
        output[key] = change(output[key])  # type: ignore[literal-required]
        wrong = [term for term, value in RectifierObjective()(output, batch).items() if value > 0.01]
        assert wrong == [name, "loss"]


def test_errors_are_in_mm() -> None:
    batch = samples()
    output = perfect_output(batch)
    output["coarse_maps"][:, :, 1] += 0.03
    output["page_maps"][:, [0, 1]] = (
        output["page_maps"][:, [1, 0]] * torch.tensor([-1.0, 1.0])[:, None, None]
    )  # 90 degrees
    output["row_heights"] = output["row_heights"].roll(2, 1)
    means = summarise(reader_errors(output, batch))
    assert means["coarse_across_mm"] == pytest.approx(3.0, abs=1e-3) and means["coarse_down_mm"] < 1e-4
    assert means["grid_mm"] == pytest.approx(5 / 4 / 2, abs=1e-4), "a quarter of 5 mm in one of two directions"
    assert means["height_median_mm"] == pytest.approx(1.0, abs=0.01), "two bins of 2 px at 4 px/mm"


def test_random_outputs_in_bf16_too_give_finite_losses_and_gradients() -> None:
    output = {name: value.bfloat16().requires_grad_() for name, value in random_output().items()}  # type: ignore[attr-defined]
    terms = RectifierObjective()(output, samples())  # type: ignore[arg-type]
    assert all(torch.isfinite(term) for term in terms.values()) and terms["loss"].dtype == torch.float32
    terms["loss"].backward()
    assert all(value.grad.isfinite().all() and value.grad.abs().sum() > 0 for value in output.values())


def test_pages_that_could_not_be_drawn_do_not_count() -> None:
    batch, output = samples(), random_output()
    good = [0, 1, 3]
    whole = RectifierObjective()(output, batch)
    rest = RectifierObjective()(of_rows(output, good), of_rows(batch, good))  # type: ignore[arg-type]
    for name, value in whole.items():
        torch.testing.assert_close(value, rest[name], msg=name)
    none = RectifierObjective()(of_rows(output, [2]), of_rows(batch, [2]))  # type: ignore[arg-type]
    assert all(value == 0 for value in none.values())
    assert all(value == 0 for value in summarise(reader_errors(of_rows(output, [2]), of_rows(batch, [2]))).values())  # type: ignore[arg-type]


def gradients_of(rows: slice) -> dict[str, Tensor]:
    """Of each term in numbers that stand for the networks' weights: one for each place of each output."""
    weights = {name: torch.ones(value.shape[1:], dtype=torch.float64) for name, value in random_output().items()}  # type: ignore[attr-defined]
    weights = {name: weight.requires_grad_() for name, weight in weights.items()}
    output = {name: value[rows] * weights[name] for name, value in random_output(torch.float64).items()}  # type: ignore[attr-defined]
    terms = RectifierObjective()(output, of_rows(samples(), rows))  # type: ignore[arg-type]
    found = {}
    for name, term in terms.items():
        grads = torch.autograd.grad(term, list(weights.values()), retain_graph=True, allow_unused=True)
        found |= {f"{name} in {key}": grad for key, grad in zip(weights, grads, strict=True) if grad is not None}
    return found
