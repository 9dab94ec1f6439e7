"""The gradient on 1, 2 and 4 real processes is that of one process with the joint batch, to the last digits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from ecgscan_ray.config import ObjectiveConfig
from ecgscan_ray.objective.objective import Objective
from tests.processes import ProcessPool
from tests.unit.objective.batches import DIM, joint_batch

SHARES = {1: [[8]], 2: [[4, 4], [5, 3]], 4: [[2, 2, 2, 2], [3, 1, 1, 3]]}
"""World size -> rows of each rank, evenly and unevenly."""


def settings() -> Iterator[tuple[str, ObjectiveConfig]]:
    """Each loss with each block size, with masks and centring."""
    for triple, pair, block_rows in itertools.product(("gram", "triangle"), ("infonce", "siglip"), (None, 1, 3)):
        if (triple, pair) in (("gram", "infonce"), ("triangle", "siglip")):
            yield (
                f"{triple}, {pair}, blocks of {block_rows}",
                ObjectiveConfig(
                    triple=triple,
                    pair=pair,
                    block_rows=block_rows,
                    center_targets=block_rows == 3,
                ),
            )


def gradients(
    config: ObjectiveConfig, raw: dict[str, torch.Tensor], batch: dict[str, torch.Tensor], equal_rows: bool = True
) -> dict[str, dict[str, torch.Tensor]]:
    """Each term, and its gradient in a shared matrix and in scalars that stand for the model's parameters."""
    weight = torch.eye(DIM, dtype=torch.float64).requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    output = {
        name: torch.nn.functional.normalize(value @ weight, dim=-1) if name.endswith("features") else value * scale
        for name, value in raw.items()
    }
    output |= {"gram_logit_scale": scale * 5, "pair_logit_scale": scale * 5, "pair_logit_bias": -scale}
    losses = Objective(config, equal_rows=equal_rows)(output, batch, progress=0.5)
    terms = {}
    for name, loss in losses.items():
        if loss.requires_grad:
            grads = torch.autograd.grad(loss, (weight, scale), retain_graph=True, allow_unused=True)
            terms[name] = {"value": loss.detach(), "weight": grads[0], "scale": grads[1]}
    return {name: {k: v for k, v in parts.items() if v is not None} for name, parts in terms.items()}


def averaged_gradients(backend: str) -> dict[tuple[str, tuple[int, ...]], dict[str, dict[str, torch.Tensor]]]:
    """Of every setting and sharing of rows, averaged over the ranks as DDP does."""
    index, world, device = dist.get_rank(), dist.get_world_size(), torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    raw, batch = ({name: value.to(device) for name, value in part.items()} for part in joint_batch())
    averages = {}
    for shares in SHARES[world]:
        rows = slice(sum(shares[:index]), sum(shares[: index + 1]))
        local = {k: v[rows] for k, v in raw.items()}, {k: v[rows] for k, v in batch.items()}
        for name, config in settings():
            result = gradients(config, *local, equal_rows=len(set(shares)) == 1)
            for parts in result.values():
                for value in parts.values():
                    dist.all_reduce(value)
                    value /= world
            averages[name, tuple(shares)] = {k: {n: v.cpu() for n, v in parts.items()} for k, parts in result.items()}
    return averages


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
@pytest.mark.parametrize("world", SHARES)
def test_gradients_equal_a_single_process(world: int, backend: str, process_pool: ProcessPool) -> None:
    if backend == "nccl" and torch.cuda.device_count() < world:
        pytest.skip(f"NCCL needs a GPU for each of {world} workers; with gloo the same test runs everywhere")
    averages = process_pool.run(world, averaged_gradients, backend, backend=backend)[0]
    for name, config in settings():
        expected = gradients(config, *joint_batch())
        for shares in SHARES[world]:
            assert averages[name, tuple(shares)].keys() == expected.keys() and len(expected) == 6
            for term, parts in expected.items():
                for part, value in parts.items():
                    torch.testing.assert_close(
                        averages[name, tuple(shares)][term][part],
                        value,
                        rtol=1e-10,
                        atol=1e-10,
                        msg=f"{name}, {shares}: {part} of {term}",
                    )
