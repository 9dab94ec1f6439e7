"""Paper speed and gain from the calibration pulse: 1 mV high, 200 ms long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ecgscan_ray.paper.layout import TRACE_MM
from ecgscan_ray.paper.marks import PULSE_S
from ecgscan_ray.reading.rows import Rows

GAINS = (2.5, 5.0, 10.0, 20.0)
SPEEDS = (12.5, 25.0, 50.0, 100.0)
USUAL_SPEEDS = (25.0, 50.0)
"""That a single pulse may say: at 12.5 mm/s letters and pieces of a trace are as wide as a pulse."""
REACH_MM = 16.0
"""How far before the traces, or behind them, a pulse is looked for."""
INTO_MM = 2.0
"""How far into the traces: some carts print the pulse right beside them."""
LEAST_BELIEF = 0.4
LEAST_PULSE_MM = 1.8
"""Lower ones are noise: 2.5 mm/mV is the least gain."""
MORE, LESS = 0.14, 0.08
"""Shares by which a pulse's height and width may be above and below a standard. Of 516 pulses on rendered photographs none was
read more than 6 % too low and 1 % more than 8 % too narrow, but 2 % more than 11 % too high."""
EDGE_MM, FOOT_MM = 0.5, 1.0
"""Neither plateau nor foot; where the foot ends, from the pulse's side."""
MOST_UNEVEN, MOST_FOOT = 0.08, 0.15
"""Mean deviation from the plateau, and height of the feet, as shares of the height. Of pulses on rendered photographs 9 of 10
have less than 0.07 and 0.12; lettering and traces seldom have both, and a standard's height and width."""
TOP_MM = 2.0
"""A pulse's height is read to this."""
SEVERAL, ALIKE_MM = 3, 1.0
"""Pulses of no standard's width that say the gain; by how much their places and widths may differ."""
TRUST_ONE, TRUST_SEVERAL = 0.95, 0.99
"""Least share of right scales where one pulse says it, and where several do. On 164 rendered photographs with a pulse that was
read, all were right."""


@dataclass(frozen=True)
class Pulse:
    """One calibration pulse as read.

    Attributes:
        stop: x where it ends, mm.
        height: mm.
        width: mm.
        stepped: Whether it has a second step of half its height: the chest leads' gain.
    """

    stop: float
    height: float
    width: float
    stepped: bool

    def standard(self) -> tuple[float, float] | None:
        """Gain mm/mV and speed mm/s; None = of none."""
        gain, speed = _nearest(self.height, GAINS), _nearest(self.width / PULSE_S, SPEEDS)
        return None if gain is None or speed is None else (gain, speed)


@dataclass(frozen=True)
class Scale:
    """What the pulses say.

    Attributes:
        speed: mm/s; None = they do not say.
        gain: mm/mV; None = they do not say.
        chest: Gain of the chest leads relative to ``gain``.
        agreement: Share of pages on which as many pulses as here were right.
        pulse_stop: x where the pulses end, mm, their median; None = there are none.
    """

    speed: float | None
    gain: float | None
    chest: float
    agreement: float
    pulse_stop: float | None


NOTHING = Scale(None, None, 1.0, 0.0, None)


def find_pulses(x: np.ndarray, up: np.ndarray, belief: np.ndarray) -> Iterator[Pulse]:
    """The pulses in a piece of a row: plateaus with steep sides that stand on the zero line.

    Args:
        x: (n,) mm.
        up: (n,) height over the zero line, mm.
        belief: (n,) in 0..1.
    """
    step = float(x[1] - x[0])
    edge, foot = round(EDGE_MM / step), round(FOOT_MM / step)
    high = (up > LEAST_PULSE_MM) & (belief > LEAST_BELIEF)
    stop_of_last = 0
    for start, stop in np.flatnonzero(np.diff(high.astype(int), prepend=0, append=0)).reshape(-1, 2):
        top = float(np.median(up[start:stop][up[start:stop] > 0.7 * up[start:stop].max()]))
        outside = np.flatnonzero(up < 0.35 * top)
        first, last = outside[outside <= start], outside[outside >= stop - 1]
        if not len(first) or not len(last):
            continue
        begin, end = first[-1] + 1, last[0]
        if begin < stop_of_last:
            continue  # a piece of the bump before
        stop_of_last = end
        plateau = up[begin + edge : end - edge]
        feet = np.concatenate([up[max(0, begin - foot) : max(0, begin - edge)], up[end + edge : end + foot]])
        if len(plateau) < 2 * edge or not len(feet) or np.abs(feet).mean() > MOST_FOOT * top:
            continue
        stair = top * np.where(np.arange(len(plateau)) < len(plateau) / 2, 1.0, 0.5)
        slope = np.abs(np.arange(len(plateau)) - len(plateau) / 2) < edge
        for stepped, shape, counted in ((False, np.full(len(plateau), top), slope | ~slope), (True, stair, ~slope)):
            if counted.any() and np.abs(plateau - shape)[counted].mean() < MOST_UNEVEN * top:
                yield Pulse(float(x[end]) - step / 2, top, (end - begin) * step, stepped)
                break


def read_scale(rows: Rows, left: float) -> Scale:
    """Speed and gain by the pulses of all rows, at the rows' start or end. Where pulses contradict each other, most must
    agree, and one alone is not believed beside others of its height; a pulse that may be one of the row below must be confirmed.

    Args:
        rows: As read.
        left: x of the rows' start, mm.
    """
    pulses: list[Pulse] = []
    doubtful: list[Pulse] = []
    for start, stop in ((left - REACH_MM, left + INTO_MM), (left + TRACE_MM - INTO_MM, left + TRACE_MM + REACH_MM)):
        part = (rows.x_mm >= start) & (rows.x_mm <= stop)
        if part.sum() < 16:
            continue
        for up, belief, zero in zip(rows.up_mm, rows.belief, rows.zero_mm, strict=True):
            below = rows.zero_mm[rows.zero_mm > zero] - zero
            for pulse in find_pulses(rows.x_mm[part], up[part], belief[part]):
                (doubtful if _is_doubtful(pulse, below) else pulses).append(pulse)
    said = {pulse.standard() for pulse in pulses}
    pulses += [pulse for pulse in doubtful if pulse.standard() in said]
    votes = Counter(standard for pulse in pulses if (standard := pulse.standard()) is not None)
    if not votes:
        return _gain_alone(pulses)
    (gain, speed), count = votes.most_common(1)[0]
    as_high = sum(_nearest(pulse.height, GAINS) == gain for pulse in pulses)
    if 2 * count <= votes.total() or (count == 1 and (speed not in USUAL_SPEEDS or as_high > 1)):
        return _gain_alone(pulses)
    agreeing = [pulse for pulse in pulses if pulse.standard() == (gain, speed)]
    chest = 0.5 if 2 * sum(pulse.stepped for pulse in agreeing) > count else 1.0
    stop = float(np.median([pulse.stop for pulse in agreeing]))
    return Scale(speed, gain, chest, TRUST_ONE if count == 1 else TRUST_SEVERAL, stop)


def _gain_alone(pulses: list[Pulse]) -> Scale:
    """The gain, where ``SEVERAL`` rows, and most pulses, have one height, width and place: some carts print pulses of 130 ms,
    which say nothing of the speed."""
    alike = max(([other for other in pulses if _are_alike(pulse, other)] for pulse in pulses), key=len, default=[])
    if len(alike) < SEVERAL or 2 * len(alike) <= len(pulses):
        return NOTHING
    return Scale(None, _nearest(alike[0].height, GAINS), 1.0, TRUST_SEVERAL, None)


def _are_alike(pulse: Pulse, other: Pulse) -> bool:
    gain = _nearest(pulse.height, GAINS)
    apart = max(abs(pulse.stop - other.stop), abs(pulse.width - other.width))
    is_plain = not (pulse.stepped or other.stepped)
    return is_plain and gain is not None and gain == _nearest(other.height, GAINS) and apart <= ALIKE_MM


def _is_doubtful(pulse: Pulse, below_mm: np.ndarray) -> bool:
    """Whether it may be the top of a higher pulse of a row that lies so many mm below: of 20 mm, where rows are 11 mm apart, the
    row above shows 9 mm. The lowest row's pulse is its own."""
    tops = np.array(GAINS) - below_mm[:, None]
    return bool((np.abs(tops - pulse.height) < TOP_MM).any())


def _nearest(value: float, standards: tuple[float, ...]) -> float | None:
    return next((standard for standard in standards if -LESS <= value / standard - 1 <= MORE), None)
