"""Micro-batches change no gradient: on the real model, in fp64, with dropout, and data-parallel."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.distributed import global_mean
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.objective.contrastive import gather_features, pair_losses, triplet_loss
from ecgscan_ray.objective.objective import Objective
from ecgscan_ray.training.gradients import GradCache
from ecgscan_ray.training.meters import Meter, read_values
from ecgscan_ray.training.tensors import to_device
from tests.processes import ProcessPool
from tests.records import recording
from tests.tiny import tiny_config
from tests.unit.objective.batches import flags

ROWS = 8
STILL = {"lead_dropout": 0.0, "gain": 0.0, "noise_mv": 0.0, "token_dropout": 0.0}


class Toy(nn.Module):
    """Three towers in fp64, a scalar, an output that nobody looks at."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.page = nn.Module()
        self.page.tower = nn.Linear(5, 6)
        self.signal, self.text, self.dropout = nn.Linear(5, 6), nn.Linear(5, 6), nn.Dropout(dropout)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.double()

    def forward(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        page = self.page.tower(tensors["image"])
        return {
            "image_features": F.normalize(self.dropout(page), dim=-1),
            "signal_features": F.normalize(self.signal(tensors["image"] ** 2), dim=-1),
            "text_features": F.normalize(self.text(tensors["image"].tanh()), dim=-1),
            "redrawn_mv": page * 2,
            "count": tensors["layout"] + 1,
            "features": page + 1,
            "scale": self.scale.exp(),
        }


class ToyObjective:
    """``constant`` is a further term, which has no gradient."""

    def __init__(self, constant: float = 0.0) -> None:
        self.constant = constant

    def __call__(self, output: dict[str, Tensor], batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        items = gather_features(output, batch)
        drawn = (output["redrawn_mv"].abs().sum(-1) * batch["page_ok"]).sum()
        losses = {
            "gram_loss": triplet_loss(items, output["scale"]),
            "pair_loss": pair_losses(items, output["scale"])["image_text"],
            "reconstruction_loss": global_mean(drawn, batch["page_ok"].sum()),
        }
        loss = sum(losses.values())
        return {**losses, "constant": torch.tensor(self.constant), "loss": loss}


def toy_batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    ok = torch.tensor([1, 1, 1, 0, 1, 1, 1, 1]).bool()
    return flags(ROWS, page_ok=ok) | {"image": torch.randn(ROWS, 5).double(), "layout": torch.arange(ROWS)}


def toy_gradients(micro_batch: int | None, per_term_norms: bool = False) -> tuple[list[Tensor], dict[str, Tensor]]:
    model = Toy()
    gradients = GradCache(model, model, ToyObjective(), micro_batch, "fp32")  # type: ignore[arg-type]
    norms = gradients.per_term_norms(model.page.tower, toy_batch(), 0.0, 0) if per_term_norms else {}
    _, losses = gradients(toy_batch(), 0.0, 0)
    return [p.grad for p in model.parameters()] + [losses["loss"].detach()], norms  # type: ignore[misc]


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


Shares = dict[int | None, tuple[list[Tensor], dict[str, Tensor], dict[str, float]]]


def gradients_of_shares() -> tuple[Shares, Tensor]:
    """micro_batch -> gradients, norms of terms and logged losses, the rows split over the ranks; a spoiled gradient's norm."""
    index, world = dist.get_rank(), dist.get_world_size()
    results: Shares = {}
    own = slice(index * ROWS // world, (index + 1) * ROWS // world)
    batch = {name: value[own] for name, value in toy_batch().items()}
    model = Toy()
    parallel = DistributedDataParallel(model)
    for micro_batch in (None, 1, 3):
        model.zero_grad()
        gradients = GradCache(model, parallel, ToyObjective(), micro_batch, "fp32")  # type: ignore[arg-type]
        norms = gradients.per_term_norms(model.page.tower, batch, 0.0, 0)
        _, losses = gradients(batch, 0.0, 0)
        meter = Meter()
        meter.add(losses)
        logged = read_values(meter.means(), {}, torch.device("cpu"))
        grads = [p.grad.clone() for p in model.parameters()]  # type: ignore[union-attr]
        results[micro_batch] = grads, norms, logged
    spoiled = ToyObjective(float("inf") if index == 1 else 0.0)  # of one rank alone, and without a gradient
    model.zero_grad()
    GradCache(model, parallel, spoiled, None, "fp32")(batch, 0.0, 0)  # type: ignore[arg-type]
    return results, nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def test_two_workers_with_micro_batches_give_gradient_and_logged_loss_of_one(process_pool: ProcessPool) -> None:
    of_ranks = process_pool.run(2, gradients_of_shares)
    assert all(norm.isnan() for _, norm in of_ranks), "both ranks know that one rank's loss is not finite"
    results, _ = of_ranks[0]
    expected, expected_norms = toy_gradients(None, per_term_norms=True)
    alone = GradCache(Toy(), Toy(), ToyObjective(), None, "fp32")  # type: ignore[arg-type]
    _, losses = alone(toy_batch(), 0.0, 0)
    for micro_batch in (None, 1, 3):
        grads, norms, logged = results[micro_batch]
        for name, loss in losses.items():
            assert logged[name] == pytest.approx(loss.item(), rel=1e-6), "logged is the loss of the whole batch"
        for mine, reference in zip(grads, expected[:-1], strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)
        for name, norm in norms.items():
            torch.testing.assert_close(norm, expected_norms[name], rtol=1e-10, atol=1e-10)


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
