"""Paper speed and gain from the calibration pulse: 1 mV high, 200 ms long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgscan_ray.paper.layout import TRACE_MM
from ecgscan_ray.paper.marks import PULSE_S
from ecgscan_ray.reading.rows import Rows

GAINS = (2.5, 5.0, 10.0, 20.0)
SPEEDS = (12.5, 25.0, 50.0, 100.0)
REACH_MM = 16.0
"""How far before the traces, or behind them, a pulse is looked for."""
LEAST_PULSES = 2
"""That must agree before they are believed."""
LEAST_BELIEF = 0.4
LEAST_PULSE_MM = 1.8
"""Lower ones are noise: 2.5 mm/mV is the least gain."""


@dataclass(frozen=True)
class Pulse:
    """One calibration pulse as read.

    Attributes:
        height: mm.
        width: mm, at half its height.
        step: Height of a second, lower step, mm; None = it has none.
    """

    height: float
    width: float
    step: float | None


@dataclass(frozen=True)
class Scale:
    """What the pulses say.

    Attributes:
        speed: mm/s; None = they do not say.
        gain: mm/mV; None = they do not say.
        chest: Gain of the chest leads relative to ``gain``.
        agreement: Share of the pulses that agree with the gain.
    """

    speed: float | None
    gain: float | None
    chest: float
    agreement: float


def find_pulse(x: np.ndarray, up: np.ndarray, belief: np.ndarray) -> Pulse | None:
    """The pulse in a piece of a row: a plateau with steep sides.

    Args:
        x: (n,) mm.
        up: (n,) height over the zero line, mm.
        belief: (n,) in 0..1.
    """
    step = float(x[1] - x[0])
    high = (up > LEAST_PULSE_MM) & (belief > LEAST_BELIEF)
    edges = np.flatnonzero(np.diff(high.astype(int), prepend=0, append=0)).reshape(-1, 2)
    if not len(edges):
        return None
    first, last = max(edges, key=lambda pair: pair[1] - pair[0])
    heights = up[first:last]
    if (last - first) * step < 1.5:
        return None
    top = float(np.median(heights[heights > 0.7 * heights.max()]))
    level = np.abs(heights - top) < max(0.4, 0.06 * top)
    lower = np.abs(heights - top / 2) < max(0.4, 0.06 * top)
    if level.sum() * step < 1.0:
        return None
    stair = lower.sum() * step > 1.2
    above = up > (0.25 if stair else 0.5) * top
    start, stop = first, last
    while start > 0 and above[start - 1]:
        start -= 1
    while stop < len(up) and above[stop]:
        stop += 1
    return Pulse(top, (stop - start) * step, top / 2 if stair else None)


def read_scale(rows: Rows, left: float) -> Scale:
    """Speed and gain by the pulses of all rows, at the rows' start or end.

    Args:
        rows: As read.
        left: x of the rows' start, mm.
    """
    pulses = []
    for start, stop in ((left - REACH_MM, left - 0.2), (left + TRACE_MM + 0.2, left + TRACE_MM + REACH_MM)):
        part = (rows.x_mm >= start) & (rows.x_mm <= stop)
        if part.sum() < 16:
            continue
        for up, belief in zip(rows.up_mm, rows.belief, strict=True):
            pulse = find_pulse(rows.x_mm[part], up[part], belief[part])
            if pulse is not None:
                pulses.append(pulse)
    if not pulses:
        return Scale(None, None, 1.0, 0.0)
    gain, agreement = _standard([pulse.height for pulse in pulses], GAINS, 0.1)
    speed, _ = _standard([pulse.width / PULSE_S for pulse in pulses], SPEEDS, 0.22)
    chest = 0.5 if sum(pulse.step is not None for pulse in pulses) > len(pulses) / 2 else 1.0
    return Scale(speed, gain, chest, agreement)


def _standard(values: list[float], standards: tuple[float, ...], tolerance: float) -> tuple[float | None, float]:
    """The standard value that most agree with, and their share; None where fewer than half do, or only one.

    One pulse may be something else, and a wrong scale would not show in the leads.
    """
    shares = [float(np.mean([abs(v / s - 1) <= tolerance for v in values])) for s in standards]
    best = int(np.argmax(shares))
    agree = shares[best] >= 0.5 and round(shares[best] * len(values)) >= LEAST_PULSES
    return (standards[best] if agree else None), shares[best]
