"""Plausibility checks of a 12-lead ECG: a recording that fails goes to quarantine with a reason, never into training.

What is odd and may be right is only noted. ``benchmarks/recording_faults.py`` measures what each check finds and how often it
is wrong; the table is in ``docs/archives.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.leads import LEADS, lead_law_residual
from ecgscan_ray.recording.recording import Recording


@dataclass(frozen=True)
class Limits:
    """Limits of plausible recordings. Defaults were set on 11,700 PTB-XL recordings, of which they reject ten.

    Attributes:
        min_fs, max_fs: Sampling rate in Hz.
        min_seconds: Shortest recording.
        max_missing_share: Of the samples of any lead. CODE-15% fills 7.3 s up to 10.24 s: 28 % are missing.
        min_range_mv, max_range_mv: Of the geometric mean over leads of the range from the 0.5th to the 99.5th
            percentile. Of the statistics tried, this one separates best a recording read five times too large from a
            large one: 3.1 mV catches 99 % of the former and rejects nine original PTB-XL recordings. 0.25 mV catches
            99 % of recordings read ten times too small, 68 % of those read 4.88 times too small, and rejects none.
            Small children and hypertrophy reach the upper limit, low voltage the lower one; change them for such
            archives.
        min_lead_ratio, max_lead_ratio: Of the mean change from sample to sample of a chest lead and of its neighbours
            (geometric mean); also of the limb and the chest leads. In PTB-XL it is between 0.12 and 3.8, so that none is
            rejected; a chest lead read 16 times too large or too small is caught in 99 and 97 %, one read 1,000
            times too large or small always. A single limb lead's gain shows in the lead laws.
        max_residual_mv: Of the lead laws, in the 90th percentile over time; 1.5 steps where steps are coarser.
            Artefacts and splices break the laws for moments (such recordings are kept, with their residual); exchanged
            leads break them all the time. In PTB-XL it is at most 0.001 mV; with two leads exchanged it is above 0.02
            but for III and aVF in 4 of 11,700.
        max_still_share: Of a lead's samples, in runs of a second or more without a change: an electrode that is off. In
            PTB-XL the longest run has 0.43 s.
        min_touches: So many separate times a lead must stay at its greatest or least value for 10 ms or more to be called
            saturated. In PTB-XL at 100 Hz it is at most 2, at 500 Hz as well.
        min_levels: A lead of fewer steps from its least to its greatest value is not tested for saturation: in coarse steps,
            waves end at the same value by chance.
        min_arm_correlation, max_avr_correlation: Of the changes of I, and of aVR, with those of V6. Exchanged arm electrodes
            turn lead I over; an arm and a leg exchanged turn aVR. So do dextrocardia and some infarctions: it is noted.
    """

    min_fs: float = 50.0
    max_fs: float = 5000.0
    min_seconds: float = 2.5
    max_missing_share: float = 0.3
    min_range_mv: float = 0.25
    max_range_mv: float = 3.1
    min_lead_ratio: float = 0.1
    max_lead_ratio: float = 5.0
    max_residual_mv: float = 0.02
    max_still_share: float = 0.3
    min_touches: int = 4
    min_levels: int = 50
    min_arm_correlation: float = -0.5
    max_avr_correlation: float = 0.2


def check(recording: Recording, limits: Limits = Limits()) -> tuple[str, ...]:
    """Raise for the first implausible property.

    Returns:
        What is odd and may be right, in fixed phrases.

    Raises:
        RecordingError: Its reason is ``sampling_rate``, ``too_short``, ``not_finite``, ``missing_lead``,
            ``missing_samples``, ``flat_lead``, ``saturated``, ``implausible_gain`` or ``lead_laws``.
    """
    signal = recording.signal_mv
    if not limits.min_fs <= recording.fs <= limits.max_fs:
        problem = f"sampling rate of {recording.fs:g} Hz, not {limits.min_fs:g} to {limits.max_fs:g}"
        raise _error(recording, "sampling_rate", problem)
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
    _check_flat(recording, limits)
    _check_saturation(recording, limits)
    _check_gain(recording, limits)
    _check_gain_of_leads(recording, limits)
    _check_lead_laws(recording, limits)
    return _electrodes(recording, limits)


def _check_flat(recording: Recording, limits: Limits) -> None:
    signal = recording.signal_mv
    flat = np.nanmax(signal, axis=1) == np.nanmin(signal, axis=1)
    if flat.any():
        raise _error(recording, "flat_lead", f"lead {_names(flat)} is constant")
    still = np.array([_still_share(lead, recording.fs) for lead in signal])
    if (still > limits.max_still_share).any():
        worst = float(still.max())
        raise _error(recording, "flat_lead", f"lead {_names(still == worst)} stands still for {worst:.0%} of the time")


def _still_share(lead: NDArray[np.float32], fs: float) -> float:
    """Share of a lead's samples in runs of a second or more without a change; missing ones are none of them."""
    length = max(round(fs), 2)
    probes = lead[:: max(length // 2, 1)]
    if not (probes[:-1] == probes[1:]).any():  # every such run holds two neighbouring probes
        return 0.0
    runs = _runs(lead[:-1] == lead[1:]) + 1
    return float(runs[runs >= length].sum() / len(lead))


def _check_saturation(recording: Recording, limits: Limits) -> None:
    signal, length = recording.signal_mv, max(2, round(0.01 * recording.fs))
    low, high = np.nanmin(signal, axis=1), np.nanmax(signal, axis=1)
    levels = (high - low) * (recording.steps_per_mv or np.inf)
    for index in np.flatnonzero(levels >= limits.min_levels):
        for extreme in (low[index], high[index]):
            at = signal[index] == extreme
            if np.count_nonzero(at) < limits.min_touches * length:
                continue
            touches = int((_runs(at) >= length).sum())
            if touches >= limits.min_touches:
                problem = f"lead {LEADS[index]} stops at {extreme:.3g} mV {touches} times: saturated"
                raise _error(recording, "saturated", problem)


def _electrodes(recording: Recording, limits: Limits) -> tuple[str, ...]:
    """A note where the leads look as if two electrodes had changed places."""
    changes = np.diff(recording.signal_mv[[LEADS.index("I"), LEADS.index("aVR"), LEADS.index("V6")]], axis=1)
    changes = changes[:, ~np.isnan(changes).any(axis=0)].astype(np.float64)
    changes -= changes.mean(axis=1, keepdims=True) if changes.shape[1] else 0.0
    size = np.sqrt((changes**2).sum(axis=1))
    if not size.all():
        return ()
    first, avr = (changes[:2] @ changes[2]) / (size[:2] * size[2])
    odd = first < limits.min_arm_correlation or avr > limits.max_avr_correlation
    return ("electrodes perhaps exchanged",) if odd else ()


def _runs(at: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths of the runs of true values."""
    edges = np.flatnonzero(np.diff(at.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
    return edges[:, 1] - edges[:, 0]


def _check_gain(recording: Recording, limits: Limits) -> None:
    percentile = np.nanpercentile if np.isnan(recording.signal_mv).any() else np.percentile  # the latter is faster
    low, high = percentile(recording.signal_mv, [0.5, 99.5], axis=1)
    typical = float(np.exp(np.mean(np.log(np.maximum(high - low, 1e-4)))))
    if not limits.min_range_mv <= typical <= limits.max_range_mv:
        problem = f"typical range of {typical:.3g} mV, not {limits.min_range_mv} to {limits.max_range_mv}: probably a wrong gain"
        fix = "Correct the gain in the header; newborns and low voltage need other Limits (recording/checks.py)."
        raise _error(recording, "implausible_gain", problem, fix)


def _check_gain_of_leads(recording: Recording, limits: Limits) -> None:
    """A chest lead whose samples change far more or less than its neighbours' was read with a wrong gain."""
    changes = np.nanmean(np.abs(np.diff(recording.signal_mv, axis=1)), axis=1, dtype=np.float64)
    limb, chest = np.split(np.log(np.maximum(changes, 1e-9)), [6])
    neighbours = np.concatenate([chest[1:2], (chest[:-2] + chest[2:]) / 2, chest[-2:-1]])
    ratios = np.exp([*(chest - neighbours), limb.mean() - chest.mean()])
    wrong = (ratios < limits.min_lead_ratio) | (ratios > limits.max_lead_ratio)
    if not wrong.any():
        return
    worst = int(np.argmax(np.abs(chest - np.median(chest)))) if wrong[:6].any() else 6  # its neighbours look wrong too
    name, others = (*((lead, "its neighbours") for lead in LEADS[6:]), ("I to aVF", "V1 to V6"))[worst]
    problem = (
        f"the samples of {name} change {ratios[worst]:.3g} times as much as those of {others}: probably a wrong gain"
    )
    raise _error(recording, "implausible_gain", problem, "Correct the gain in the header.")


def _check_lead_laws(recording: Recording, limits: Limits) -> None:
    residual = np.abs(lead_law_residual(recording.signal_mv))
    known = residual[:, ~np.isnan(residual).any(axis=0)].max(axis=0)
    allowed = max(limits.max_residual_mv, 1.5 / (recording.steps_per_mv or np.inf))
    if len(known) and (high := float(np.percentile(known, 90))) > allowed:
        problem = f"the limb leads contradict each other by {high * 1000:.0f} uV and more: exchanged or other leads"
        raise _error(recording, "lead_laws", problem)


def _names(selected: np.ndarray) -> str:
    return ", ".join(lead for lead, is_selected in zip(LEADS, selected, strict=True) if is_selected)


def _error(recording: Recording, reason: str, problem: str, fix: str | None = None) -> RecordingError:
    return RecordingError(problem, reason=reason, where=recording.id, fix=fix)
