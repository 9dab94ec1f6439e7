"""Pages of ours to read: drawn of recordings that were not trained on, in the kinds that ``bench_real_pages`` asks about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper import LAYOUTS, Renderer, page_key
from ecgscan_ray.recording.recording import Recording

PAGES = 40
"""Of each kind."""
SIZE = (1200, 1600)
SEED = 9
KINDS: dict[str, dict] = {
    "photo": {"effects": "photo"},
    "scan": {"effects": "scan"},
    "fax": {"effects": "fax"},
    "screen": {"effects": "screen"},
    "scales": {"effects": "photo", "speeds": {25.0: 0.4, 50.0: 0.6}, "gains": {5.0: 0.4, 10.0: 0.2, 20.0: 0.4}},
}


@dataclass(frozen=True)
class RenderedPage:
    """A page that is drawn when it is read.

    Attributes:
        recording: Shown on it.
        settings: Of the page.
        turn: Quarter turns clockwise.
        layout, speed, gain: What is true of it; mm/s and mm/mV.
    """

    recording: Recording
    settings: PageConfig
    turn: int
    layout: str
    speed: float
    gain: float

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3)."""
        key = page_key(SEED, 0, self.recording.id, 0)
        image = Renderer(self.settings).render([self.recording], np.array([key], np.uint64)).image[0]
        return np.ascontiguousarray(np.rot90(image, -self.turn))


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
            pages.append(RenderedPage(recording, page, k % 4, layout, speed, gain))
        kinds[name] = pages
    return kinds
