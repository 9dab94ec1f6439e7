"""Towers and a loss of a few numbers, in fp64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.distributed import global_mean
from ecgscan_ray.objective.contrastive import gather_features, pair_losses, triplet_loss
from ecgscan_ray.training.gradients import GradCache
from tests.unit.objective.batches import flags

ROWS = 8


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
