"""Twelve leads as users take them away: a WFDB record, a table, a figure in true size.

Letters: T samples.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ecgscan_ray.errors import InputError
from ecgscan_ray.recording.leads import LEADS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ADC_GAIN = 1000
"""Units per mV of a WFDB record: 1 uV each. Leads that leave the range of 16 bits get a smaller gain."""
MM_PER_S, MM_PER_MV, MM_PER_LEAD = 25.0, 10.0, 22.0
"""Scale of ``plot_leads``, and the distance of its leads."""
_INVALID_SAMPLE = -32768
"""WFDB's value of a missing sample in format 16."""


def write_wfdb(path: str | os.PathLike, signal_mv: np.ndarray, fs: float, comments: Sequence[str] = ()) -> Path:
    """Write a WFDB record (format 16): samples first, then the header, without which there is no record.

    Args:
        path: The record without suffix; ``.hea`` and ``.dat`` are written, their folder is created.
        signal_mv: (12, T) mV in the order of ``LEADS``; NaN becomes WFDB's missing sample.
        fs: Sampling rate, Hz.
        comments: Lines of the header; what is not ASCII, which WFDB requires, is escaped.

    Returns:
        Path of the header.

    Raises:
        InputError: A record name that WFDB does not allow.
    """
    import wfdb

    target = Path(path)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", target.name):
        fix = "Use letters, digits, _ and -, and no suffix."
        raise InputError(f"'{target.name}' is no WFDB record name", where=path, fix=fix)
    target.parent.mkdir(parents=True, exist_ok=True)
    signal = np.asarray(signal_mv, np.float64).T
    largest = np.abs(signal[np.isfinite(signal)]).max(initial=1.0)
    gain = min(ADC_GAIN, int(32767 / largest))
    samples = np.where(np.isfinite(signal), np.rint(np.nan_to_num(signal) * gain), _INVALID_SAMPLE)
    wfdb.wrsamp(
        target.name,
        fs=fs,
        units=["mV"] * len(LEADS),
        sig_name=list(LEADS),
        d_signal=samples.astype(np.int64),
        fmt=["16"] * len(LEADS),
        adc_gain=[gain] * len(LEADS),
        baseline=[0] * len(LEADS),
        comments=[line.encode("ascii", "backslashreplace").decode() for line in comments],
        write_dir=str(target.parent),
    )
    return target.with_name(f"{target.name}.hea")


def lead_table(signal_mv: np.ndarray, fs: float) -> pd.DataFrame:
    """(12, T) mV as a table: (T, 12), columns the lead names, index ``time_s``."""
    import pandas as pd

    index = pd.Index(np.arange(signal_mv.shape[1]) / fs, name="time_s")
    return pd.DataFrame(signal_mv.T, index=index, columns=list(LEADS))


def plot_leads(signal_mv: np.ndarray, fs: float, shown: np.ndarray) -> Figure:
    """Leads on a millimetre grid, 25 mm/s and 10 mm/mV; what is not ``shown`` is grey.

    Args:
        signal_mv: (12, T) mV, NaN where missing.
        fs: Hz.
        shown: (12, T) bool.

    Returns:
        A matplotlib figure in true size.
    """
    from matplotlib.figure import Figure

    width, height = signal_mv.shape[1] / fs * MM_PER_S, MM_PER_LEAD * len(LEADS)
    figure = Figure(figsize=(width / 25.4, height / 25.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height), xticks=[], yticks=[])
    for step, colour, line_width in ((1, "#f7dcdc", 0.3), (5, "#eeb4b4", 0.6)):
        axes.vlines(np.arange(0, width + 1, step), 0, height, colors=colour, linewidths=line_width, zorder=0)
        axes.hlines(np.arange(0, height + 1, step), 0, width, colors=colour, linewidths=line_width, zorder=0)
    x = np.arange(signal_mv.shape[1]) / fs * MM_PER_S
    for index, lead in enumerate(LEADS):
        zero = height - MM_PER_LEAD * (index + 0.5)
        y = zero + MM_PER_MV * signal_mv[index]
        axes.plot(x, y, color="#9aa3ad", lw=0.8)
        axes.plot(x, np.where(shown[index], y, np.nan), color="#1d2733", lw=0.9)
        axes.text(1.5, zero + 0.35 * MM_PER_LEAD, lead, va="top", fontsize=8, fontweight="bold")
    return figure


def shown_text(shown: np.ndarray, fs: float) -> str:
    """What a page shows, in words: ``I 0-2.5 s, ...``.

    Args:
        shown: (12, T) bool.
        fs: Hz.
    """
    parts = []
    for lead, samples in zip(LEADS, shown, strict=True):
        start = 0
        for value, run in groupby(samples.tolist()):
            stop = start + len(list(run))
            if value:
                parts.append(f"{lead} {start / fs:g}-{stop / fs:g} s")
            start = stop
    return ", ".join(parts) or "nothing"
