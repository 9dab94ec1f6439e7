"""What the reading of a page is worth: the chance that it is right, and why it is not more.

The chance that the signal-to-noise ratio is at least 5 dB, of a page whose speed and gain are right, times the chance that they
are. Fitted on 243 rendered pages (photographs, scans, faxes, screens of 500 to 1500 px, all layouts, turned, blurred, cut) of
recordings that were not trained on: AUROC 0.90 there for an SNR below 5 dB, 0.92 (0.87 to 0.96) on 314 other pages, real and
rendered. Nearly all failures are pages without a visible grid, layouts taken for another, and scales that the page does not
state; a trace's own belief tells little.
"""

from __future__ import annotations

import math

from ecgscan_ray.reading.leads import Found

LAWS, GRID, LAYOUT, CONSTANT = -1.57, 1.65, 0.57, -2.29
"""Of a logistic regression on log10 of ``LEAST_MISMATCH`` + mismatch, grid and the layout's confidence, on the 186 pages of a
right scale."""
LEAST_MISMATCH = 0.003
UNLAWFUL = 0.3
"""Mismatch of the lead laws that is said. Right readings have 0.00 to 0.15."""
NO_GRID = 0.5
"""How well a grid is seen at least."""
ASSUMED = 0.9
"""Chance that an assumed speed or gain is right: of the pages that we draw, 0.90 are of 25 mm/s and 0.86 of 10 mm/mV."""


def quality(
    mismatch: float, grid: float, belief: float, values: tuple[Found, Found, Found]
) -> tuple[float, tuple[str, ...]]:
    """Of one page.

    Args:
        mismatch: Of the lead laws (``lead_laws.mismatch``).
        grid: How well the printed grid is seen and followed, 0..1.
        belief: Mean over all samples, 0..1.
        values: Layout, speed and gain.

    Returns:
        Chance in 0..1, and short phrases.
    """
    layout, speed, gain = values
    evidence = CONSTANT + LAWS * math.log10(LEAST_MISMATCH + mismatch) + GRID * grid + LAYOUT * layout.confidence
    chance = speed.confidence * gain.confidence / (1 + math.exp(-evidence))
    reasons = []
    if mismatch > UNLAWFUL:
        reasons.append("the leads do not fit together: layout, order or time are doubtful")
    if belief < 0.8:
        reasons.append(f"the trace is read with a belief of {belief:.2f}")
    if grid < NO_GRID:
        reasons.append("no grid is seen: millimetres come from the length of the rows")
    units = ((speed, "mm/s"), (gain, "mm/mV"))
    reasons += [
        f"{value.text} {unit} is assumed: neither a calibration pulse nor printed text says it"
        for value, unit in units
        if value.by == "assumed"
    ]
    return chance, tuple(reasons)
