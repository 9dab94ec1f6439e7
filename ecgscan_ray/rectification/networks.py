"""Two small networks: where the page lies in a picture, and what is printed where on it.

Both take RGB in 0..1 and are fully convolutional; they share no weights, since each sees the page at its own scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.rectification.channels import PAGE_CHANNELS


def conv(inputs: int, outputs: int, stride: int | tuple[int, int] = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def up(x: Tensor, like: Tensor) -> Tensor:
    """``x`` at the size of ``like``."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class CoarseNet(nn.Module):
    """The page's pose in a whole picture.

    ``forward``: (N, 3, H, W), multiples of 64 -> maps (N, 3, H/8, W/8): logit of page, and x and y of the trace frame's
    millimetres / 100 from its middle, along the axes of the frame that are nearest to the picture's; turns (N, 4): logits
    of how many quarter turns clockwise the page is turned.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down4 = nn.Sequential(conv(3, 16, 2), conv(16, 24, 2), conv(24, 32))
        self.down8 = nn.Sequential(conv(32, 48, 2), conv(48, 48))
        self.down16 = nn.Sequential(conv(48, 64, 2), conv(64, 64))
        self.down32 = nn.Sequential(conv(64, 96, 2), conv(96, 96))
        self.down64 = nn.Sequential(conv(96, 128, 2), conv(128, 128))
        self.everywhere = nn.Linear(128, 128)
        self.up32 = conv(128 + 96, 96)
        self.up16 = conv(96 + 64, 64)
        self.up8 = conv(64 + 48, 64)
        self.maps = nn.Sequential(conv(66, 48), nn.Conv2d(48, 3, 1))
        self.turned = nn.Sequential(conv(96, 64), nn.Conv2d(64, 5, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.down4((x - 0.6) / 0.25)
        b = self.down8(a)
        c = self.down16(b)
        d = self.down32(c)
        e = self.down64(d)
        e = e + self.everywhere(e.mean((2, 3)))[:, :, None, None]
        d = self.up32(torch.cat([up(e, d), d], 1))
        votes = self.turned(d).flatten(2)
        turns = (votes[:, :4] * votes[:, 4:].softmax(-1)).sum(-1)
        c = self.up16(torch.cat([up(d, c), c], 1))
        b = self.up8(torch.cat([up(c, b), b], 1))
        h, w = b.shape[-2:]
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, h, device=b.device), torch.linspace(-1, 1, w, device=b.device), indexing="ij"
        )
        here = torch.stack([x, y]).expand(len(b), -1, -1, -1).to(b.dtype)
        return self.maps(torch.cat([b, here], 1)), turns


class PageNet(nn.Module):
    """What is printed where, on a page that is rectified up to some millimetres, at 3 px/mm.

    ``forward``: (N, 3, H, W), multiples of 32 -> (N, sum of PAGE_CHANNELS, H/8, W/8).
    """

    def __init__(self) -> None:
        super().__init__()
        self.down2 = nn.Sequential(conv(3, 24, 2, 5), conv(24, 24))
        self.down4 = nn.Sequential(conv(24, 40, 2), conv(40, 40))
        self.down8 = nn.Sequential(conv(40, 64, 2), conv(64, 64))
        self.down16 = nn.Sequential(conv(64, 80, 2), conv(80, 80))
        self.down32 = nn.Sequential(conv(80, 96, 2), conv(96, 96), conv(96, 96))
        self.up16 = conv(96 + 80, 80)
        self.up8 = conv(80 + 64, 80)
        self.out = nn.Sequential(conv(80, 64), nn.Conv2d(64, sum(PAGE_CHANNELS.values()), 1))

    def forward(self, x: Tensor) -> Tensor:
        c = self.down8(self.down4(self.down2((x - 0.7) / 0.2)))
        d = self.down16(c)
        e = self.down32(d)
        d = self.up16(torch.cat([up(e, d), d], 1))
        return self.out(self.up8(torch.cat([up(d, c), c], 1)))
