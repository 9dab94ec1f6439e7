"""Reads the rows of a rectified page: heights of the trace in mm with a belief for each column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ecgscan_ray.precision import fast_cpu_autocast
from ecgscan_ray.reading.network import RowNet, heights
from ecgscan_ray.reading.samples import COLUMN_PX, CUT_HEIGHT, ROW_HEIGHT, ROW_PX, halved
from ecgscan_ray.rectification.page_map import PageMap
from ecgscan_ray.rectification.pose import to_tensor

MARGIN_MM = 20.0


@dataclass(frozen=True)
class Rows:
    """Attributes:
    x_mm: float64 (W,) places of the columns on the page.
    up_mm: float64 (R, W) height of the trace over the row's zero line.
    belief: float32 (R, W) in 0..1; 0 outside the picture.
    present: float32 (R, W) probability that there is a trace; 0 outside the picture.
    zero_mm: (R,) y of the zero lines.
    pictures: uint8 (R, 240, W, 3) what was read.
    """

    x_mm: np.ndarray
    up_mm: np.ndarray
    belief: np.ndarray
    present: np.ndarray
    zero_mm: np.ndarray
    pictures: np.ndarray

    def replaced(self, which: np.ndarray, others: Rows) -> Rows:
        """With the rows ``which``, bool (R,), as in ``others``, which has those alone."""
        of_rows = {name: getattr(self, name).copy() for name in ("up_mm", "belief", "present", "zero_mm", "pictures")}
        for name, values in of_rows.items():
            values[which] = getattr(others, name)
        return Rows(self.x_mm, **of_rows)


@torch.inference_mode()
def read_rows(
    net: RowNet, image: np.ndarray, page_map: PageMap, left: float, zero_mm: np.ndarray, width_mm: float = 250.0
) -> Rows:
    columns = int(np.ceil((width_mm + 2 * MARGIN_MM) * COLUMN_PX / 32) * 32)
    x0 = left - MARGIN_MM
    half = ROW_HEIGHT / 2 / ROW_PX
    cuts = (page_map.cut(image, (x0, y - half), (CUT_HEIGHT, columns), COLUMN_PX) for y in zero_mm)
    pictures = np.stack([halved(cut) for cut in cuts])
    with fast_cpu_autocast():
        logits, there = net(to_tensor(pictures))
    at, belief = heights(logits)
    up = ((ROW_HEIGHT - 1) / 2 - at.numpy()) / ROW_PX
    x = x0 + (np.arange(columns) + 0.5) / COLUMN_PX
    zero = np.asarray(zero_mm, np.float64)
    at_px = page_map.to_pixels(np.stack([np.broadcast_to(x, up.shape), zero[:, None] - up], -1))
    inside = ((at_px >= 0) & (at_px <= np.array(image.shape[1::-1]) - 1)).all(-1)
    present = np.where(inside, torch.sigmoid(there.float()).numpy(), 0).astype(np.float32)
    return Rows(
        x, up.astype(np.float64), np.where(inside, belief.numpy(), 0).astype(np.float32), present, zero, pictures
    )
