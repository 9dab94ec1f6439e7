"""Single effects, each alone on a page."""

import cv2
import numpy as np
import pytest

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper import Renderer, effects
from tests.unit.paper.pages import sheet, sheets_and_keys


def render_with(
    channels: int = 1, number: int = 0, **effect_probabilities: float
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A page that only lies straight, with these effects, and what was done to it."""
    still = dict.fromkeys(effects.EFFECTS, 0.0) | {"page_scale": 1.0} | effect_probabilities
    sizes = {"page_scale": (1.0, 1.0), "pale_ink": (0.4, 0.4), "rim": (6.0, 6.0), "dither": (0.2, 0.2)}
    page = PageConfig(
        height=640, width=828, channels=channels, effects="scan", effect_probabilities=still, effect_ranges=sizes
    )
    sheets, keys = sheets_and_keys(number + 1)
    pages = Renderer(page).render(sheets[number:], keys[number:])
    return pages.image[0, ..., 0] if channels == 1 else pages.image[0], pages.truth[0].effects


def test_pale_ink_leaves_the_grid_as_it_is():
    plain, pale = render_with()[0], render_with(pale_ink=1.0)[0]
    assert pale.min() > plain.min() + 50
    assert (pale >= plain).all()
    grid_alone = np.s_[100:-100, 3:15]
    assert np.array_equal(plain[grid_alone], pale[grid_alone])


def test_a_rim_has_no_grid():
    plain, bare = render_with()[0], render_with(rim=1.0)[0]
    left = np.s_[100:-100, 3:15]  # the rim is 6 mm, 18 px
    assert np.ptp(plain[left]) > 20
    assert np.ptp(bare[left]) <= 1
    middle = np.s_[100:-100, 100:-100]
    assert np.array_equal(plain[middle], bare[middle])


def test_dots_make_grey_of_black():
    page, applied = render_with(dither=1.0)
    assert "dither" in applied
    plain = render_with()[0]
    assert abs(float(page[100:-100, 100:-100].mean()) - float(plain[100:-100, 100:-100].mean())) < 12
    assert page[100:-100, 100:-100].std() > plain[100:-100, 100:-100].std()


@pytest.mark.parametrize("effect", ["panels", "crumple"])
def test_bent_paper_is_lit_and_shaded_about_its_mean(effect):
    for number in range(3):
        plain, (bent, applied) = (
            render_with(number=number)[0].astype(float),
            render_with(number=number, **{effect: 1.0}),
        )
        assert effect in applied
        light = cv2.blur(bent.astype(float), (15, 15)) / cv2.blur(plain, (15, 15))
        assert abs(light.mean() - 1) < 0.1
        assert np.ptp(light[40:-40, 40:-40]) > 0.03, "parts lie brighter than others"


def test_soft_colour_spreads_colours_and_leaves_light():
    sharp, soft = (render_with(3, soft_colour=chance)[0] for chance in (0.0, 1.0))
    before, after = (cv2.cvtColor(page, cv2.COLOR_RGB2YCrCb)[40:-40, 40:-40].astype(float) for page in (sharp, soft))
    assert np.abs(after[..., 0] - before[..., 0]).mean() < 1.5
    steps = [np.abs(np.diff(page[..., 1])).mean() for page in (before, after)]
    assert steps[1] < 0.7 * steps[0]


def test_grain_is_cloudy_and_noise_is_not():
    plain = render_with()[0].astype(float)
    likeness = {}
    for effect in ("grain", "noise"):
        rest = (render_with(**{effect: 1.0})[0] - plain)[40:-40, 40:-40]
        assert abs(rest.mean()) < 0.5 and rest.std() > 0.4
        likeness[effect] = np.corrcoef(rest[:, 1:].ravel(), rest[:, :-1].ravel())[0, 1]
    assert likeness["grain"] > 0.25 > 0.1 > abs(likeness["noise"])


def test_pages_have_prints_of_their_own():
    pages = [render_with(3, number, print=1.0)[0] for number in range(12)]
    colours = {tuple(np.round(page[100:-100, 3:15].reshape(-1, 3).mean(0) / 8).astype(int)) for page in pages}
    assert len(colours) >= 6


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 300), (300, 64)])
def test_small_photographs_lie_on_every_desk(height, width):
    page = PageConfig(height=height, width=width, channels=3, effects="photo")
    assert Renderer(page).render([sheet()] * 40, np.arange(40, dtype=np.uint64)).image.std() > 0
