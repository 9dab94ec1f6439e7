"""Settings and signals at random: what the property tests and the long fuzz draw from."""

from __future__ import annotations

from typing import Any

import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper import LAYOUTS
from ecgscan_ray.paper.effects import EFFECTS, PRESETS
from tests.unit.paper.pages import Sheet, beats

OWN = (
    "I II III | aVR aVL aVF | V1 V2 V3 | V4 V5 V6 + II",
    "V1 V2 V3 V4 V5 V6",
    "I aVR V1 V4 | II aVL V2 V5 | III aVF V3 V6/simultaneous",
    "aVL I -aVR II aVF III | V1 V2 V3 V4 V5 V6 + V1 II V5",
)
LAYOUT_NAMES = (*sorted(LAYOUTS), *OWN)
RATES = (1.0, 50.0, 98.0, 175.0, 257.0, 360.0, 389.0, 500.0, 977.5, 1e5)


def settings(rng: np.random.Generator, **fixed: Any) -> PageConfig:
    """Any settings that ``PageConfig`` takes, but for those that are fixed."""
    layouts = rng.choice(LAYOUT_NAMES, rng.integers(1, 4), replace=False)
    effects = rng.choice(sorted(EFFECTS), rng.integers(0, 6), replace=False)
    odd = rng.random() < 0.3
    values: dict[str, Any] = {
        "height": int(rng.integers(64, 420)),
        "width": int(rng.integers(64, 420)),
        "channels": int(rng.choice([1, 3])),
        "fit": str(rng.choice(["pad", "stretch"])),
        "layouts": {str(name): float(rng.uniform(0.1, 1)) for name in layouts},
        "effects": str(rng.choice(sorted(PRESETS))),
        "strength": float(rng.choice([0.0, 0.5, 1.0, 1.0, 2.0, 3.0])),
        "effect_probabilities": {str(name): float(rng.choice([0.0, 0.5, 1.0])) for name in effects},
        "keep_leads": bool(rng.random() < 0.8),
        "paper_speed_mm_per_s": float(rng.choice([10.0, 12.5, 25.0, 50.0, 100.0])),
        "gain_mm_per_mv": float(rng.choice([2.5, 5.0, 10.0, 20.0, 40.0])),
        "speeds": {25.0: 0.7, 50.0: 0.3} if odd else {},
        "gains": {5.0: 0.3, 10.0: 0.5, 20.0: 0.2} if odd else {},
        "half_gain_precordial_probability": float(rng.choice([0.0, 0.0, 0.5, 1.0])),
        "paper": str(rng.choice(["letter", "a4", "strip"])),
        "jitter": float(rng.choice([0.0, 0.5, 1.0])),
        "baseline": str(rng.choice(["median", "none"])),
        "amplitude_clip": str(rng.choice(["page", "row"])),
    }
    return PageConfig(**(values | fixed))


def signal(rng: np.random.Generator) -> np.ndarray:
    """Signals that no heart makes: NaN, inf, empty, one sample, 1e9 mV, 0 and 15 leads."""
    leads = int(rng.choice([12] * 12 + [0, 1, 15]))
    length = int(rng.choice([0, 1, 2, 37, 999, 1000, 5000]))
    values = rng.standard_normal((leads, length)) * rng.choice([0.0, 0.1, 1.0, 8.0, 1e9])
    if leads == 12 and length >= 999 and rng.random() < 0.5:
        values = beats(length / 10, seed=int(rng.integers(100)))[:, :length].astype(float)
    for _ in range(int(rng.integers(0, 4))):
        if leads and length:
            start = rng.integers(length)
            part = slice(start, start + rng.integers(1, length + 1))
            values[rng.integers(leads), part] = rng.choice([np.nan, np.nan, np.nan, np.inf, -np.inf, 1e9, -8.0])
    if rng.random() < 0.02:
        values[:] = np.nan
    return values.astype(rng.choice([np.float32, np.float64, np.float16])) if rng.random() < 0.9 else values * 1.0


def recording(rng: np.random.Generator, number: int) -> Sheet:
    """A signal at a rate that may be odd, or none at all."""
    fs = float(rng.choice(RATES)) if rng.random() < 0.97 else float(rng.choice([0.0, -5.0, np.nan, np.inf, 1e7]))
    with np.errstate(over="ignore", invalid="ignore"):
        return Sheet(f"fuzz/{number}", signal(rng), fs)
