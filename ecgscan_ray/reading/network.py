"""The network that reads a row: how high the trace runs in each column."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecgscan_ray.rectification.networks import conv, up

ROW_BIN = 2
"""px of a row's height in one bin of ``RowNet``'s output."""
NEAR, SURE = 40, 4
"""Bins on either side of the strongest: over which the height is a mean (20 mm; over 2 mm real pictures are read 0.3 dB
worse), and whose share is the belief (2 mm)."""


class RowNet(nn.Module):
    """The height of the trace in each column of a row, the row's zero line in the middle.

    A row is seen at 4 px/mm down and 8 across: a column is 5 ms at 25 mm/s, so that a QRS stroke spans several. Inside, it is
    read at 4 px/mm both ways; the last layers give two columns for each.

    ``forward``: (N, 3, H, W), multiples of 16 and 32 -> logits over height (N, H/2, W), logit of presence (N, W).
    """

    def __init__(self) -> None:
        super().__init__()
        self.level0 = nn.Sequential(conv(3, 16, 2, 5), conv(16, 24))
        self.down1 = nn.Sequential(conv(24, 48, 2), conv(48, 48))
        self.down2 = nn.Sequential(conv(48, 64, 2), conv(64, 64))
        self.down3 = nn.Sequential(conv(64, 96, 2), conv(96, 96))
        self.down4 = nn.Sequential(conv(96, 128, 2), conv(128, 128), conv(128, 96))
        self.up3 = conv(96 + 96, 64)
        self.up2 = conv(64 + 64, 48)
        self.up1 = conv(48 + 48, 20)
        self.height = nn.Sequential(conv(20 + 24, 24), nn.Conv2d(24, 2, 3, 1, 1))
        self.presence = nn.Sequential(
            nn.Conv1d(20, 32, 5, 1, 2), nn.ReLU(inplace=True), nn.Conv1d(32, 32, 9, 1, 4), nn.ReLU(inplace=True),
            nn.Conv1d(32, 2, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.level0((x - 0.7) / 0.2)
        b = self.down1(a)
        c = self.down2(b)
        d = self.down3(c)
        e = self.down4(d)
        d = self.up3(torch.cat([up(e, d), d], 1))
        c = self.up2(torch.cat([up(d, c), c], 1))
        b = up(self.up1(torch.cat([up(c, b), b], 1)), a)
        height = self.height(torch.cat([b, a], 1))  # (N, 2, H/2, W/2)
        return height.permute(0, 2, 3, 1).flatten(2), self.presence(b.amax(2)).transpose(1, 2).flatten(1)


def heights(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Where the trace runs in each column, and how sure that is.

    Args:
        logits: (N, bins, W) from ``RowNet``.

    Returns:
        (N, W) row of the input, px, and (N, W) belief in 0..1.
    """
    p = logits.float().softmax(1)
    at = torch.arange(p.shape[1], device=p.device).view(1, -1, 1)
    away = (at - p.argmax(1, keepdim=True)).abs()
    belief = (p * (away <= SURE)).sum(1)
    p = p * (away <= NEAR)
    return (p * at).sum(1) / p.sum(1) * ROW_BIN + (ROW_BIN - 1) / 2, belief
