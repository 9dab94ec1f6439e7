"""Masks, correlations and the mean-beat oracle on signals whose answer is known."""

import numpy as np
import pytest
import torch

from ecgscan_ray.evaluation.redraw import (
    lead_pearson,
    lead_residual_mv,
    project_on_laws,
    recording_pearson,
    recording_rmse,
)
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.recording.mean_beat import completed, find_beats, mean_beat_redraw, r_peaks
from tests.records import R_PEAK_S, beat_mv

FS = 100.0


def page_mask() -> np.ndarray:
    """What a 3x4 page with rhythm strip II shows of ten seconds."""
    shown = np.zeros((12, 1000), bool)
    for lead in range(12):
        column = lead // 3
        shown[lead, column * 250 : (column + 1) * 250] = True
    shown[LEADS.index("II")] = True
    return shown


def beats(rr_s=0.8, jitter_s=0.0, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """Twelve leads of one beat with other heights (some upside down); R peaks in samples."""
    rng = np.random.default_rng(seed)
    peaks = np.cumsum(rr_s + jitter_s * rng.uniform(-1, 1, 14)) - 0.5
    time = np.arange(1000) / FS
    shape = np.sum([beat_mv(time - peak + R_PEAK_S) for peak in peaks], axis=0)
    heights = np.array([0.8, 1.2, 0.4, -1.0, 0.2, 0.8, -0.6, -0.9, 0.5, 1.1, 1.3, 1.0])
    return heights[:, None] * shape, np.round(peaks[peaks < 10] * FS).astype(int)


def test_pearson_looks_at_masked_samples_only():
    rng = np.random.default_rng(0)
    truth = torch.as_tensor(rng.normal(size=(2, 12, 200)), dtype=torch.float32)
    redrawn = truth.clone()
    mask = torch.zeros(2, 12, 200, dtype=torch.bool)
    mask[..., :80] = True
    redrawn[..., 80:] = 1e3
    assert recording_pearson(redrawn, truth, mask).numpy() == pytest.approx([1, 1], abs=1e-4)
    assert recording_rmse(redrawn, truth, mask).numpy() == pytest.approx([0, 0])
    reference = np.corrcoef(redrawn[0, 3, 60:120].numpy(), truth[0, 3, 60:120].numpy())[0, 1]
    window = torch.zeros_like(mask)
    window[..., 60:120] = True
    assert lead_pearson(redrawn, truth, window)[0, 3].item() == pytest.approx(reference, abs=1e-4)


def test_pearson_skips_what_has_no_meaning_and_does_not_forgive_a_flat_line():
    truth = torch.randn(1, 12, 200, generator=torch.Generator().manual_seed(0))
    truth[0, 5] = 0.0
    mask = torch.ones(1, 12, 200, dtype=torch.bool)
    mask[0, 7, 5:] = False
    r = lead_pearson(torch.zeros(1, 12, 200), truth, mask)[0]
    assert torch.isnan(r[5]), "the truth is constant"
    assert torch.isnan(r[7]), "too few samples"
    assert (r[[0, 1, 2, 3, 4, 6]] == 0).all(), "a flat line is no correlation, not a missing one"
    assert torch.isnan(recording_pearson(truth, truth, torch.zeros_like(mask))).all()


def test_rmse_counts_offsets():
    truth = torch.zeros(1, 12, 100)
    assert recording_rmse(truth + 0.25, truth, torch.ones_like(truth, dtype=torch.bool)).item() == pytest.approx(0.25)


def test_lead_residual_is_zero_by_the_laws_and_sees_a_swap():
    rng = np.random.default_rng(1)
    i, ii = rng.normal(size=(2, 50))
    limb = np.stack([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2])
    signal = torch.as_tensor(np.concatenate([limb, rng.normal(size=(6, 50))])[None], dtype=torch.float32)
    assert lead_residual_mv(signal).item() < 1e-6
    swapped = signal[:, [0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10, 11]]
    assert lead_residual_mv(swapped).item() > 0.1


def test_r_peaks_are_found_upright_and_inverted():
    signal, peaks = beats(jitter_s=0.1)
    for sign in (1, -1):
        found = r_peaks(sign * signal[1], FS)
        inside = peaks[(peaks > 10) & (peaks < 990)]
        assert np.abs(found[:, None] - inside).min(axis=0).max() <= 1
        assert len(found) == pytest.approx(len(inside), abs=1)


def test_oracle_redraws_a_regular_rhythm_from_what_is_shown():
    signal, _ = beats(jitter_s=0.08)
    shown = page_mask()
    drawn = mean_beat_redraw(signal, shown, FS)
    unseen = torch.as_tensor(~shown[None])
    r = recording_pearson(torch.as_tensor(drawn[None]).float(), torch.as_tensor(signal[None]).float(), unseen)
    assert r.item() > 0.93  # what is lost is the fraction of a sample by which peaks are rounded


def test_oracle_knows_nothing_of_the_unseen_samples():
    signal, _ = beats()
    shown = page_mask()
    changed = np.where(shown, signal, np.random.default_rng(0).normal(size=signal.shape))
    np.testing.assert_array_equal(mean_beat_redraw(signal, shown, FS), mean_beat_redraw(changed, shown, FS))


def test_oracle_has_no_beat_for_a_lead_that_is_never_shown():
    signal, _ = beats()
    shown = page_mask()
    shown[8] = False
    drawn = mean_beat_redraw(signal, shown, FS)
    assert np.isnan(drawn[8]).all()
    assert np.isfinite(drawn[[0, 1, 11]]).all()
    assert find_beats(np.zeros((12, 1000)), shown, FS) is None


def test_leads_as_read_are_completed_by_their_mean_beats():
    signal, _ = beats(jitter_s=0.08)
    shown = page_mask()
    shown[8] = False
    read = np.where(shown, signal, np.nan).astype(np.float32)
    filled = completed(read, FS)
    assert filled.dtype == np.float32 and np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[shown], read[shown])
    np.testing.assert_array_equal(filled[8], np.zeros(1000))
    oracle = mean_beat_redraw(np.where(shown, signal, 0.0), shown, FS).astype(np.float32)
    others = ~shown & np.isfinite(oracle)
    np.testing.assert_allclose(filled[others], oracle[others], atol=1e-5)
    np.testing.assert_array_equal(completed(np.full((12, 1000), np.nan, np.float32), FS), np.zeros((12, 1000)))
    flat = np.where(shown, np.float32(0.2), np.nan)
    np.testing.assert_array_equal(completed(flat, FS), np.where(shown, np.float32(0.2), 0))


def test_projected_leads_obey_the_laws_and_shown_ones_nearly_stay():
    rng = np.random.default_rng(0)
    free = rng.normal(size=(3, 8, 1000))
    one, two = free[:, 0], free[:, 1]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    truth = torch.as_tensor(np.concatenate([np.stack(limb, 1), free[:, 2:]], 1), dtype=torch.float32)
    shown = torch.as_tensor(page_mask()).expand(3, -1, -1)
    noise = torch.as_tensor(rng.normal(size=truth.shape), dtype=torch.float32)
    redrawn = truth + torch.where(shown, 0.01, 0.1) * noise
    projected = project_on_laws(redrawn, shown)
    assert lead_residual_mv(redrawn).min() > 0.05
    assert lead_residual_mv(projected).max() < 1e-6
    torch.testing.assert_close(projected[:, 6:], redrawn[:, 6:], rtol=0, atol=0)
    limbs = torch.zeros(12, 1, dtype=torch.bool)
    limbs[:6] = True
    moved = (projected - redrawn).abs()
    # aVR aVL aVF where I II III are shown: they follow, while these stay
    assert moved[:, :3, :250].mean() < 0.02 < 0.04 < moved[:, 3:6, :250].mean()
    for mask in (shown & limbs, ~shown & limbs):
        assert recording_rmse(projected, truth, mask).mean() < recording_rmse(redrawn, truth, mask).mean()
    torch.testing.assert_close(project_on_laws(truth, shown), truth, atol=1e-5, rtol=0)


def test_evidence_decides_who_moves():
    redrawn = torch.zeros(1, 12, 4)
    redrawn[:, 0] = 1.0  # lead I alone says something
    first, rest = torch.zeros(1, 12, 4, dtype=torch.bool), torch.ones(1, 12, 4, dtype=torch.bool)
    first[:, 0] = True
    kept = project_on_laws(redrawn, first, 1e6)
    assert kept[0, 0, 0] == pytest.approx(1, abs=1e-4)
    alone = rest & ~first
    assert project_on_laws(redrawn, alone, 1e6)[0, 0, 0] == pytest.approx(0, abs=1e-4)
