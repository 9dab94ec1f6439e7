"""Two processes give the gradient of one: with micro-batches, the norms of terms and the logged loss too; and the rectifier's."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ecgscan_ray.training.gradients import GradCache
from ecgscan_ray.training.meters import Meter, read_values
from tests.processes import ProcessPool
from tests.unit.objective import test_rectifier as rectifier
from tests.unit.training.toy import ROWS, Toy, ToyObjective, toy_batch, toy_gradients

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


def averaged_gradients_of_the_rectifier() -> dict[str, Tensor]:
    share = rectifier.ROWS // dist.get_world_size()
    found = rectifier.gradients_of(slice(dist.get_rank() * share, (dist.get_rank() + 1) * share))
    for grad in found.values():
        dist.all_reduce(grad)
        grad /= dist.get_world_size()
    return found


def test_two_processes_give_the_gradients_of_the_rectifiers_losses(process_pool: ProcessPool) -> None:
    """One of them has a page that failed, so that the counts differ. (Batch norm is another matter: see ``pretrain``.)"""
    averaged, expected = (
        process_pool.run(2, averaged_gradients_of_the_rectifier)[0],
        rectifier.gradients_of(slice(None)),
    )
    assert averaged.keys() == expected.keys() and len(expected) == 7 + 5
    for name, grad in expected.items():
        torch.testing.assert_close(averaged[name], grad, rtol=1e-10, atol=1e-12, msg=name)
