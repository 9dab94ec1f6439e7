"""A 12-lead recording."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from ecgscan_ray.recording.leads import LEADS


@dataclass(frozen=True)
class Recording:
    """Twelve leads in mV and what is known about them.

    Attributes:
        id: Unique within its source.
        source: Name of the archive's source, e.g. ``ptbxl``.
        patient_id: Unique within the source, ``None`` = unknown.
        signal_mv: (12, T) float32 in the order of ``LEADS``, NaN where missing.
        fs: Sampling rate, Hz.
        report: Text by a clinician or a device.
        labels: Code -> likelihood in percent (0 = not stated).
        age: Years.
        sex: ``male`` or ``female``.
        fold: Stratified fold of the source, where it has folds.
        steps_per_mv: Quantisation steps per mV (1000 = 1 uV per step), where all leads share it.
        notes: What is not as measured or looks odd, in a few fixed phrases, for counts.
    """

    id: str
    source: str
    patient_id: str | None
    signal_mv: NDArray[np.float32]
    fs: float
    report: str | None = None
    labels: dict[str, float] = field(default_factory=dict)
    age: float | None = None
    sex: str | None = None
    fold: int | None = None
    steps_per_mv: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.signal_mv.ndim != 2 or self.signal_mv.shape[0] != len(LEADS):
            raise ValueError(f"signal_mv of {self.id} has shape {self.signal_mv.shape}, not (12, T)")

    @property
    def sig_len(self) -> int:
        """Samples per lead, T."""
        return self.signal_mv.shape[1]

    @property
    def seconds(self) -> float:
        return self.sig_len / self.fs

    def resampled(self, fs: float) -> Recording:
        """The same recording at another rate (polyphase filter; linear, so lead laws survive).

        A new sample is missing where an old missing one is within the filter's reach (ten samples of the lower
        rate): a filtered gap is no measurement.

        Args:
            fs: New rate in Hz; the ratio of the rates is approximated by a fraction with terms up to 1000.
        """
        if fs == self.fs:
            return self
        ratio = Fraction(fs / self.fs).limit_denominator(1000)
        missing = np.isnan(self.signal_mv)
        bridged = np.stack([_bridge(lead, gap) for lead, gap in zip(self.signal_mv, missing, strict=True)])
        # padtype="line" removes offset and drift before filtering: the ends are not pulled to zero
        signal = resample_poly(bridged, ratio.numerator, ratio.denominator, axis=1, padtype="line").astype(np.float32)
        if missing.any():
            signal[_within_reach(missing, signal.shape[1], ratio)] = np.nan
        return replace(self, signal_mv=signal, fs=float(fs), steps_per_mv=None)


def without_standstill(signal_mv: NDArray[np.float32], fs: float) -> NDArray[np.float32]:
    """The signal with NaN where all leads are constant for a second or more: padding and gaps.

    In 11,700 PTB-XL recordings at 100 Hz the longest such run has 0.05 s. A recording that is constant from beginning
    to end is returned unchanged.

    Args:
        signal_mv: (12, T), NaN where missing already.
        fs: Hz.
    """
    sig_len = signal_mv.shape[1]
    probes = np.arange(0, sig_len - 1, max(int(min(fs, sig_len)) - 1, 1))
    if not _still(signal_mv[:, probes], signal_mv[:, probes + 1]).any():  # every run of a second contains one of them
        return signal_mv
    still = _still(signal_mv[:, :-1], signal_mv[:, 1:])
    if still.all():
        return signal_mv
    signal = signal_mv.copy()
    edges = np.flatnonzero(np.diff(still, prepend=False, append=False)).reshape(-1, 2)
    for start, stop in edges:
        if stop + 1 - start >= fs:  # n steps without a change are n + 1 equal samples
            signal[:, start : stop + 1] = np.nan
    return signal


def _still(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where every lead has the same value in both, or is missing in both: (T,)."""
    return ((before == after) | (np.isnan(before) & np.isnan(after))).all(axis=0)


def _bridge(lead: NDArray[np.float32], gap: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The lead with missing samples interpolated; zeros where all are missing."""
    values = lead.astype(np.float64)
    if gap.all():
        return np.zeros_like(values)
    if gap.any():
        values[gap] = np.interp(np.flatnonzero(gap), np.flatnonzero(~gap), values[~gap])
    return values


def _within_reach(missing: NDArray[np.bool_], sig_len: int, ratio: Fraction) -> NDArray[np.bool_]:
    """Which of the ``sig_len`` new samples have a missing old one within the filter's reach: (12, sig_len)."""
    reach = 10 * max(ratio.numerator, ratio.denominator) / ratio.numerator  # scipy's filter, in old samples
    position = np.arange(sig_len) / float(ratio)
    start = np.ceil(position - reach).astype(int).clip(0, missing.shape[1])
    stop = (np.floor(position + reach).astype(int) + 1).clip(0, missing.shape[1])
    count = np.pad(np.cumsum(missing, axis=1), ((0, 0), (1, 0)))
    return count[:, stop] > count[:, start]
