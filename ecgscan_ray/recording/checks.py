"""Is this a plausible 12-lead ECG? What fails goes to quarantine with a reason, and never into training unseen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.leads import LEADS, lead_law_residual
from ecgscan_ray.recording.recording import Recording


@dataclass(frozen=True)
class Limits:
    """What counts as plausible. Defaults were set on 11,700 PTB-XL recordings, of which they leave out ten.

    Attributes:
        min_seconds: Shortest recording.
        max_missing_share: Of the samples of any lead.
        min_range_mv, max_range_mv: Of the geometric mean over leads of the range from the 0.5th to the 99.5th
            percentile. Of the statistics tried, this one tells best a recording read five times too large from a large
            one: at 3.1 mV it catches 99 % of the former and leaves out 0.1 % of PTB-XL as it is. Small children and
            thick hearts reach that; raise it for an archive of such.
        max_median_residual_mv: Of the lead laws, in the median over time. Artefacts and splices break the laws for
            moments (such recordings are kept, with their residual); exchanged leads break them all the time. In PTB-XL
            it is 0.0005 mV, with aVL and aVF exchanged at least 0.035.
    """

    min_seconds: float = 2.5
    max_missing_share: float = 0.25
    min_range_mv: float = 0.05
    max_range_mv: float = 3.1
    max_median_residual_mv: float = 0.03


def check(recording: Recording, limits: Limits = Limits()) -> None:
    """Raise for the first thing that is not plausible.

    Raises:
        RecordingError: With the reason ``sampling_rate``, ``too_short``, ``not_finite``, ``missing_lead``,
            ``missing_samples``, ``flat_lead``, ``implausible_gain`` or ``lead_laws``.
    """
    signal = recording.signal_mv
    if not recording.fs > 0:
        raise _error(recording, "sampling_rate", f"sampling rate of {recording.fs} Hz")
    if recording.seconds < limits.min_seconds:
        raise _error(recording, "too_short", f"{recording.seconds:.2f} s, shorter than {limits.min_seconds} s")
    if np.isinf(signal).any():
        raise _error(recording, "not_finite", "infinite samples")
    missing = np.isnan(signal).mean(axis=1)
    if (missing == 1).any():
        raise _error(recording, "missing_lead", f"no sample of lead {_names(missing == 1)}")
    if (missing > limits.max_missing_share).any():
        worst = float(missing.max())
        raise _error(recording, "missing_samples", f"{worst:.0%} of lead {_names(missing == worst)} is missing (NaN)")
    flat = np.nanmax(signal, axis=1) == np.nanmin(signal, axis=1)
    if flat.any():
        raise _error(recording, "flat_lead", f"lead {_names(flat)} is constant")
    _check_gain(recording, limits)
    residual = np.abs(lead_law_residual(signal))
    known = residual[:, ~np.isnan(residual).any(axis=0)].max(axis=0)
    if len(known) and (median := float(np.median(known))) > limits.max_median_residual_mv:
        problem = f"the limb leads contradict each other by {median * 1000:.0f} uV throughout: exchanged or other leads"
        raise _error(recording, "lead_laws", problem)


def _check_gain(recording: Recording, limits: Limits) -> None:
    low, high = np.nanpercentile(recording.signal_mv, [0.5, 99.5], axis=1)
    typical = float(np.exp(np.mean(np.log(np.maximum(high - low, 1e-4)))))
    if not limits.min_range_mv <= typical <= limits.max_range_mv:
        problem = f"typical range of {typical:.3g} mV, not {limits.min_range_mv} to {limits.max_range_mv}: wrong gain?"
        raise _error(recording, "implausible_gain", problem)


def _names(chosen: np.ndarray) -> str:
    return ", ".join(lead for lead, is_chosen in zip(LEADS, chosen, strict=True) if is_chosen)


def _error(recording: Recording, reason: str, what: str) -> RecordingError:
    return RecordingError(what, reason=reason, where=recording.id)
