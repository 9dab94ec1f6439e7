"""Each kind of implausible recording is refused by its own reason, and a plain one passes."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.checks import check
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


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("missing_lead", {"signal_mv": changed(V6=np.nan)}),
        ("missing_samples", {"signal_mv": half_missing()}),
        ("flat_lead", {"signal_mv": changed(V5=0.25)}),
        ("implausible_gain", {"signal_mv": GOOD * 5}),
        ("implausible_gain", {"signal_mv": GOOD / 1000}),
        ("not_finite", {"signal_mv": changed(V1=np.inf)}),
        ("lead_laws", {"signal_mv": GOOD[[0, 1, 2, 3, 5, 4, *range(6, 12)]]}),
        ("lead_laws", {"signal_mv": GOOD[[1, 0, *range(2, 12)]]}),
        ("too_short", {"signal_mv": GOOD[:, :200]}),
        ("sampling_rate", {"fs": 0.0}),
    ],
)
def test_reason(reason: str, changes: dict) -> None:
    with pytest.raises(RecordingError) as caught:
        check(recording(**changes))
    assert caught.value.reason == reason


def test_a_plain_recording_passes() -> None:
    check(recording())


def test_a_moment_that_breaks_the_laws_passes() -> None:
    """Such recordings are kept with their residual; only exchanged leads break the laws all the time."""
    signal = GOOD.copy()
    signal[0, 100:110] += 3
    check(recording(signal_mv=signal))
