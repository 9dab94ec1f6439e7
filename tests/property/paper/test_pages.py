"""What holds for pages of any settings."""

import numpy as np
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ecgscan_ray.paper import Renderer
from ecgscan_ray.paper.truth import expand
from tests.property.paper.random_pages import settings
from tests.unit.paper.pages import Sheet, beats

seeds, keys = st.integers(0, 2**32), st.integers(0, 2**64 - 1)


def quietly(examples: int):
    return hypothesis_settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


@quietly(40)
@given(seed=seeds, key=keys)
def test_all_strips_stay_in_the_image(seed, key):
    page = settings(np.random.default_rng(seed), keep_leads=True)
    signal = np.zeros((12, 1000), np.float32)
    truth = Renderer(page).render([Sheet("flat", signal, 100.0)], np.array([key], np.uint64)).truth[0]
    points = np.concatenate(expand(truth, signal, 100.0).points)
    assert points.min() >= -0.5 - 1e-3
    assert (points <= np.array([page.width, page.height]) - 0.5 + 1e-3).all()


@quietly(25)
@given(seed=seeds, key=keys, other=keys)
def test_a_page_depends_on_its_key_alone(seed, key, other):
    page = settings(np.random.default_rng(seed))
    one, two = Sheet("a", beats(), 100.0), Sheet("b", beats(seed=1), 100.0)
    together = Renderer(page).render([two, one], np.array([other, key], np.uint64))
    alone = Renderer(page).render([one], np.array([key], np.uint64))
    np.testing.assert_array_equal(together.image[1], alone.image[0])


@quietly(25)
@given(seed=seeds, key=keys)
def test_numpy_and_numba_agree_on_whole_pages(seed, key):
    page, recording = settings(np.random.default_rng(seed)), Sheet("a", beats(), 100.0)
    one, other = (
        Renderer(page, kind).render([recording], np.array([key], np.uint64)).image for kind in ("compiled", "plain")
    )
    np.testing.assert_array_equal(one, other)
