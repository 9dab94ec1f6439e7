"""Micro-batches change no gradient: on the real model, in fp64, with dropout, and data-parallel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.objective.objective import Objective
from ecgscan_ray.training.gradients import GradCache
from ecgscan_ray.training.tensors import to_device
from tests.records import recording
from tests.tiny import tiny_config
from tests.unit.training.toy import Toy, ToyObjective, toy_batch, toy_gradients

STILL = {"lead_dropout": 0.0, "gain": 0.0, "noise_mv": 0.0, "token_dropout": 0.0}


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 8, 100])
def test_micro_batches_give_the_gradient_of_the_whole_batch(micro_batch: int) -> None:
    for found, expected in zip(toy_gradients(micro_batch)[0], toy_gradients(None)[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_norms_of_terms_are_those_of_their_gradients_and_change_nothing(micro_batch: int | None) -> None:
    model, batch = Toy(), toy_batch()
    losses = ToyObjective()(model(batch), batch, 0.0)
    grads, norms = toy_gradients(micro_batch, per_term_norms=True)
    assert norms.keys() == {"gram_gradient_norm", "pair_gradient_norm", "reconstruction_gradient_norm"}
    for name, norm in norms.items():
        term = losses[name.replace("_gradient_norm", "_loss")]
        expected = torch.autograd.grad(term, list(model.page.tower.parameters()), retain_graph=True)
        torch.testing.assert_close(norm, torch.cat([g.flatten() for g in expected]).norm())
    for found, expected in zip(grads, toy_gradients(None)[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_both_passes_draw_the_same_dropout() -> None:
    model, batch = Toy(dropout=0.5), toy_batch()
    GradCache(model, model, ToyObjective(), 4, "fp32")(batch, 0.0, 7)  # type: ignore[arg-type]
    found = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
    model.zero_grad()
    outputs = []
    for k in range(2):
        torch.manual_seed(7 + k)
        outputs.append(model({name: value[4 * k : 4 * k + 4] for name, value in batch.items()}))
    joint = {name: torch.cat([o[name] for o in outputs]) for name in outputs[0] if name != "scale"}
    ToyObjective()(joint | {"scale": outputs[0]["scale"]}, batch, 0.0)["loss"].backward()
    for mine, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("constant", [float("inf"), float("nan")])
def test_a_term_that_is_not_finite_spoils_every_gradient(constant: float, micro_batch: int | None) -> None:
    model = Toy()
    GradCache(model, model, ToyObjective(constant), micro_batch, "fp32")(toy_batch(), 0.0, 0)
    assert all(p.grad is not None and p.grad.isnan().all() for p in model.parameters())


def test_the_real_model_in_micro_batches() -> None:
    tokenizer = text.fit_tokenizer(["sinusrhythmus normales ekg"], 300)
    config = tiny_config(training__augment=STILL)
    rows = [recording(str(n), seed=n, report=f"sinusrhythmus {n}") for n in range(6)]
    batch = BatchMaker(config, tokenizer).make(rows, range(6), [0] * 6)
    tensors = to_device(batch, "cpu", config.model.signal_fs)
    found = []
    for micro_batch in (None, 4):
        torch.manual_seed(0)
        model = ECGScan(config, tokenizer.get_vocab_size()).train()
        model.page.dropout.p = 0.0
        output, _ = GradCache(model, model, Objective(config.objective), micro_batch, "fp32")(tensors, 0.5, 0)
        assert output["redrawn_mv"].shape == (6, 12, 1000) and not output["redrawn_mv"].requires_grad
        found.append({name: p.grad for name, p in model.named_parameters()})
    largest = max(
        float(grad.abs().max()) for grad in found[0].values()
    )  # biases before a norm: sums that nearly cancel
    for name, grad in found[0].items():
        assert grad is not None
        torch.testing.assert_close(found[1][name], grad, rtol=1e-3, atol=1e-5 * largest, msg=name)


def test_batch_norm_and_micro_batches_do_not_go_together() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(ConfigError, match=r"training\.micro_batch: the model has batch norm"):
        GradCache(model, model, ToyObjective(), 2, "fp32")  # type: ignore[arg-type]
    GradCache(model, model, ToyObjective(), None, "fp32")  # type: ignore[arg-type]
