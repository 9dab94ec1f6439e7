"""Reads the rows of a rectified page: heights of the trace in mm with a belief for each column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ecgscan_ray.reading.network import RowNet, heights
from ecgscan_ray.reading.samples import ROW_HEIGHT, ROW_PX
from ecgscan_ray.rectification.page_map import PageMap
from ecgscan_ray.rectification.pose import to_tensor

MARGIN_MM = 20.0


@dataclass(frozen=True)
class Rows:
    """Attributes:
    x_mm: float64 (W,) places of the columns on the page.
    up_mm: float64 (R, W) height of the trace over the row's zero line.
    belief: float32 (R, W) in 0..1.
    present: float32 (R, W) probability that there is a trace.
    zero_mm: (R,) y of the zero lines.
    pictures: uint8 (R, 240, W, 3) what was read.
    """

    x_mm: np.ndarray
    up_mm: np.ndarray
    belief: np.ndarray
    present: np.ndarray
    zero_mm: np.ndarray
    pictures: np.ndarray


@torch.inference_mode()
def read_rows(
    net: RowNet, image: np.ndarray, page_map: PageMap, left: float, zero_mm: np.ndarray, width_mm: float = 250.0
) -> Rows:
    columns = int(np.ceil((width_mm + 2 * MARGIN_MM) * ROW_PX / 16) * 16)
    x0 = left - MARGIN_MM
    half = ROW_HEIGHT / 2 / ROW_PX
    pictures = np.stack([page_map.cut(image, (x0, y - half), (ROW_HEIGHT, columns), ROW_PX) for y in zero_mm])
    with torch.autocast("cpu", torch.bfloat16):
        logits, there = net(to_tensor(pictures))
    at, belief = heights(logits)
    up = ((ROW_HEIGHT - 1) / 2 - at.numpy()) / ROW_PX
    x = x0 + (np.arange(columns) + 0.5) / ROW_PX
    return Rows(
        x, up.astype(np.float64), belief.numpy(), torch.sigmoid(there.float()).numpy(), np.asarray(zero_mm), pictures
    )


def refined_start(rows: Rows, left: float, reach_mm: float = 8.0) -> float:
    """x where the traces begin, mm: the median over the rows of where their presence rises, if most of them agree.

    Args:
        rows: As read.
        left: From the marks, right to ``reach_mm``.
    """
    step = float(rows.x_mm[1] - rows.x_mm[0])
    run = round(4.0 / step)
    starts = []
    for present in rows.present:
        here = (rows.x_mm > left - reach_mm) & (rows.x_mm < left + reach_mm)
        for k in np.flatnonzero(here & (present >= 0.5)):
            if k > 0 and present[k - 1] < 0.5 and present[k : k + run].mean() > 0.8:
                share = (0.5 - present[k - 1]) / max(present[k] - present[k - 1], 1e-6)
                starts.append(rows.x_mm[k - 1] + share * step)
                break
    if len(starts) < max(1, len(rows.present) // 2):
        return left
    middle = float(np.median(starts))
    return middle if np.mean(np.abs(np.array(starts) - middle) < 1.0) >= 0.5 else left
