"""Lead laws and time survive resampling."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgscan_ray.recording.leads import LEAD_LAWS, LEADS, lead_names, lead_residual_uv
from tests.records import recording


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([100.0, 250.0, 257.0, 500.0, 1000.0]),
    st.sampled_from([50.0, 100.0, 200.0, 360.0]),
)
def test_lead_laws_survive_resampling(seed: int, fs: float, to: float) -> None:
    before = recording(seed=seed, fs=fs)
    after = before.resampled(to)
    assert after.fs == to
    assert abs(after.seconds - before.seconds) < 2 / to
    assert lead_residual_uv(after.signal_mv) <= lead_residual_uv(before.signal_mv) + 2.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 11), st.integers(0, 4800), st.integers(1, 2000), st.integers(0, 10**6))
def test_gaps_stay_gaps_and_do_not_leak(lead: int, start: int, length: int, seed: int) -> None:
    before = recording(seed=seed, fs=500.0)
    signal = before.signal_mv.copy()
    signal[lead, start : start + length] = np.nan
    after = dataclasses.replace(before, signal_mv=signal).resampled(100.0).signal_mv
    whole = before.resampled(100.0).signal_mv
    gap = np.isnan(after)
    assert gap[lead, -(-start // 5) : min(start + length, 5000) // 5].all()
    assert not gap[[k for k in range(12) if k != lead]].any()
    np.testing.assert_allclose(after[~gap], whole[~gap], atol=0.002)
    assert lead_residual_uv(after) <= lead_residual_uv(before.signal_mv) + 2.0


def test_resampling_keeps_a_slow_wave_in_place() -> None:
    t = np.arange(5000) / 500.0
    wave = np.tile(np.sin(2 * np.pi * 1.3 * t) + 0.5, (12, 1)).astype(np.float32)
    after = recording(fs=500.0, signal_mv=wave).resampled(100.0).signal_mv
    np.testing.assert_allclose(after[:, 20:-20], wave[:, ::5][:, 20:-20], atol=0.005)


def test_residual_of_each_law() -> None:
    """One lead off by 1 mV breaks exactly the laws it occurs in."""
    for lead in range(12):
        signal = np.zeros((12, 4), np.float32)
        signal[lead, 2] = 1.0
        assert lead_residual_uv(signal) == pytest.approx(1000 * np.abs(LEAD_LAWS[:, lead]).max())


def test_missing_lead_hides_only_its_laws() -> None:
    signal = recording().signal_mv.copy()
    signal[LEADS.index("aVL")] += 1
    assert lead_residual_uv(signal) > 990
    signal[LEADS.index("aVL")] = np.nan
    assert lead_residual_uv(signal) < 3


@given(st.sampled_from(LEADS), st.sampled_from(["", "MDC_ECG_LEAD_", "lead ", "LEAD_", "ECG ", " "]), st.booleans())
def test_lead_names(lead: str, prefix: str, upper: bool) -> None:
    assert lead_names([prefix + (lead.upper() if upper else lead.lower())]) == [lead]


@pytest.mark.parametrize("text", ["vx", "-aVR", "MLII", "V", "V7", "C3", "ECG", "ECG 1", "1", "", None, "PLETH"])
def test_not_a_lead(text: str | None) -> None:
    assert lead_names([text]) == [None]
