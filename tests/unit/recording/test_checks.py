"""Each kind of implausible recording is refused by its own reason, and a plain one passes."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.checks import Limits, check
from ecgscan_ray.recording.leads import LEADS
from tests.records import recording

GOOD = recording().signal_mv


def changed(**leads: object) -> np.ndarray:
    signal = GOOD.copy()
    for lead, values in leads.items():
        signal[LEADS.index(lead)] = values
    return signal


def half_missing() -> np.ndarray:
    signal = GOOD.copy()
    signal[7, :500] = np.nan
    return signal


def still(samples: int) -> np.ndarray:
    return changed(V3=np.where(np.arange(1000) < samples, np.float32(0.1), GOOD[8]))


def scaled(factor: float, *leads: str) -> np.ndarray:
    return changed(**{lead: GOOD[LEADS.index(lead)] * np.float32(factor) for lead in leads})


def exchanged_from(start: int, one: str, other: str) -> np.ndarray:
    signal, pair = GOOD.copy(), [LEADS.index(one), LEADS.index(other)]
    signal[pair, start:] = signal[pair[::-1], start:]
    return signal


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("missing_lead", {"signal_mv": changed(V6=np.nan)}),
        ("missing_samples", {"signal_mv": half_missing()}),
        ("flat_lead", {"signal_mv": changed(V5=0.25)}),
        ("flat_lead", {"signal_mv": still(400)}),
        ("saturated", {"signal_mv": changed(V4=np.minimum(GOOD[9], GOOD[9].max() / 2))}),
        ("saturated", {"signal_mv": changed(V2=np.maximum(GOOD[7], GOOD[7].min() / 2))}),
        ("implausible_gain", {"signal_mv": GOOD * 5}),
        ("implausible_gain", {"signal_mv": GOOD / 1000}),
        ("implausible_gain", {"signal_mv": GOOD / 10}),
        ("implausible_gain", {"signal_mv": GOOD / 4.88}),
        ("implausible_gain", {"signal_mv": scaled(16, "V5")}),
        ("implausible_gain", {"signal_mv": scaled(1 / 16, "V2")}),
        ("implausible_gain", {"signal_mv": scaled(1e-17, "V4")}),
        ("implausible_gain", {"signal_mv": scaled(8, *LEADS[:6])}),
        ("lead_laws", {"signal_mv": scaled(5, "II")}),
        ("not_finite", {"signal_mv": changed(V1=np.inf)}),
        ("lead_laws", {"signal_mv": GOOD[[0, 1, 2, 3, 5, 4, *range(6, 12)]]}),
        ("lead_laws", {"signal_mv": GOOD[[1, 0, *range(2, 12)]]}),
        ("lead_laws", {"signal_mv": exchanged_from(500, "aVL", "aVF")}),
        ("lead_laws", {"signal_mv": exchanged_from(700, "I", "II")}),
        ("too_short", {"signal_mv": GOOD[:, :200]}),
        ("sampling_rate", {"fs": 0.0}),
        ("sampling_rate", {"fs": 49.0}),
        ("sampling_rate", {"fs": 5001.0}),
    ],
)
def test_reason(reason: str, changes: dict) -> None:
    with pytest.raises(RecordingError) as caught:
        check(recording(**changes))
    assert caught.value.reason == reason


def test_a_plain_recording_passes() -> None:
    assert check(recording()) == ()
    check(recording(signal_mv=still(290)))
    coarse = np.round(GOOD / 0.1) * np.float32(0.1)
    coarse[:6] = GOOD[:6]
    check(recording(signal_mv=coarse, steps_per_mv=10.0))  # whose waves end at the same value by chance


@pytest.mark.parametrize(
    ("signs", "order"),
    [((-1, 1, 1, 1, 1, 1), (0, 2, 1, 4, 3, 5)), ((-1, -1, -1, 1, 1, 1), (2, 1, 0, 5, 4, 3))],
    ids=["arms", "right arm and left leg"],
)
def test_exchanged_electrodes_are_noted(signs: tuple[int, ...], order: tuple[int, ...]) -> None:
    """They obey the lead laws: only the usual pattern is broken."""
    signal = GOOD.copy()
    signal[:6] = GOOD[list(order)] * np.array(signs, np.float32)[:, None]
    assert check(recording(signal_mv=signal)) == ("electrodes perhaps exchanged",)


def test_a_moment_that_breaks_the_laws_passes() -> None:
    """Such recordings are kept with their residual; only exchanged leads break the laws all the time."""
    signal = GOOD.copy()
    signal[0, 100:110] += 3
    check(recording(signal_mv=signal))


def test_the_limits_are_arguments() -> None:
    """Newborns and low voltage have small ranges."""
    check(recording(signal_mv=GOOD / 8), Limits(min_range_mv=0.05))
    check(recording(signal_mv=scaled(16, "V5")), Limits(min_lead_ratio=0.01, max_lead_ratio=50))


def test_the_lead_at_fault_is_named() -> None:
    for lead, factor in {"V1": 16, "V5": 16, "V4": 1 / 100, "V6": 1e-17}.items():
        with pytest.raises(RecordingError, match=f"of {lead} change"):
            check(recording(signal_mv=scaled(factor, lead)))
    with pytest.raises(RecordingError, match="of I to aVF change"):
        check(recording(signal_mv=scaled(8, *LEADS[:6])))


def test_coarse_steps_may_contradict_the_laws() -> None:
    """20 uV a step: each lead is rounded on its own."""
    check(recording(signal_mv=np.rint(GOOD * 50) / np.float32(50), steps_per_mv=50.0))
