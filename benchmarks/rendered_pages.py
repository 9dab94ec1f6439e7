"""Pages of ours to read: drawn of recordings that were not trained on, in the kinds that ``bench_real_pages`` asks about.

``covered`` is a family of effects that nothing was trained on: opaque things on the page (fingers, coins, a pen). No effect of
the renderer hides a part of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.config.loading import read_settings
from ecgscan_ray.paper import LAYOUTS, Renderer, page_key
from ecgscan_ray.recording.recording import Recording

PAGES = 2 * len(LAYOUTS)
"""Of each kind."""
SIZE = (1200, 1600)
SEED = 9
KINDS: dict[str, dict] = {
    "photo": {"effects": "photo"},
    "scan": {"effects": "scan"},
    "fax": {"effects": "fax"},
    "screen": {"effects": "screen"},
    "covered": {"effects": "photo", "is_covered": True},
    "scales": {"effects": "photo", "speeds": {25.0: 0.4, 50.0: 0.6}, "gains": {5.0: 0.4, 10.0: 0.2, 20.0: 0.4}},
}
TRAINED_LAYOUTS = frozenset(read_settings("rectifier")["page"]["layouts"])
"""The reader that comes with the package was trained on these; the others are held out."""


@dataclass(frozen=True)
class RenderedPage:
    """A page that is drawn when it is read.

    Attributes:
        recording: Shown on it.
        settings: Of the page.
        turn: Quarter turns clockwise.
        layout, speed, gain: What is true of it; mm/s and mm/mV.
        is_covered: Whether things lie on it.
    """

    recording: Recording
    settings: PageConfig
    turn: int
    layout: str
    speed: float
    gain: float
    is_covered: bool = False

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3)."""
        key = page_key(SEED, 0, self.recording.id, 0)
        image = Renderer(self.settings).render([self.recording], np.array([key], np.uint64)).image[0]
        if self.is_covered:
            image = covered(np.random.default_rng(key), image)
        return np.ascontiguousarray(np.rot90(image, -self.turn))


def covered(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The picture, uint8 (H, W, 3), with one to three fingers that reach in from its edges, up to two coins and a pen on it."""
    image, (height, width) = image.copy(), image.shape[:2]
    middle = np.array([width, height]) / 2

    def near(share: float) -> np.ndarray:
        return middle + rng.uniform(-share, share, 2) * middle

    def line(start: np.ndarray, stop: np.ndarray, thick: float, colour: np.ndarray) -> None:
        ends = (tuple(int(v) for v in np.rint(end)) for end in (start, stop))
        cv2.line(image, *ends, colour.tolist(), max(1, round(thick * width)), cv2.LINE_AA)

    for _ in range(rng.integers(1, 4)):
        away = rng.normal(0, 1, 2)
        edge = middle + away / np.abs(away / middle).max()
        skin = np.array([225.0, 175.0, 145.0]) * rng.uniform(0.35, 1.0)
        line(edge, edge + (near(0.5) - edge) * rng.uniform(0.15, 0.4), rng.uniform(0.04, 0.07), skin)
    for _ in range(rng.integers(0, 3)):
        coin = near(0.8)
        line(coin, coin, rng.uniform(0.04, 0.07), np.array([200.0, 170.0, 110.0]) * rng.uniform(0.5, 1.1))
    if rng.random() < 0.5:
        line(near(0.8), near(0.8), rng.uniform(0.015, 0.025), rng.uniform(0, 200, 3))
    return image


def rendered_pages(shown: Sequence[Recording]) -> dict[str, list[RenderedPage]]:
    """``PAGES`` pages of each kind, every layout and turn in its turn."""
    kinds: dict[str, list[RenderedPage]] = {}
    for name, settings in KINDS.items():
        pages = []
        for k, recording in enumerate(shown[:PAGES]):
            layout = sorted(LAYOUTS)[k % len(LAYOUTS)]
            rng = np.random.default_rng([SEED, k])
            speed, gain = (
                float(rng.choice(list(values), p=list(values.values())))
                for values in (settings.get("speeds", {25.0: 1.0}), settings.get("gains", {10.0: 1.0}))
            )
            page = PageConfig(
                height=SIZE[0], width=SIZE[1], channels=3, fit="pad", effects=settings["effects"],
                layouts={layout: 1.0}, speeds={speed: 1.0}, gains={gain: 1.0},
            )  # fmt: skip
            pages.append(RenderedPage(recording, page, k % 4, layout, speed, gain, "is_covered" in settings))
        kinds[name] = pages
    return kinds
