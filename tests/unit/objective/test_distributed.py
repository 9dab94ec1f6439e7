"""The gradient on 1, 2 and 4 real processes is that of one process with the joint batch, to the last digits."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ecgscan_ray.config import ObjectiveConfig
from ecgscan_ray.objective.objective import Objective

ROWS, DIM, SAMPLES = 8, 6, 60


def joint_batch() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Raw features (parameters of the test) and a batch with gaps of every kind."""
    torch.manual_seed(0)
    raw = {f"{name}_features": torch.randn(ROWS, DIM, dtype=torch.float64) for name in ("image", "signal", "text")}
    raw["redrawn_mv"] = torch.randn(ROWS, 12, SAMPLES, dtype=torch.float64)
    raw["frame_guess"] = torch.rand(ROWS, 2, 4, 2, dtype=torch.float64)
    for name, votes in (("near", 4), ("edge", 3)):
        raw[f"{name}_logits"] = torch.randn(ROWS, votes, 5, dtype=torch.float64)
        raw[f"{name}_places"] = torch.rand(ROWS, votes, 5, 2, dtype=torch.float64)
    raw["edge_truth"], raw["edge_counts"] = torch.rand(ROWS, 3, 2).double(), torch.ones(ROWS, 3).double()
    raw["layout_logits"] = torch.randn(ROWS, 2, dtype=torch.float64)
    valid = torch.rand(ROWS, 12, SAMPLES) > 0.1
    part = torch.randint(0, 3, (ROWS, 12, SAMPLES))
    batch = {
        "centred_mv": torch.randn(ROWS, 12, SAMPLES, dtype=torch.float64) * valid,
        "valid": valid,
        "frame_corners": torch.rand(ROWS, 4, 2, dtype=torch.float64),
        "layout": torch.arange(ROWS) % 2,
        "shown": part == 0,
        "derivable": part == 1,
        "unseen": part == 2,
        "has_signal": torch.tensor([1, 1, 0, 1, 1, 1, 1, 1]).bool(),
        "has_text": torch.tensor([1, 0, 1, 1, 1, 1, 0, 1]).bool(),
        "law_ok": torch.tensor([1, 1, 1, 1, 0, 0, 0, 1]).bool(),
        "page_ok": torch.tensor([1, 1, 1, 1, 1, 1, 0, 1]).bool(),
        "patient_key": torch.tensor([5, 6, 7, 5, 8, 9, -1, -1]),
        "report_key": torch.tensor([1, -1, 2, 3, 4, 1, -1, 5]),
    }
    return raw, batch


def gradients(raw: dict[str, torch.Tensor], batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Loss and its gradient in a shared matrix that stands for the model's parameters."""
    weight = torch.eye(DIM, dtype=torch.float64).requires_grad_()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    output = {
        name: torch.nn.functional.normalize(value @ weight, dim=-1) if name.endswith("features") else value * scale
        for name, value in raw.items()
    }
    output |= {"gram_logit_scale": scale * 5, "pair_logit_scale": scale * 5}
    loss = Objective(ObjectiveConfig(label_smoothing=0.1))(output, batch, progress=0.5)["loss"]
    loss.backward()
    assert weight.grad is not None and scale.grad is not None
    return {"loss": loss.detach(), "weight": weight.grad, "scale": scale.grad}


def _process(index: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=index, world_size=world)
    raw, batch = joint_batch()
    own = slice(index * ROWS // world, (index + 1) * ROWS // world)
    found = gradients({k: v[own] for k, v in raw.items()}, {k: v[own] for k, v in batch.items()})
    for value in found.values():  # DDP averages gradients over ranks
        dist.all_reduce(value)
        value /= world
    if index == 0:
        torch.save(found, Path(folder) / "found.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_gradient_equals_single_process(world: int, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (world, port, str(tmp_path)), nprocs=world)
    found, expected = torch.load(tmp_path / "found.pt"), gradients(*joint_batch())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)
