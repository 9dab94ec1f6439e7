"""The twelve leads redrawn from pages, and what users do with them: a WFDB record, a table, a picture.

Letters: N pages, T samples.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ecgscan_ray.errors import InputError
from ecgscan_ray.recording.leads import LEADS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ADC_GAIN = 1000
"""Units per mV of a WFDB record: 1 uV each. Leads that leave the range of 16 bits get a smaller gain."""
MM_PER_S, MM_PER_MV, MM_PER_LEAD = 25.0, 10.0, 22.0
"""Scale of ``plot``, and the distance of its leads."""


@dataclass(frozen=True, repr=False)
class Redrawn:
    """Leads redrawn from N pages.

    Attributes:
        signal_mv: (N, 12, T) float32 mV, each lead around 0: a page does not show its offset.
        shown: (N, 12, T) bool, what the page shows according to the layout detected on it; the rest is inferred.
        lead_residual_mv: (N,) residual of the lead laws on the leads as they were read, before any projection. A large
            one indicates a page that was read wrongly: ``reject.lead_residual.auroc`` in a run's report measures how well.
        fs: Sampling rate, Hz: that of the model, not of the device that recorded the ECG.
    """

    signal_mv: np.ndarray
    shown: np.ndarray
    lead_residual_mv: np.ndarray
    fs: int

    leads: ClassVar[tuple[str, ...]] = LEADS
    """Names of the twelve leads, in the order of the second axis."""

    def __len__(self) -> int:
        return len(self.signal_mv)

    def __repr__(self) -> str:
        pages, leads, samples = self.signal_mv.shape
        text = f"{pages} page{'' if pages == 1 else 's'}, {leads} leads x {samples / self.fs:g} s at {self.fs} Hz"
        if pages:
            text += f", {self.shown.mean():.0%} shown, median lead residual {np.median(self.lead_residual_mv):.3f} mV"
        return f"Redrawn({text})"

    def to_wfdb(self, path: str | os.PathLike, page: int = 0) -> Path:
        """Write one page's leads as a WFDB record (format 16) at the model's own sampling rate.

        Args:
            path: The record without suffix; ``.hea`` and ``.dat`` are written, their folder is created.
            page: Which of the N pages.

        Returns:
            Path of the header.

        Raises:
            InputError: No such page, or a record name that WFDB does not allow.
        """
        import wfdb

        signal_mv = self._page(page).T.astype(np.float64)
        target = Path(path)
        if not re.fullmatch(r"[A-Za-z0-9_-]+", target.name):
            fix = "Use letters, digits, _ and -, and no suffix."
            raise InputError(f"'{target.name}' is no WFDB record name", where=path, fix=fix)
        target.parent.mkdir(parents=True, exist_ok=True)
        gain = min(ADC_GAIN, int(32767 / max(float(np.abs(signal_mv).max(initial=0)), 1.0)))
        wfdb.wrsamp(
            target.name,
            fs=self.fs,
            units=["mV"] * len(LEADS),
            sig_name=list(LEADS),
            d_signal=np.rint(signal_mv * gain).astype(np.int64),
            fmt=["16"] * len(LEADS),
            adc_gain=[gain] * len(LEADS),
            baseline=[0] * len(LEADS),
            comments=["redrawn from a page, not recorded", f"shown on the page: {self._shown_text(page)}"],
            write_dir=str(target.parent),
        )
        return target.with_name(f"{target.name}.hea")

    def to_dataframe(self, page: int = 0) -> pd.DataFrame:
        """One page's leads as a table: (T, 12) mV, columns the lead names, index ``time_s``.

        Args:
            page: Which of the N pages.

        Raises:
            InputError: No such page.
        """
        import pandas as pd

        signal_mv = self._page(page)
        index = pd.Index(np.arange(signal_mv.shape[1]) / self.fs, name="time_s")
        return pd.DataFrame(signal_mv.T, index=index, columns=list(LEADS))

    def plot(self, page: int = 0) -> Figure:
        """One page's leads on a millimetre grid, 25 mm/s and 10 mm/mV; what is inferred is grey.

        Args:
            page: Which of the N pages.

        Returns:
            A matplotlib figure in true size; ``figure.savefig("leads.png")`` writes it.

        Raises:
            InputError: No such page.
        """
        from matplotlib.figure import Figure

        signal_mv = self._page(page)
        width, height = signal_mv.shape[1] / self.fs * MM_PER_S, MM_PER_LEAD * len(LEADS)
        figure = Figure(figsize=(width / 25.4, height / 25.4))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width), ylim=(0, height), xticks=[], yticks=[])
        for step, colour, line_width in ((1, "#f7dcdc", 0.3), (5, "#eeb4b4", 0.6)):
            axes.vlines(np.arange(0, width + 1, step), 0, height, colors=colour, linewidths=line_width, zorder=0)
            axes.hlines(np.arange(0, height + 1, step), 0, width, colors=colour, linewidths=line_width, zorder=0)
        x = np.arange(signal_mv.shape[1]) / self.fs * MM_PER_S
        for index, lead in enumerate(LEADS):
            zero = height - MM_PER_LEAD * (index + 0.5)
            y = zero + MM_PER_MV * signal_mv[index]
            axes.plot(x, y, color="#9aa3ad", lw=0.8)
            axes.plot(x, np.where(self.shown[page, index], y, np.nan), color="#1d2733", lw=0.9)
            axes.text(1.5, zero + 0.35 * MM_PER_LEAD, lead, va="top", fontsize=8, fontweight="bold")
        return figure

    def _page(self, page: int) -> np.ndarray:
        """(12, T) mV."""
        if not 0 <= page < len(self):
            raise InputError(f"there is no page {page} of {len(self)}", where="page", fix="Pages count from 0.")
        return self.signal_mv[page]

    def _shown_text(self, page: int) -> str:
        """The stretches that the page shows, such as ``I 0-2.5 s``."""
        parts = []
        for lead, shown in zip(LEADS, self.shown[page], strict=True):
            start = 0
            for value, run in groupby(shown.tolist()):
                stop = start + len(list(run))
                if value:
                    parts.append(f"{lead} {start / self.fs:g}-{stop / self.fs:g} s")
                start = stop
        return ", ".join(parts) or "nothing"
