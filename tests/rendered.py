"""Rendered pages with their truth, for tests of what reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper import Renderer, page_key
from ecgscan_ray.rectification.channels import LABELS
from ecgscan_ray.rectification.samples import Drawn
from tests.records import recording


def clean_page(layout: str = "3x4+1", seed: int = 0, signal_mv: np.ndarray | None = None, **page: Any) -> Drawn:
    """A page as a cart prints it, 1333 x 1000 px."""
    looks: dict[str, Any] = {"channels": 3, "fit": "pad", "effects": "clean", "layouts": {layout: 1.0}}
    config = PageConfig(**{"height": 1000, "width": 1333} | looks | page)
    changes = {} if signal_mv is None else {"signal_mv": signal_mv}
    heart = recording("1", seed=seed, fs=250.0, **changes)
    made = Renderer(config).render([heart], np.array([page_key(seed, 0, "1", 0)], np.uint64))
    return Drawn(made.image[0], made.truth[0], heart.signal_mv, heart.fs)


def marks_of(page: Drawn, seen: np.ndarray, false: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What a perfect network says of a page's marks, at 1 mm: (16, H, W), and the lattice's first point.

    Args:
        page: Its truth counts.
        seen: bool (S,): of which strips label and start are seen.
        false: Number of labels that stand anywhere.
        seed: Where.
    """
    truth, rng = page.truth, np.random.default_rng(seed)
    layout, where = truth.layout_at_speed(), truth.geometry
    x, y = np.meshgrid(np.arange(0, truth.page_mm[0]), np.arange(0, truth.page_mm[1]))
    marks = np.full((3 + LABELS, *x.shape), 0.001, np.float32)

    def put(channel: int, at: tuple[float, float]) -> None:
        spot = np.exp(-0.5 * (((x - at[0]) / 2) ** 2 + ((y - at[1]) / 2) ** 2))
        marks[channel] = np.maximum(marks[channel], 0.98 * spot)

    _, cap, right, up = truth.label
    for strip, is_seen in zip(layout.strips, seen, strict=True):
        zero, start = where.baseline(strip), where.start(strip)
        line = np.exp(-0.5 * ((y - zero) / 2) ** 2) * ((x > start) & (x < where.stop(strip)))
        marks[0] = np.maximum(marks[0], 0.98 * line)
        if is_seen:
            put(1, (start, zero))
            put(3 + (strip.lead if strip.sign > 0 else 12), (start + right + 2, zero - up - cap / 2))
    for _ in range(false):
        put(3 + int(rng.integers(LABELS)), (rng.uniform(0, truth.page_mm[0]), rng.uniform(0, truth.page_mm[1])))
    return marks, np.array([0.0, 0.0])
