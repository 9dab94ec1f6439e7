import numpy as np
import pytest

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper.layout import page_to_image
from ecgscan_ray.paper.trace import Ink, kernels, pen
from tests.unit.paper.pages import beats, centroids, reference, traces_only


def wild(seed: int) -> np.ndarray:
    """Leads with gaps, spikes, huge and flat stretches."""
    rng = np.random.default_rng(seed)
    signal = (beats(seed=seed) + 0.05 * rng.standard_normal((12, 1000))).astype(np.float32)
    signal[0, 100:140] = np.nan
    signal[1] = np.nan
    signal[2, ::2] = np.nan
    signal[3, 500] = 1e9
    signal[4, 400:] = -30.0
    signal[5] = 0.25
    return signal


@pytest.mark.parametrize("k", [2, 4, 8])
@pytest.mark.parametrize("layout", ["3x4+1", "12x1"])
def test_numpy_draws_the_bytes_of_numba(k, layout):
    page = PageConfig(height=200, width=260)
    for seed in range(3):
        one, other = (
            traces_only(wild(seed), 100.0, page, layout, 0.7 + 0.6 * seed, kind, k)[0] for kind in ("compiled", "plain")
        )
        assert one.any()
        np.testing.assert_array_equal(one, other)


def test_numpy_sets_boxes_paths_and_text_like_numba():
    from ecgscan_ray.paper.marks import face_at

    rng = np.random.default_rng(1)
    face, image = face_at("serif", 3.0, 3.1, 2.7), rng.integers(0, 256, (90, 120, 3)).astype(np.uint8)
    rendered = []
    for kind in ("compiled", "plain"):
        ink = Ink(90, 120, 4, kind)
        ink.boxes(np.array([[-3.0, 4.2, 7.7, 9.9], [50.1, 50.1, 50.6, 80.0], [110.0, 85.0, 140.0, 99.0]]))
        xs = np.array([[5.0, 9.3, 9.3, 30.0, 30.0, 33.0], [-4.0, 2.0, 2.0, 3.0, 3.0, 5.0]])
        ys = np.array([[60.0, 60.0, 20.0, 20.0, 60.0, 60.0], [40.0, 40.0, -9.0, -9.0, 40.0, 40.0]])
        ink.paths(np.stack([xs, ys], -1), pen(1.3, 4))
        ink.text(face.pixels, face.table, ["aVR Qg|~", "outside"], np.array([[40.3, 30.7], [100.0, 3.0]]))
        copy = image.copy()
        ink.compose(copy, np.array([7, 90, 200], np.uint8))
        rendered.append(copy)
        assert not ink.cover().any(), "composing must leave an empty plane"
    assert (rendered[0] != image).any()
    np.testing.assert_array_equal(*rendered)


def test_medians_agree_and_are_medians():
    signal = wild(3)
    places = np.array([[lead, 0, 1000, 0, 0, 0, 0] for lead in range(12)])
    one, other = (kernels(kind).strip_medians(signal, places) for kind in ("compiled", "plain"))
    np.testing.assert_array_equal(one, other)
    assert np.isnan(one[1])
    looked_at = signal[5:, ::3].astype(float)  # about 256 of the strip's samples, to the nearest 0.02 mV
    np.testing.assert_allclose(one[5:], np.nanquantile(looked_at, 0.5, axis=1, method="lower"), atol=0.01001)


@pytest.mark.parametrize(
    ("height", "width", "pen_px", "fs"),
    [(336, 336, 0.875, 100.0), (336, 336, 1.125, 500.0), (384, 512, 1.125, 100.0), (160, 208, 0.875, 100.0)],
)
def test_ink_and_grey_of_a_sixteenfold_reference(height, width, pen_px, fs):
    page = PageConfig(height=height, width=width)
    signal = beats(fs)
    rendered, layout, geometry = traces_only(signal, fs, page, "3x4+1", pen_px)
    expected = reference(signal, fs, page, layout, geometry, pen_px)
    assert rendered.sum() / expected.sum() == pytest.approx(1.0, abs=0.05)
    assert np.sqrt(np.mean((rendered - expected) ** 2)) < 3.0  # grey levels over the whole page
    assert np.sqrt(np.mean((rendered - expected)[expected > 0] ** 2)) < 12.0


@pytest.mark.parametrize(("height", "width"), [(336, 336), (384, 512)])
def test_decodes_as_well_as_the_reference(height, width):
    """The trace read back from each column's centroid misses the signal no more than it does on a 16x drawing."""
    page = PageConfig(height=height, width=width)
    signal = beats()
    rendered, layout, geometry = traces_only(signal, 100.0, page, "3x4+1", 0.875)
    expected = reference(signal, 100.0, page, layout, geometry, 0.875)
    sx, sy, _, _ = page_to_image(page)
    rhythm = layout.strips[12]
    middle = geometry.baseline(rhythm) * sy
    band = slice(round(middle - 18 * sy), round(middle + 18 * sy))
    columns = np.arange(round((geometry.left + 2) * sx), round((geometry.left + 248) * sx))
    truth = np.interp(
        ((columns + 0.5) / sx - geometry.left) / geometry.speed, np.arange(1000) / 100.0, signal[rhythm.lead]
    )
    errors = [
        (middle - 0.5 - band.start - centroids(c[band][:, columns])) / sy / geometry.gain - truth
        for c in (rendered, expected)
    ]
    one, other = (np.sqrt(np.mean(error**2)) for error in errors)
    assert one <= 1.1 * other
    assert np.median(np.abs(errors[0])) < 0.006  # mV


def test_no_half_pixel_of_bias():
    """Flat traces at levels all over a pixel: the ink's middle lies where the convention says.

    The centroid of a box that is no whole number of pixels wide wobbles by a few hundredths with its phase; the mean
    over phases does not.
    """
    page = PageConfig(height=336, width=336)
    _, sy, _, _ = page_to_image(page)
    errors = []
    for mv in np.linspace(-0.4, 0.4, 65):
        rendered, layout, geometry = traces_only(np.full((12, 1000), mv, np.float32), 100.0, page, "3x4", 0.875)
        truth = (geometry.baseline(layout.strips[0]) - mv * geometry.gain) * sy - 0.5
        rows = slice(round(truth) - 8, round(truth) + 9)
        errors.append(centroids(rendered[rows, 40:80]) + rows.start - truth)
    assert abs(np.mean(errors)) < 0.005
    assert np.abs(errors).max() < 0.1


def test_a_single_sample_keeps_its_height():
    """R peaks and pacing spikes: one sample at 500 Hz, far below a pixel, reaches as high as it is."""
    page = PageConfig(height=336, width=336)
    _, sy, _, _ = page_to_image(page)
    for at in range(300, 340, 3):
        signal = np.zeros((12, 5000), np.float32)
        signal[0, at] = 1.5
        rendered, layout, geometry = traces_only(signal, 500.0, page, "3x4", 0.875)
        top = (geometry.baseline(layout.strips[0]) - 1.5 * geometry.gain) * sy
        rows = np.flatnonzero(rendered[: round(geometry.baseline(layout.strips[0]) * sy) - 3].any(1))
        assert rows[0] <= top <= rows[0] + 2


def test_a_gap_has_no_ink_and_no_bridge():
    signal = beats()
    signal[:, 100:150] = np.nan
    page = PageConfig(height=336, width=336)
    rendered, _layout, geometry = traces_only(signal, 100.0, page, "3x4", 0.875)
    sx, _, _, _ = page_to_image(page)
    begin, end = ((geometry.left + t * 25) * sx for t in (0.99, 1.5))
    assert not rendered[:, int(begin) + 2 : int(end) - 1].any()
    assert rendered[:, int(begin) - 2].any()
    assert rendered[:, int(end) + 2].any()


@pytest.mark.parametrize("fs", [98.0, 175.0, 257.0, 360.0, 389.0, 977.5])
def test_odd_sampling_rates_keep_their_time(fs):
    """A slow ramp drawn at any rate lies where its time says, to a hundredth of a pixel in the mean."""
    page = PageConfig(height=336, width=512)
    sx, sy, _, _ = page_to_image(page)
    t = np.arange(int(10 * fs)) / fs
    signal = np.tile((0.04 * (t - 5)).astype(np.float32), (12, 1))
    rendered, layout, geometry = traces_only(signal, fs, page, "12x1", 0.9)
    strip = layout.strips[11]
    columns = np.arange(60, 440)
    seconds = ((columns + 0.5) / sx - geometry.left) / geometry.speed
    expected = (geometry.baseline(strip) - 0.04 * (seconds - 5) * geometry.gain) * sy - 0.5
    rows = slice(round(expected.min()) - 5, round(expected.max()) + 6)
    error = centroids(rendered[rows][:, columns]) + rows.start - expected
    assert abs(error.mean()) < 0.01
    assert np.abs(error).max() < 0.1


@pytest.mark.parametrize("value", [8.0, -8.0, 1e9, -1e9])
def test_huge_amplitudes_are_clipped_at_the_page_edge_only(value):
    signal = np.zeros((12, 1000), np.float32)
    signal[7, 600:620] = value
    page = PageConfig(height=336, width=336)
    rendered, layout, geometry = traces_only(signal, 100.0, page, "3x4", 0.875)
    sx, sy, _, _ = page_to_image(page)
    edge = int((geometry.left + 6.0 * 25) * sx)
    column = np.flatnonzero(rendered[:, edge - 2 : edge + 3].max(1))
    end = np.clip((geometry.baseline(layout.strips[7]) - value * geometry.gain) * sy, 0, 335)
    assert abs((column[0] if value > 0 else column[-1]) - end) <= 1.5, "the stroke crosses its neighbours' rows"
