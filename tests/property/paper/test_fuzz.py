"""Ten thousand settings and signals: a page or a clear error, never a crash, a hang or silent garbage; flat memory."""

import time

import numpy as np
import psutil
import pytest

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import RecordingError
from ecgscan_ray.paper import Renderer, page_key
from ecgscan_ray.paper.truth import PageTruth, expand
from tests.property.paper.random_pages import recording, settings
from tests.unit.paper.pages import sheet

REASONS = {"shape", "rate", "infinite", "empty"}


@pytest.mark.parametrize(
    "seeds", [range(250), pytest.param(range(1000, 11_000), marks=pytest.mark.verify)], ids=["some", "ten thousand"]
)
def test_a_page_or_a_clear_error(seeds):
    outcomes = {"page": 0}
    for seed in seeds:
        begun = time.thread_time()
        outcome = _outcome(seed)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        assert time.thread_time() - begun < 20, seed
    print(outcomes)
    assert outcomes["page"] > len(seeds) / 3
    assert set(outcomes) == {"page", *REASONS}


def _outcome(seed):
    """``page``, or the reason why there is none."""
    rng = np.random.default_rng(seed)
    page, one = settings(rng), recording(rng, seed)
    try:
        pages = Renderer(page).render([one], np.array([rng.integers(2**63)], np.uint64))
    except RecordingError as error:
        named, reason = f"fuzz/{seed}" in str(error), error.reason
    else:
        _check(pages, page, one, seed)
        return "page"
    assert named and reason in REASONS, (seed, reason)
    assert reason == "empty" or not _drawable(one), (seed, reason)
    return reason


def _drawable(one) -> bool:
    signal = one.signal_mv
    known = signal.shape[0] == 12 and signal.size > 0 and not np.isinf(signal.astype(np.float32)).any()
    return known and 1 <= one.fs <= 1e5 and not np.isnan(signal).all()


def _check(pages, page, one, seed):
    assert _drawable(one), seed
    assert pages.image.shape == (1, page.height, page.width, page.channels)
    assert pages.image.std() > 0, seed
    assert np.isfinite(pages.px_per_mm).all() and (pages.px_per_mm > 0).all()
    text = pages.truth[0].to_json()
    assert len(text.encode()) < 1000, (seed, text)
    truth = PageTruth.from_json(text)
    expanded = expand(truth, one.signal_mv.astype(np.float32), one.fs)
    for lead, points, numbers in zip(expanded.leads, expanded.points, expanded.samples, strict=True):
        if lead >= 0:
            np.testing.assert_array_equal(np.isfinite(points).all(1), ~np.isnan(one.signal_mv[lead, numbers]))
    shown = pages.windows[0][pages.windows[0, :, 0] >= 0]
    assert (shown[:, 2] > shown[:, 1]).all(), seed


@pytest.mark.parametrize("pages", [600, pytest.param(5000, marks=pytest.mark.verify)])
def test_memory_stays_flat(pages):
    """RSS over so many pages, once the banks are filled; no file stays open."""
    process, renderer = psutil.Process(), Renderer(PageConfig(layouts={"3x4+1": 1, "6x2": 1, "12x1": 1}))
    sheets = [sheet(seed=i, name=f"made/{i}") for i in range(10)]
    opened = process.num_fds()

    def draw(first: int, last: int) -> int:
        for epoch in range(first, last):
            renderer.render(sheets, np.array([page_key(0, epoch, s.id, 0) for s in sheets], np.uint64))
        return process.memory_info().rss

    before = draw(0, 60)
    after = draw(60, 60 + pages // 10)
    print(f"{(after - before) / 2**20:.1f} MB more after {pages} pages")
    assert after - before < 8 * 2**20
    assert process.num_fds() == opened
