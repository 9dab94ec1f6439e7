"""Faults that other renderers have had, where no other test of ours already looks for them.

The others: columns that all show the first seconds, leads twice, swapped labels (test_layout, test_renderer, test_truth);
points that stay behind when the page moves (test_truth, property/test_truth_lands); half a pixel, lost peaks, odd rates,
huge waves (test_trace); seeds and global states, a wrong footer, short recordings (test_renderer); memory and open files
(property/test_fuzz); size of the ground truth (test_truth); pages in the encoder's proportions, never cropped (test_encoder).
"""

import os
from importlib import resources

import numpy as np
import pytest

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import RecordingError
from ecgscan_ray.paper import LAYOUTS, Renderer, marks
from ecgscan_ray.paper.grid import GridStyle, draw_grid, grid_style
from ecgscan_ray.paper.key import Draws
from ecgscan_ray.paper.layout import layout_geometry
from ecgscan_ray.paper.truth import expand
from tests.unit.paper.pages import Sheet, beats, sheet

KEY = np.array([3], np.uint64)


def test_columns_of_two_and_of_four_stand_under_the_same_seconds_of_the_rhythm_strip():
    signal = np.zeros((12, 1000), np.float32)
    signal[:, 50::100] = 1.0  # a spike a second
    for name in ("3x4+1", "6x2+1"):
        page = PageConfig(height=1700, width=2200, effects="clean", layouts={name: 1.0})
        truth = Renderer(page).render([Sheet("s", signal, 100.0)], KEY).truth[0]
        points, layout = expand(truth, signal, 100.0), truth.layout_at_speed()
        rhythm = {int(n): p[0] for n, p in zip(points.samples[-1], points.points[-1], strict=True)}
        for strip, samples, places in zip(layout.strips, points.samples, points.points, strict=True):
            assert samples[0] == round(strip.start_s * 100)
            assert all(abs(rhythm[int(n)] - p[0]) < 1e-3 for n, p in zip(samples, places, strict=True))


@pytest.mark.parametrize("seconds", [0.5, 4.0, 9.8, 10.0, 10.2, 60.0])
def test_a_recording_of_any_length_is_a_page(seconds):
    pages = Renderer(PageConfig(effects="clean")).render([Sheet("s", beats(100.0, seconds), 100.0)], KEY)
    shown = pages.windows[0][pages.windows[0, :, 0] >= 0]
    assert len(shown) == sum(start < seconds for _, start, _ in LAYOUTS["3x4+1"].windows)


@pytest.mark.parametrize("value", [0.0, 0.3, 8.0, -8.0])
def test_a_constant_lead_is_a_straight_line(value):
    signal = beats()
    signal[7] = value
    truth = Renderer(PageConfig(effects="clean")).render([Sheet("s", signal, 100.0)], KEY).truth[0]
    assert np.ptp(expand(truth, signal, 100.0).points[7][:, 1]) == 0


def test_a_lead_without_samples_is_no_flat_line():
    """A line where nothing was measured would be a false asystole."""
    signal = beats()
    signal[7, 500:] = np.nan
    page = PageConfig(effects="clean", layouts={"3x4": 1.0}, height=850, width=1100)
    pages = Renderer(page).render([Sheet("s", signal, 100.0)], KEY)
    signal[7] = np.nan
    nothing = Renderer(page).render([Sheet("s", signal, 100.0)], KEY)
    np.testing.assert_array_equal(pages.image, nothing.image)
    assert pages.windows[0, 7, 0] == -1


@pytest.mark.parametrize("factor", [0.001, 1.0, 1000.0])
def test_units_are_declared_and_never_guessed(factor):
    """Whatever the numbers' size, 1 mV stays 10 mm."""
    signal = (beats() * factor).astype(np.float32)
    truth = Renderer(PageConfig(effects="clean", fit="pad")).render([Sheet("s", signal, 100.0)], KEY).truth[0]
    points = expand(truth, signal, 100.0).points[0][:, 1]
    mm = np.ptp(points) / truth.homography[1, 1]
    assert mm == pytest.approx(10 * np.ptp(signal[0, :250].astype(float)), rel=1e-3)


def test_separators_stand_where_one_lead_gives_way_to_the_next():
    page = PageConfig()
    for name in ("3x4+1", "6x2", "3x4+3"):
        layout = LAYOUTS[name]
        where = layout_geometry(page, layout, "left")
        for key in range(40):
            boxes = marks.separator_boxes(Draws(key), layout, where)
            joints = {where.left + s.x_s * 25 for s in layout.strips if s.x_s > 0}
            middles = {round(float(x), 6) for x in (boxes[:, 0] + boxes[:, 2]) / 2}
            assert middles <= {round(x, 6) for x in joints}
            rows = np.round(((boxes[:, 1] + boxes[:, 3]) / 2 - where.first) / where.pitch).astype(int)
            assert set(rows) <= {s.row for s in layout.strips if not s.rhythm}


def test_the_working_folder_stays_and_no_file_is_left_open(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Renderer(PageConfig(height=256, width=300)).render([sheet()], KEY)
    assert os.getcwd() == str(tmp_path)
    assert not os.listdir()


def test_lettering_is_under_a_free_licence():
    licence = resources.files("ecgscan_ray.paper").joinpath("GLYPHS_LICENCE").read_text()
    assert "Bitstream Vera" in licence
    with resources.as_file(resources.files("ecgscan_ray.paper") / "glyphs.npz") as path, np.load(path) as atlas:
        assert {name.split("_")[0] for name in atlas.files} == {"em", *marks.FACES}


def test_five_millimetre_lines_are_heavier_and_the_grid_lies_under_the_trace():
    for index in range(40):
        style = grid_style(index)
        assert style.major_mm > style.minor_mm
    white = (255.0,) * 3
    grid = draw_grid(GridStyle("full", white, (90.0,) * 3, (200.0,) * 3, 0.3, 0.12), 100, 100, 4.0, 4.0, 1)[..., 0]
    profile = grid[50:70].mean(0)
    assert profile[[19, 20, 39, 40]].max() < profile[[3, 4, 7, 8, 11, 12]].min()
    pages = Renderer(PageConfig(effects="clean", height=850, width=1100)).render([sheet()], KEY)
    points = expand(pages.truth[0], sheet().signal_mv, 100.0).points[12]
    x, y = points.round().astype(int).T
    assert np.percentile(pages.image[0, y, x, 0], 90) < 150, "no grid line crosses the ink"


def test_the_rhythm_strip_stands_on_its_row_like_the_others():
    where = layout_geometry(PageConfig(), LAYOUTS["3x4+1"], "left")
    lines = [where.baseline(strip) for strip in LAYOUTS["3x4+1"].strips]
    assert sorted(set(lines)) == pytest.approx([where.first + row * where.pitch for row in range(4)])


def test_the_picture_begins_at_the_upper_left():
    """The first lead's truth lies left of and above the last one's, and the header above them all."""
    pages = Renderer(PageConfig(effects="clean", height=850, width=1100)).render([sheet()], KEY)
    boxes = expand(pages.truth[0], sheet().signal_mv, 100.0).strip_corners
    assert (boxes[0, 0] < boxes[11, 0]).all()
    assert boxes[12, 0, 1] > boxes[2, 0, 1]


def test_no_sample_at_all_is_an_error_and_no_empty_page():
    with pytest.raises(RecordingError, match="s: no sample"):
        Renderer(PageConfig()).render([Sheet("s", np.zeros((12, 0), np.float32), 100.0)], KEY)
