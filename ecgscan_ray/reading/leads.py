"""What a page says of the twelve leads: strips in mV with a belief for each sample, from the rows as read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecgscan_ray.paper.layout import Strip
from ecgscan_ray.recording.export import lead_table, plot_leads, shown_text, write_wfdb
from ecgscan_ray.recording.leads import LEADS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


LEAST_BELIEF = 0.3
"""Samples read with less belief are left out of what is embedded, as in the search in signal space."""


@dataclass(frozen=True)
class StripReading:
    """One strip as read.

    Attributes:
        strip: Lead, row, seconds; see ``paper.layout``.
        mv: float32 (n,) at ``PageReading.fs``, the strip's first second first, around its median; NaN where nothing was read.
        belief: float32 (n,) in 0..1.
        pixels: float32 (m, 2) x and y of the trace as read, index coordinates of the picture, for drawing it.
    """

    strip: Strip
    mv: np.ndarray
    belief: np.ndarray
    pixels: np.ndarray


@dataclass(frozen=True)
class Found:
    """A value that was read from the page.

    Attributes:
        value: Of speed (mm/s), gain (mm/mV) or layout (name).
        by: ``given``, ``pulse``, ``text`` (as printed), ``labels`` or ``assumed``.
        confidence: In 0..1.
    """

    value: float | str
    by: str
    confidence: float

    @property
    def text(self) -> str:
        """The value in words: ``25``, ``3x4+1``."""
        return self.value if isinstance(self.value, str) else f"{self.value:g}"


@dataclass(frozen=True)
class PageReading:
    """A page as read.

    Attributes:
        strips: In the layout's order.
        fs: Of the strips, Hz.
        layout: Its name; see ``paper.layout.LAYOUTS``.
        speed: mm/s.
        gain: mm/mV.
        turns: Quarter turns clockwise by which the page is turned in the picture.
        px_per_mm: Across and down, in the page's middle.
        quality: In 0..1: what the reading is worth.
        reasons: Short phrases, why it is not 1.
    """

    strips: tuple[StripReading, ...]
    fs: float
    layout: Found
    speed: Found
    gain: Found
    turns: int
    px_per_mm: tuple[float, float]
    quality: float
    reasons: tuple[str, ...]

    def signal_mv(self, seconds: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
        """float32 (12, T) mV in the order of ``LEADS``, NaN where the page shows nothing, and the belief (12, T).

        A lead that two strips show (a rhythm strip) is taken from the one that is believed more, sample by sample.
        """
        length = round(seconds * self.fs)
        mv = np.full((len(LEADS), length), np.nan, np.float32)
        belief = np.zeros((len(LEADS), length), np.float32)
        for reading in self.strips:
            first = round(reading.strip.start_s * self.fs)
            part = slice(first, min(length, first + len(reading.mv)))
            values, trust = reading.mv[: part.stop - first], reading.belief[: part.stop - first]
            better = np.isfinite(values) & (trust > belief[reading.strip.lead, part])
            mv[reading.strip.lead, part][better] = values[better]
            belief[reading.strip.lead, part][better] = trust[better]
        return mv, belief

    def leads_at(self, fs: float, seconds: float = 10.0) -> np.ndarray:
        """The leads at another rate as an encoder takes them: float32 (12, T) mV.

        NaN where the page shows nothing or is read with a belief below ``LEAST_BELIEF``.
        """
        mv, belief = self.signal_mv(seconds)
        mv[belief < LEAST_BELIEF] = np.nan
        step = self.fs / fs
        width = max(1, round(step))
        at = np.rint(np.arange(round(seconds * fs)) * step).astype(int)
        around = at[:, None] + np.arange(width) - width // 2  # as many samples as a step is long, around each moment
        inside = (around >= 0) & (around < mv.shape[1])
        samples = np.where(inside, mv[:, np.clip(around, 0, mv.shape[1] - 1)], np.nan)
        known = np.isfinite(samples)
        count = known.sum(-1)
        mean = np.where(known, samples, 0).sum(-1) / np.maximum(count, 1)
        return np.where(2 * count >= width, mean, np.nan).astype(np.float32)

    def describe(self) -> list[str]:
        """Lines ``key: value``: how the page was read."""
        values = (("layout", self.layout, ""), ("speed", self.speed, " mm/s"), ("gain", self.gain, " mm/mV"))
        lines = [f"{name}: {value.text}{unit} ({value.by})" for name, value, unit in values]
        lines.append(f"quality: {self.quality:.2f}")
        if self.reasons:
            lines.append(f"reasons: {'; '.join(self.reasons)}")
        shown = np.isfinite(self.signal_mv()[0])
        return [*lines, f"shown on the page: {shown_text(shown, self.fs)}"]

    def to_wfdb(self, path: str | os.PathLike, comments: Sequence[str] = ()) -> Path:
        """Write the leads as a WFDB record (format 16); a sample that the page does not show is a missing one.

        Args:
            path: The record without suffix; ``.hea`` and ``.dat`` are written, their folder is created.
            comments: Lines of the header before those of ``describe``.

        Returns:
            Path of the header.

        Raises:
            InputError: A record name that WFDB does not allow.
        """
        lines = ["digitised from a page, not recorded", *comments, *self.describe()]
        return write_wfdb(path, self.signal_mv()[0], self.fs, lines)

    def to_dataframe(self) -> pd.DataFrame:
        """The leads as a table: (T, 12) mV, NaN where the page shows nothing; columns the lead names, index ``time_s``."""
        return lead_table(self.signal_mv()[0], self.fs)

    def plot(self) -> Figure:
        """The leads on a millimetre grid, 25 mm/s and 10 mm/mV; ``figure.savefig("leads.png")`` writes it in true size."""
        signal_mv = self.signal_mv()[0]
        return plot_leads(signal_mv, self.fs, np.isfinite(signal_mv))
