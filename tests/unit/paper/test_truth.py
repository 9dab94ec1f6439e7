from dataclasses import replace

import cv2
import numpy as np
import pytest

from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper import LAYOUTS, Renderer, grid, page_key, renderer
from ecgscan_ray.paper.effects import EFFECTS
from ecgscan_ray.paper.layout import layout_geometry, page_to_image
from ecgscan_ray.paper.trace import Ink
from ecgscan_ray.paper.truth import PageTruth, expand, masks
from tests.unit.paper.pages import centroids, sheet


@pytest.fixture
def bare(monkeypatch):
    """Black ink on white paper without a grid, header or footer, so that ink is known by its grey."""
    white = (255.0, 255.0, 255.0)
    monkeypatch.setattr(grid, "grid_style", lambda index: grid.GridStyle("none", white, white, white, 0.2, 0.1))
    monkeypatch.setattr(renderer, "ink_colour", lambda draws, channels, pale: np.zeros(channels, np.uint8))
    monkeypatch.setattr(Ink, "text", lambda *_: None)


@pytest.mark.parametrize("name", [*LAYOUTS, "I II III | aVR aVL aVF | V1 V2 V3 | V4 V5 V6 + V1 II V5 I"])
def test_truth_takes_less_than_a_kilobyte_and_survives_json(name):
    page = PageConfig(
        height=850,
        width=1100,
        effects="photo",
        layouts={name: 1.0},
        amplitude_clip="row",
        half_gain_precordial_probability=1.0,
    )
    page = page.model_copy(update={"effect_probabilities": dict.fromkeys(EFFECTS, 1.0)})
    recording = sheet(name="ptbxl/records500/21000/21837_hr")
    truth = Renderer(page).render([recording], np.array([2**64 - 5], np.uint64)).truth[0]
    assert len(truth.to_json().encode()) < 1000
    again = PageTruth.from_json(truth.to_json())
    assert again.layout == truth.layout
    one, other = (expand(t, recording.signal_mv, recording.fs) for t in (truth, again))
    np.testing.assert_allclose(one.points[3], other.points[3], atol=0.01)


@pytest.mark.parametrize("effects", ["clean", "scan", "photo", "mixed"])
@pytest.mark.parametrize(("height", "width", "fit"), [(336, 336, "stretch"), (336, 336, "pad"), (384, 512, "stretch")])
@pytest.mark.usefixtures("bare")
def test_points_lie_on_the_ink_after_every_transform(effects, height, width, fit):
    page = PageConfig(height=height, width=width, effects=effects, fit=fit, layouts={"3x4+1": 1.0, "12x1": 1.0})
    recording = sheet(fs=250.0)
    drawer = Renderer(page)
    for n in range(4):
        pages = drawer.render([recording], np.array([page_key(3, n, "x", 0)], np.uint64))
        truth = expand(pages.truth[0], recording.signal_mv, recording.fs)
        points = np.concatenate(truth.points)
        local = cv2.blur(pages.image[0], (31, 31)).astype(int) if effects != "clean" else np.full((height, width), 255)
        dark = pages.image[0, ..., 0].astype(int) < local - (18 if effects != "clean" else 60)
        far = cv2.distanceTransform((~dark).astype(np.uint8), cv2.DIST_L2, 5)
        x, y = points.round().astype(int).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        assert inside.mean() > 0.995, "no lead is cropped"
        distance = far[y[inside], x[inside]]
        assert (distance <= 1.0).mean() > 0.97, (n, pages.truth[0].effects)
        assert distance.mean() < 0.3


@pytest.mark.usefixtures("bare")
def test_no_half_pixel_between_warped_ink_and_truth():
    """Flat traces through warps alone: the mean distance of ink and truth across the line is 0."""
    others = dict.fromkeys(EFFECTS.keys() - {"rotation", "perspective", "page_scale", "shift"}, 0.0)
    page = PageConfig(height=336, width=336, effects="scan", layouts={"12x1": 1.0})
    drawer = Renderer(page.model_copy(update={"effect_probabilities": others}))
    recording = sheet()
    recording.signal_mv[:] = 0.0
    errors = []
    for n in range(12):
        pages = drawer.render([recording], np.array([page_key(4, n, "x", 0)], np.uint64))
        assert pages.truth[0].effects == ("warp",)
        points = expand(pages.truth[0], recording.signal_mv, recording.fs).points[5]
        ink = 255.0 - pages.image[0, ..., 0]
        for column in range(80, 260, 20):
            y = np.interp(column, points[:, 0], points[:, 1])
            rows = slice(round(y) - 3, round(y) + 4)
            errors.append(centroids(ink[rows, column : column + 1])[0] + rows.start - y)
    assert abs(np.mean(errors)) < 0.02
    assert np.abs(errors).max() < 0.4  # a slanted line's centroid wobbles in a narrow window


@pytest.mark.usefixtures("bare")
def test_masks_cover_the_traces():
    page = PageConfig(height=336, width=336, effects="photo", layouts={"3x4+1": 1.0})
    recording = sheet()
    pages = Renderer(page).render([recording], np.array([11], np.uint64))
    covers = masks(pages.truth[0], recording.signal_mv, recording.fs)
    assert covers.shape == (13, 336, 336)
    image = pages.image[0, ..., 0].astype(float)
    darker = cv2.blur(image, (31, 31)) - image
    for mask in covers:
        assert darker[mask > 128].mean() > 25
    assert abs(darker[covers.max(0) == 0].mean()) < 6


def test_nothing_of_a_lead_is_cropped_at_any_strength():
    page = PageConfig(effects="photo", strength=3.0, layouts={"3x4+1": 1.0, "12x1": 1.0, "6x2+1": 1.0})
    recording = sheet()
    truths = Renderer(page).render([recording] * 150, np.arange(150, dtype=np.uint64) * 7919).truth
    for truth in truths:
        corners = expand(truth, recording.signal_mv, 100.0).points
        x, y = np.concatenate(corners).T
        assert x.min() >= -0.6
        assert x.max() <= 207.6
        assert y.min() >= -8  # a tall R wave of the first row may reach over the rows' band
        assert y.max() <= 167


def test_label_boxes_name_the_nearest_strip():
    for name in ("3x4+1", "6x2/cabrera", "12x1", "3x4+3"):
        page = PageConfig(height=850, width=1100, effects="clean", layouts={name: 1.0})
        recording = sheet()
        for key in range(5):
            truth = Renderer(page).render([recording], np.array([key], np.uint64)).truth[0]
            boxes = expand(truth, recording.signal_mv, 100.0)
            starts = np.array([(c[0] + c[3]) / 2 for c in boxes.strip_corners])
            for s, label in enumerate(boxes.label_corners.mean(1)):
                assert np.argmin(np.abs(starts - label) @ (0.2, 1.0)) == s


def test_grid_lines_at_true_millimetres_without_beat():
    """At 1.2 px/mm: lines by area leave the mean of any 10 mm window of a line profile alone."""
    cover = grid.line_cover(2000, 1.2027, 1.0, 0.12)
    windows = cover[: 1992 // 12 * 12].reshape(-1, 12).mean(1)
    assert cover.mean() == pytest.approx(0.12, rel=0.01)
    assert windows.std() < 0.006
    assert np.argmax(grid.line_cover(600, 10.0, 5.0, 0.2)[30:80]) + 30 in (49, 50)


def test_pad_keeps_the_millimetre_square_and_stretch_fills_the_image():
    pad = PageConfig(height=336, width=336, fit="pad")
    sx, sy, ox, oy = page_to_image(pad)
    assert (sx, ox) == (sy, 0)
    assert oy == pytest.approx((336 - 215.9 * sy) / 2)
    sx, sy, ox, oy = page_to_image(PageConfig(height=336, width=336))
    assert (ox, oy) == (0, 0)
    assert sy / sx == pytest.approx(279.4 / 215.9)
    assert layout_geometry(pad, LAYOUTS["3x4+1"], "left").page_mm == (279.4, 215.9)


@pytest.mark.parametrize("effects", ["clean", "scan"])
def test_grid_nodes_lie_where_the_printed_lines_cross(effects):
    page = PageConfig(
        height=850, width=1100, channels=3, effects=effects, effect_probabilities={"threshold": 0.0}, fit="pad"
    )
    drawer, recording = Renderer(page), sheet()
    for key in range(12):
        pages = drawer.render([recording], np.array([key], np.uint64))
        truth = pages.truth[0]
        nodes = expand(truth, recording.signal_mv, recording.fs).grid_nodes
        if truth.grid_mm is None:
            assert nodes.shape == (0, 0, 2)
            continue
        assert nodes.shape[0] in (43, 44) and nodes.shape[1] in (55, 56)
        grey = pages.image[0].mean(-1).astype(np.float32)

        def level(x, y, nodes=nodes, grey=grey):
            shifted = (nodes[3:-3, 3:-3] + (x, y)).astype(np.float32)
            return float(np.median(cv2.remap(grey, shifted, None, cv2.INTER_LINEAR)))

        around = [level(x, y) for x, y in ((2, 2), (-2, 2), (2, -2), (-2, -2), (4, 3))]
        assert level(0, 0) < min(around) - 3, (key, level(0, 0), around)


def test_a_truth_without_a_grid_comes_back_from_json():
    truth = Renderer(PageConfig()).render([sheet()], np.array([3], np.uint64)).truth[0]
    for one in (truth, replace(truth, grid_mm=None)):
        assert PageTruth.from_json(one.to_json()).grid_mm == one.grid_mm


@pytest.mark.usefixtures("bare")
def test_a_page_without_a_grid_has_no_nodes():
    recording = sheet()
    truth = Renderer(PageConfig()).render([recording], np.array([3], np.uint64)).truth[0]
    assert truth.grid_mm is None
    assert expand(truth, recording.signal_mv, recording.fs).grid_nodes.shape == (0, 0, 2)
