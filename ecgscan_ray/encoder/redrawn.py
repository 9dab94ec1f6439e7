"""The twelve leads redrawn from pages, and what users do with them: a WFDB record, a table, a picture.

Letters: N pages, T samples.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ecgscan_ray.errors import InputError
from ecgscan_ray.recording.export import lead_table, plot_leads, shown_text, write_wfdb
from ecgscan_ray.recording.leads import LEADS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ecgscan_ray.reading.leads import PageReading


@dataclass(frozen=True, repr=False)
class Redrawn:
    """Leads redrawn from N pages.

    Attributes:
        signal_mv: (N, 12, T) float32 mV, each lead around 0: a page does not show its offset.
        shown: (N, 12, T) bool, what the page shows according to the layout detected on it; the rest is inferred.
        lead_residual_mv: (N,) residual of the lead laws on the leads as they were read, before any projection. A large
            one indicates a page that was read wrongly: ``reject.lead_residual.auroc`` in a run's report measures how well.
        fs: Sampling rate, Hz: that of the model, not of the device that recorded the ECG.
        readings: Of an encoder of leads, how each page was read: strips in mV with a belief for each sample, layout, speed
            and gain, and ``quality``, the chance that it was read well; empty for an encoder of pictures.
    """

    signal_mv: np.ndarray
    shown: np.ndarray
    lead_residual_mv: np.ndarray
    fs: int
    readings: tuple[PageReading, ...] = ()

    leads: ClassVar[tuple[str, ...]] = LEADS
    """Names of the twelve leads, in the order of the second axis."""

    def __len__(self) -> int:
        return len(self.signal_mv)

    def __repr__(self) -> str:
        pages, leads, samples = self.signal_mv.shape
        text = f"{pages} page{'' if pages == 1 else 's'}, {leads} leads x {samples / self.fs:g} s at {self.fs} Hz"
        if pages:
            text += f", {self.shown.mean():.0%} shown, median lead residual {np.median(self.lead_residual_mv):.3f} mV"
        if self.readings:
            text += f", median quality {np.median([reading.quality for reading in self.readings]):.2f}"
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
        shown = shown_text(self.shown[self._checked(page)], self.fs)
        comments = ["redrawn from a page, not recorded"]
        comments += self.readings[page].describe() if self.readings else [f"shown on the page: {shown}"]
        return write_wfdb(path, self.signal_mv[page], self.fs, comments)

    def to_dataframe(self, page: int = 0) -> pd.DataFrame:
        """One page's leads as a table: (T, 12) mV, columns the lead names, index ``time_s``.

        Args:
            page: Which of the N pages.

        Raises:
            InputError: No such page.
        """
        return lead_table(self.signal_mv[self._checked(page)], self.fs)

    def plot(self, page: int = 0) -> Figure:
        """One page's leads on a millimetre grid, 25 mm/s and 10 mm/mV; what is inferred is grey.

        Args:
            page: Which of the N pages.

        Returns:
            A matplotlib figure in true size; ``figure.savefig("leads.png")`` writes it.

        Raises:
            InputError: No such page.
        """
        return plot_leads(self.signal_mv[self._checked(page)], self.fs, self.shown[page])

    def _checked(self, page: int) -> int:
        if not 0 <= page < len(self):
            raise InputError(f"there is no page {page} of {len(self)}", where="page", fix="Pages count from 0.")
        return page
