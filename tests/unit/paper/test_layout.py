import itertools

import numpy as np
import pytest

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.paper import LAYOUTS, Renderer, marks, strip_boxes, windows_of
from ecgscan_ray.paper.layout import MAX_STRIPS, find_layout, layout_geometry, make_layout, timed
from ecgscan_ray.recording.leads import LEADS
from tests.unit.paper.pages import sheet


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_lead_stands_once_outside_rhythm_rows(name):
    layout = LAYOUTS[name]
    assert sorted(s.lead for s in layout.strips if not s.rhythm) == list(range(12))
    assert len(layout.strips) <= MAX_STRIPS
    cells = {(s.row, s.x_s) for s in layout.strips}
    assert len(cells) == len(layout.strips)


@pytest.mark.parametrize("name", LAYOUTS)
def test_columns_follow_each_other_in_time_unless_simultaneous(name):
    layout = LAYOUTS[name]
    for strip in layout.strips:
        assert strip.start_s == (0.0 if layout.simultaneous else strip.x_s)
    rows = {row: [s for s in layout.strips if s.row == row] for row in range(layout.rows)}
    for strips in rows.values():
        assert sum(s.stop_s - s.start_s for s in strips) == pytest.approx(10.0)


def test_two_columns_are_shifted_too():
    assert windows_of("6x2")[6].tolist() == [LEADS.index("V1"), 5.0, 10.0]


def test_cabrera_turns_avr_upside_down():
    labels = [s.label for s in LAYOUTS["3x4/cabrera"].strips]
    assert labels[:6] == ["aVL", "I", "-aVR", "II", "aVF", "III"]
    assert [s.sign for s in LAYOUTS["3x4/cabrera"].strips][2] == -1


def test_fast_paper_shows_less_time():
    layout = timed("3x4+1", 50.0)
    assert max(s.stop_s for s in layout.strips) == 5.0
    assert windows_of("3x4+1", 50.0)[3].tolist() == [3.0, 1.25, 2.5]


@pytest.mark.parametrize(("height", "width", "fit"), [(160, 208, "stretch"), (336, 336, "pad"), (384, 512, "stretch")])
@pytest.mark.parametrize("name", ["3x4+1", "3x4+3", "12x1", "6x2"])
def test_strip_boxes_lie_on_the_page_and_do_not_overlap_in_a_column(name, height, width, fit):
    boxes = strip_boxes(PageConfig(height=height, width=width, fit=fit), name)
    assert boxes.shape == (len(LAYOUTS[name].strips), 4)
    assert (boxes > 0).all()
    assert (boxes < 1).all()
    assert (boxes[:, 2] > boxes[:, 0]).all()
    first = [b for b, s in zip(boxes, LAYOUTS[name].strips, strict=True) if s.x_s == 0]
    assert all(a[3] <= b[1] + 1e-6 for a, b in itertools.pairwise(first))


def test_strip_boxes_are_the_mean_of_drawn_pages():
    page = PageConfig(effects="clean")
    keys = np.arange(400, dtype=np.uint64) * 977
    truth = Renderer(page).render([sheet()] * 400, keys).truth
    left = np.mean([t.rows_mm[0] for t in truth]) / 279.4
    first = np.mean([t.rows_mm[1] for t in truth]) / 215.9
    boxes = strip_boxes(page, "3x4+1")
    assert boxes[0, 0] == pytest.approx(left, abs=0.004)
    assert (boxes[0, 1] + boxes[0, 3]) / 2 == pytest.approx(first, abs=0.004)


@pytest.mark.parametrize(
    ("order", "columns"),
    [
        (("I",) * 12, 4),  # one lead twelve times
        (("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V9"), 4),
        (("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"), 5),
    ],
)
def test_wrong_layouts_are_refused(order, columns):
    with pytest.raises(ConfigError):
        make_layout("mine", columns, order)


def test_unknown_layout_names_the_nearest():
    with pytest.raises(ConfigError, match=r"Did you mean '3x4\+1'"):
        Renderer(PageConfig(layouts={"3x4-1": 1.0}))


def test_a_layout_can_be_written_out():
    name = "I II III | aVR aVL aVF | V1 V2 V3 | V4 V5 V6 + II"
    own, known = find_layout(name), LAYOUTS["3x4+1"]
    assert (own.name, own.strips, own.rows) == (name, known.strips, known.rows)
    together = find_layout(name + "/simultaneous")
    assert together.simultaneous and [s.start_s for s in together.strips[:12]] == [0.0] * 12
    chest = find_layout("V1 V2 V3 V4 V5 V6")
    assert [s.lead for s in chest.strips] == [6, 7, 8, 9, 10, 11]
    assert [s.sign for s in find_layout("aVL I -aVR | II aVF III").strips] == [1, 1, -1, 1, 1, 1]
    page = PageConfig(effects="clean", layouts={name: 1.0})
    pages = Renderer(page).render([sheet()], np.array([1], np.uint64))
    standard = Renderer(PageConfig(effects="clean")).render([sheet()], np.array([1], np.uint64))
    np.testing.assert_array_equal(pages.image, standard.image)
    assert pages.truth[0].layout_at_speed().strips == known.strips


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("I II | III", "columns differ"),
        ("I II | II III", "lead II occurs twice"),
        ("I II V9", "unknown lead 'V9'"),
        ("I II + V10", "unknown lead 'V10'"),
        (" + II", "no lead outside"),
        ("I II III aVR aVL aVF V1 V2 V3 V4 V5 V6 + I II III V1 V2", "do not fit"),
    ],
)
def test_wrong_layouts_of_ones_own_are_refused(name, fault):
    with pytest.raises(ConfigError, match=fault):
        Renderer(PageConfig(layouts={name: 1.0}))


@pytest.mark.parametrize("paper", ["letter", "a4", "strip"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_lie_on_every_paper(paper, name):
    page = PageConfig(paper=paper)
    for pulse, at in itertools.product(("left", "right", "none"), (-1.0, 0.0, 1.0)):
        where = layout_geometry(page, LAYOUTS[name], pulse, at, at, at, max(0.0, at))
        assert where.left - (8 if pulse == "left" else 0) > 0
        assert where.left + 250 + (8 if pulse == "right" else 0) < where.page_mm[0]
        assert where.first - where.pitch / 2 > 0
        assert where.first + (LAYOUTS[name].rows - 0.5) * where.pitch < where.page_mm[1]


@pytest.mark.parametrize(("faces", "places"), [({"mono": 1.0}, {"inset": 1.0}), ({"serif": 1.0}, {"below": 1.0})])
def test_labels_have_the_face_and_place_that_was_asked_for(faces, places):
    page = PageConfig(label_faces=faces, label_places=places, effects="clean")
    for truth in Renderer(page).render([sheet()] * 20, np.arange(20, dtype=np.uint64)).truth:
        face, _, right, up = truth.label
        assert face == next(iter(faces))
        near, far, low, _ = marks.LABEL_POSITIONS[next(iter(places))]
        assert near <= right < far
        assert (up > 0) == (low > 0)


def test_every_face_and_place_is_drawn_by_its_share():
    page = PageConfig(label_faces={"sans": 0.5, "mono": 0.5}, label_places={"above": 0.5, "inset": 0.5})
    truths = Renderer(page).render([sheet()] * 80, np.arange(80, dtype=np.uint64)).truth
    assert 20 < sum(truth.label[0] == "mono" for truth in truths) < 60
    assert 20 < sum(truth.label[2] > 3.0 for truth in truths) < 60


def test_a_deep_header_lets_rows_begin_90_mm_below_the_edge():
    page, layout = PageConfig(), LAYOUTS["3x4+1"]
    assert (
        layout_geometry(page, layout, "left", top=1.0).first
        < 85
        < 92
        < layout_geometry(page, layout, "left", top=1.0, header=1.0).first
    )
    lowest = layout_geometry(page, layout, "left", top=1.0, header=1.0)
    assert lowest.first + 3.5 * lowest.pitch <= lowest.page_mm[1] - 12.0 + 1e-9
    unmoved = PageConfig(max_extra_header=0.0)
    assert layout_geometry(unmoved, layout, "left", header=1.0) == layout_geometry(page, layout, "left")
