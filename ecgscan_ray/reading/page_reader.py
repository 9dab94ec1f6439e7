"""The reader's three networks as one module to train, with running averages of their weights."""

from __future__ import annotations

import copy
from typing import TypedDict

import torch
from torch import Tensor, nn

from ecgscan_ray.reading.maker import DeviceSamples
from ecgscan_ray.reading.network import RowNet
from ecgscan_ray.rectification.networks import CoarseNet, PageNet

MAX_DECAY = 0.99
"""Weight of the old average at each step; less in the first thousand, so that the random start is forgotten."""


class ReaderOutput(TypedDict):
    """What the networks say of a batch of samples (letters as in ``maker``)."""

    coarse_maps: Tensor
    """(N, V, 3, 48, 64): logit of page, x and y in the frame, mm / 100."""
    coarse_turns: Tensor
    """(N, V, 4) logits."""
    page_maps: Tensor
    """(N, 24, 40, 40): vectors, then logits of marks."""
    row_heights: Tensor
    """(N, 120, 1024) logits over height, bins of ``ROW_BIN`` px."""
    row_presence: Tensor
    """(N, 1024) logits."""


class PageReader(nn.Module):
    """``coarse``, ``page`` and ``row``, which are trained, and ``ema``: the same three with averaged weights.

    The averages are what is validated and exported.
    """

    updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.page, self.row = CoarseNet(), PageNet(), RowNet()
        self.ema = copy.deepcopy(self.trained()).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def trained(self) -> nn.ModuleDict:
        """The three networks that the optimiser moves."""
        return nn.ModuleDict({"coarse": self.coarse, "page": self.page, "row": self.row})

    def forward(self, batch: DeviceSamples) -> ReaderOutput:
        """The trained networks' output."""
        return read_samples(self.trained(), batch)

    def forward_averaged(self, batch: DeviceSamples) -> ReaderOutput:
        """The output under the averaged weights."""
        return read_samples(self.ema, batch)

    @torch.no_grad()
    def update_average(self) -> None:
        """After an optimiser step: move the averages towards the weights. Statistics of the norms are averaged too."""
        self.updates += 1
        decay = torch.clamp((1 + self.updates) / (10 + self.updates), max=MAX_DECAY)
        averages = self.ema.state_dict()
        for name, value in self.trained().state_dict().items():
            if value.is_floating_point():
                averages[name].lerp_(value, (1 - decay).to(value.dtype))
            else:
                averages[name].copy_(value)


def read_samples(networks: nn.ModuleDict, batch: DeviceSamples) -> ReaderOutput:
    """Each network on its own samples."""
    coarse = batch["coarse"]
    maps, turns = networks["coarse"](_unit(coarse.flatten(0, 1)))
    heights, presence = networks["row"](_unit(batch["row"]))
    return {
        "coarse_maps": maps.unflatten(0, coarse.shape[:2]),
        "coarse_turns": turns.unflatten(0, coarse.shape[:2]),
        "page_maps": networks["page"](_unit(batch["page"])),
        "row_heights": heights,
        "row_presence": presence,
    }


def _unit(image: Tensor) -> Tensor:
    """uint8 to 0..1."""
    return image.float() / 255
