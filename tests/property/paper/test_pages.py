"""Any settings and any signal give a page with true truth, or a clear error."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import RecordingError
from ecgscan_ray.paper import LAYOUTS, Renderer
from ecgscan_ray.paper.truth import PageTruth, expand
from tests.unit.paper.pages import Sheet, beats

pages = st.builds(
    PageConfig,
    height=st.integers(64, 360),
    width=st.integers(64, 360),
    channels=st.sampled_from([1, 3]),
    fit=st.sampled_from(["pad", "stretch"]),
    layouts=st.dictionaries(st.sampled_from(sorted(LAYOUTS)), st.floats(0.1, 1), min_size=1, max_size=3),
    effects=st.sampled_from(["clean", "scan", "photo", "mixed"]),
    strength=st.floats(0, 3),
    paper_speed_mm_per_s=st.sampled_from([10.0, 12.5, 25.0, 50.0, 100.0]),
    gain_mm_per_mv=st.sampled_from([2.5, 5.0, 10.0, 20.0, 40.0]),
    paper=st.sampled_from(["letter", "a4"]),
    jitter=st.floats(0, 1),
    baseline=st.sampled_from(["median", "none"]),
)
keys = st.integers(0, 2**64 - 1)


@st.composite
def signals(draw):
    """Signals that no heart makes: NaN, inf, empty, one sample, 1e9 mV, 0 and 15 leads."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    leads = draw(st.sampled_from([12] * 8 + [0, 15]))
    length = draw(st.sampled_from([0, 1, 2, 37, 999, 5000]))
    signal = rng.standard_normal((leads, length)) * draw(st.sampled_from([0.0, 0.1, 1.0, 8.0, 1e9]))
    for value in draw(st.lists(st.sampled_from([np.nan, np.nan, np.nan, np.inf, 1e9, -8.0]), max_size=3)):
        if leads and length:
            start = rng.integers(length)
            signal[rng.integers(leads), start : start + rng.integers(1, length + 1)] = value
    return signal.astype(draw(st.sampled_from([np.float32, np.float64])))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(page=pages, signal=signals(), key=keys, fs=st.sampled_from([1.0, 50.0, 98.0, 257.0, 360.0, 977.5, 1e5]))
def test_a_page_or_a_clear_error(page, signal, key, fs):
    recording, renderer = Sheet("fuzz/1", signal, fs), Renderer(page)
    if signal.shape[0] != 12 or signal.size == 0 or np.isinf(signal).any() or np.isnan(signal).all():
        with pytest.raises(RecordingError, match="fuzz/1"):
            renderer.render([recording], np.array([key], np.uint64))
        return
    try:
        found = renderer.render([recording], np.array([key], np.uint64))
    except RecordingError as error:
        assert error.reason == "empty" and np.isnan(signal).any()  # noqa: PT017 - a gap as long as the page
        return
    assert found.image.shape == (1, page.height, page.width, page.channels)
    assert found.image.std() > 0
    assert np.isfinite(found.px_per_mm).all()
    truth = PageTruth.from_json(found.truth[0].to_json())
    expanded = expand(truth, signal.astype(np.float32), fs)
    for lead, points, numbers in zip(expanded.leads, expanded.points, expanded.samples, strict=True):
        if lead >= 0:
            shown = ~np.isnan(signal[lead, numbers])
            np.testing.assert_array_equal(np.isfinite(points).all(1), shown)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(page=pages.filter(lambda p: p.paper_speed_mm_per_s == 25 and p.gain_mm_per_mv <= 10), key=keys)
def test_all_strips_stay_in_the_image(page, key):
    signal = np.zeros((12, 1000), np.float32)
    truth = Renderer(page).render([Sheet("flat", signal, 100.0)], np.array([key], np.uint64)).truth[0]
    points = np.concatenate(expand(truth, signal, 100.0).points)
    assert points.min() >= -0.5
    assert (points <= np.array([page.width, page.height]) - 0.5 + 1e-3).all()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(page=pages, key=keys, other=keys)
def test_a_page_depends_on_its_key_alone(page, key, other):
    one, two = Sheet("a", beats(), 100.0), Sheet("b", beats(seed=1), 100.0)
    together = Renderer(page).render([two, one], np.array([other, key], np.uint64))
    alone = Renderer(page).render([one], np.array([key], np.uint64))
    np.testing.assert_array_equal(together.image[1], alone.image[0])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(page=pages, key=keys)
def test_numpy_and_numba_agree_on_whole_pages(page, key):
    pytest.importorskip("numba")
    recording = Sheet("a", beats(), 100.0)
    one, other = (
        Renderer(page, kind).render([recording], np.array([key], np.uint64)).image for kind in ("compiled", "plain")
    )
    np.testing.assert_array_equal(one, other)
