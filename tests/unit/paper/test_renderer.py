import hashlib
import random
import subprocess
import sys

import numpy as np
import pytest

from ecgscan_ray.config import Config, PageConfig, load
from ecgscan_ray.errors import ConfigError, RecordingError
from ecgscan_ray.paper import Renderer, effects, marks, page_key, windows_of
from ecgscan_ray.paper.key import SLOTS, Draws, uniforms
from ecgscan_ray.paper.layout import layout_geometry, page_to_image, timed
from ecgscan_ray.paper.truth import expand
from tests.unit.paper.pages import Sheet, sheet, sheets_and_keys

MANY = {"3x4": 1.0, "3x4+1": 1.0, "3x4+3": 1.0, "6x2": 1.0, "12x1": 1.0, "6x2/cabrera": 1.0}


@pytest.mark.parametrize("effects", sorted(effects.PRESETS))
@pytest.mark.parametrize(("height", "width", "channels"), [(160, 208, 1), (336, 336, 3)])
def test_same_key_same_bytes_in_any_order_and_batch(effects, height, width, channels):
    page = PageConfig(height=height, width=width, channels=channels, effects=effects, layouts=MANY)
    sheets, keys = sheets_and_keys(6)
    first = Renderer(page).render(sheets, keys)
    assert first.image.shape == (6, height, width, channels)
    renderer = Renderer(page)
    for n in (4, 1, 5, 0):
        alone = renderer.render([sheets[n]], keys[n : n + 1])
        np.testing.assert_array_equal(alone.image[0], first.image[n])
        assert alone.truth[0] == first.truth[n]
    assert len({image.tobytes() for image in first.image}) == 6


def test_same_bytes_in_another_process():
    code = (
        "import hashlib; from tests.unit.paper.test_renderer import *; s, k = sheets_and_keys(4);"
        "p = Renderer(PageConfig(layouts=MANY)).render(s, k); print(hashlib.sha256(p.image.tobytes()).hexdigest())"
    )
    digest = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    sheets, keys = sheets_and_keys(4)
    assert digest == hashlib.sha256(Renderer(PageConfig(layouts=MANY)).render(sheets, keys).image.tobytes()).hexdigest()


def test_numpy_pages_are_numba_pages():
    sheets, keys = sheets_and_keys(3)
    for kind in ("clean", "photo"):
        page = PageConfig(effects=kind, layouts=MANY)
        one, other = (Renderer(page, drawing).render(sheets, keys).image for drawing in ("compiled", "plain"))
        np.testing.assert_array_equal(one, other)


def test_global_random_states_are_left_alone():
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002 - the legacy state is what is guarded here
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    sheets, keys = sheets_and_keys(2)
    Renderer(PageConfig()).render(sheets, keys)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def test_keys_differ_by_each_of_their_parts():
    keys = {
        page_key(*parts) for parts in [(0, 0, "a", 0), (1, 0, "a", 0), (0, 1, "a", 0), (0, 0, "b", 0), (0, 0, "a", 1)]
    }
    assert len(keys) == 5
    assert all(0 <= key < 2**64 for key in keys)


def test_uniforms_are_uniform_and_slots_unique():
    values = uniforms(np.arange(2000, dtype=np.uint64))
    assert len(set(SLOTS)) == len(SLOTS)
    assert values.min() >= 0
    assert values.max() < 1
    assert np.abs(values.mean(0) - 0.5).max() < 0.04
    assert np.abs(np.corrcoef(values.T) - np.eye(len(SLOTS))).max() < 0.12


def test_windows_and_scale():
    sheets, keys = sheets_and_keys(2)
    pages = Renderer(PageConfig(effects="clean")).render(sheets, keys)
    np.testing.assert_array_equal(pages.windows[0, :13], windows_of("3x4+1"))
    assert (pages.windows[0, 13:, 0] == -1).all()
    np.testing.assert_allclose(pages.px_per_mm[0], (208 / 279.4, 160 / 215.9), rtol=1e-4)


def test_a_missing_lead_keeps_its_label_and_has_no_ink_and_no_truth():
    signal = sheet().signal_mv.copy()
    signal[6] = np.nan
    page = PageConfig(height=850, width=1100, effects="clean", layouts={"3x4": 1.0})
    key = np.array([page_key(0, 0, "x", 0)], np.uint64)
    missing, whole = (Renderer(page).render([Sheet("x", s, 100.0)], key) for s in (signal, sheet().signal_mv))
    assert missing.windows[0, 6, 0] == -1
    assert sorted(missing.windows[0, :12, 0]) == [-1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
    truth = expand(missing.truth[0], signal, 100.0)
    assert truth.leads[6] == -1
    assert np.isnan(truth.points[6][:, 1]).all()
    x0, y0 = truth.label_corners[6, 0].round().astype(int)
    x1, y1 = truth.label_corners[6, 2].round().astype(int)
    paper = np.median(missing.image)
    assert (missing.image[0, y0 : y1 + 1, x0 : x1 + 1] < paper - 60).any()
    changed = np.argwhere(missing.image[0, ..., 0] != whole.image[0, ..., 0])
    inside = expand(whole.truth[0], sheet().signal_mv, 100.0).points[6]
    assert len(changed) > 100
    assert changed[:, 1].min() >= inside[:, 0].min() - 3
    assert changed[:, 1].max() <= inside[:, 0].max() + 4


def test_a_short_recording_leaves_the_rest_empty():
    page = PageConfig(effects="clean", layouts={"3x4+1": 1.0})
    short = Sheet("short", sheet().signal_mv[:, :400], 100.0)
    pages = Renderer(page).render([short], np.array([7], np.uint64))
    assert (pages.windows[0, 6:12, 0] == -1).all(), "columns from 5 s on show nothing"
    assert (pages.windows[0, [0, 3, 12], 0] == [0, 3, 1]).all()


def test_spikes_of_all_columns_stand_above_those_of_the_rhythm_strip():
    """One spike a second in every lead: in time order each lies exactly above the rhythm strip's own."""
    signal = np.zeros((12, 5000), np.float32)
    signal[:, 250::500] = 0.8
    page = PageConfig(height=850, width=1100, effects="clean", layouts={"3x4+1": 1.0}, jitter=0.0)
    pages = Renderer(page).render([Sheet("s", signal, 500.0)], np.array([3], np.uint64))
    truth = expand(pages.truth[0], signal, 500.0)
    _, sy, _, _ = page_to_image(page)
    tops = {}
    for row in range(4):
        y = (pages.truth[0].geometry.first + row * pages.truth[0].geometry.pitch - 5.0) * sy
        dark = pages.image[0, round(y) - 2 : round(y) + 3, :, 0].mean(0) < 120
        tops[row] = np.flatnonzero(dark)
    rhythm = truth.points[12][signal[1] > 0.5][:, 0]
    assert len(rhythm) == 10
    for row, columns in tops.items():
        for x in rhythm:
            assert np.abs(columns - x).min() <= 1.0, (row, x)


def test_the_footer_states_the_scale_that_is_drawn():
    for speed, gain in ((25.0, 10.0), (50.0, 5.0), (12.5, 20.0)):
        page = PageConfig(paper_speed_mm_per_s=speed, gain_mm_per_mv=gain)
        where = layout_geometry(page, timed("3x4+1", speed), "left")
        for key in range(30):
            text = marks.scale_text(where, Draws(key)).replace(" ", "")
            assert f"{speed:g}mm/s" in text
            assert f"{gain:g}mm/mV" in text


def test_speeds_and_gains_vary_by_their_shares_and_are_recorded_printed_and_drawn():
    page = PageConfig(effects="clean", speeds={25.0: 0.5, 50.0: 0.5}, gains={5.0: 0.3, 10.0: 0.4, 20.0: 0.3})
    page = page.model_copy(
        update={"half_gain_precordial_probability": 0.5, "height": 850, "width": 1100, "layouts": {"3x4": 1.0}}
    )
    signal = np.zeros((12, 1000), np.float32)
    for start in (60, 275, 560):  # seen in lead I, and in V1 at 50 and at 25 mm/s
        signal[:, start : start + 40] = 0.5
    keys = np.arange(60, dtype=np.uint64) * 7919
    pages = Renderer(page).render([Sheet("s", signal, 100.0)] * 60, keys)
    scales = {truth.scale[:3] for truth in pages.truth}
    assert {s[0] for s in scales} == {25.0, 50.0} and {s[1] for s in scales} == {5.0, 10.0, 20.0}
    assert {s[2] for s in scales} == {1.0, 0.5}
    for n, truth in enumerate(pages.truth):
        where, expanded = truth.geometry, expand(truth, signal, 100.0)
        assert pages.windows[n, 3, 2] == (5.0 if where.speed == 25 else 2.5)
        sx, sy, _, _ = page_to_image(page)
        for lead, share in ((0, 1.0), (6, where.chest)):
            points = expanded.points[lead]
            assert np.ptp(points[:, 1]) == pytest.approx(0.5 * where.gain * share * sy, rel=1e-3)
            step = np.diff(points[:, 0]).mean()
            assert step == pytest.approx(where.speed / 100 * sx, rel=1e-3)
        text = marks.scale_text(where, Draws(int(keys[n]))).replace(" ", "")
        assert f"{where.speed:g}mm/s" in text
        assert f"{where.gain:g}mm/mV" in text or f"{where.gain:g}/{where.gain / 2:g}mm/mV" in text
        if where.chest != 1:
            assert f"{where.gain / 2:g}mm/mV" in text
            assert len(np.unique(marks.pulse_paths("left", range(3), where)[0, :, 1])) == 3, "a stair of both gains"


def test_chest_leads_at_half_gain_are_half_as_high():
    signal = np.zeros((12, 1000), np.float32)
    signal[:, 10:150] = 1.0
    page = PageConfig(
        effects="clean",
        height=850,
        width=1100,
        layouts={"12x1": 1.0},
        half_gain_precordial_probability=1.0,
        baseline="none",
    )
    pages = Renderer(page).render([Sheet("s", signal, 100.0)], np.array([5], np.uint64))
    _, sy, _, _ = page_to_image(page)
    heights = [np.ptp(points[:, 1]) / sy for points in expand(pages.truth[0], signal, 100.0).points]
    assert heights == pytest.approx([10.0] * 6 + [5.0] * 6, rel=1e-4)
    signal[8] = 2.0  # ... of V3, drawn: a flat line 10 mm above its zero line
    other = np.zeros_like(signal)
    one, two = (
        Renderer(page).render([Sheet("s", s, 100.0)], np.array([5], np.uint64)).image[0] for s in (signal, other)
    )
    where = pages.truth[0].geometry
    column = round((where.left + 200) * page_to_image(page)[0])
    rows = np.flatnonzero(one[:, column, 0] != two[:, column, 0])
    assert rows[0] + 0.5 == pytest.approx((where.first + 8 * where.pitch - 10.0) * sy, abs=1.5)


def test_traces_can_be_cut_off_half_way_to_the_next_row():
    signal = np.zeros((12, 1000), np.float32)
    signal[4, 400:450] = 9.0
    signal[4, 450:500] = -9.0
    page = PageConfig(effects="clean", height=850, width=1100, layouts={"12x1": 1.0}, amplitude_clip="row")
    key = np.array([5], np.uint64)
    for kind in ("auto", "plain"):
        cut, flat = (Renderer(page, kind).render([Sheet("s", s, 100.0)], key) for s in (signal, np.zeros_like(signal)))
        truth = cut.truth[0]
        rows = np.flatnonzero((cut.image[0, ..., 0] != flat.image[0, ..., 0]).any(1))
        _, sy, _, _ = page_to_image(page)
        middle, half = (truth.geometry.first + 4 * truth.geometry.pitch) * sy, truth.geometry.pitch / 2 * sy
        assert (rows[0], rows[-1]) == pytest.approx((middle - half, middle + half), abs=3)
        y = expand(truth, signal, 100.0).points[4][:, 1] + 0.5
        assert (y.min(), y.max()) == pytest.approx((middle - half, middle + half), abs=0.01)


def test_an_effect_can_be_asked_for_and_left_out():
    sheets, keys = sheets_and_keys(40)
    asked = PageConfig(effect_probabilities={"turn": 1.0, "curl": 1.0, "jpeg": 0.0})
    applied = [truth.effects for truth in Renderer(asked).render(sheets, keys).truth]
    assert all({"turn", "curl"} <= set(names) and "jpeg" not in names for names in applied)
    ways = set()
    for truth in Renderer(asked).render(sheets, keys).truth:
        (a, b, c, _), size = truth.frame_corners(), truth.size[::-1]
        across, down = (b - a) * size, (c - b) * size
        assert across[0] * down[1] - across[1] * down[0] > 0, "turned, not mirrored"
        ways.add((int(np.abs(across).argmax()), bool(across[np.abs(across).argmax()] > 0)))
    assert ways == {(0, False), (1, True), (1, False)}, "three quarter turns"
    for preset in effects.PRESETS:
        assert not any("turn" in t.effects for t in Renderer(PageConfig(effects=preset)).render(sheets, keys).truth)
    with pytest.raises(ConfigError, match=r"page.effect_ranges: no effect named 'jpg'. Did you mean 'jpeg'"):
        Renderer(PageConfig(effect_ranges={"jpg": (30.0, 40.0)}))


def test_a_size_alone_does_not_switch_an_effect_on():
    with pytest.raises(ConfigError) as caught:
        Renderer(PageConfig(effects="clean", effect_ranges={"jpeg": (30.0, 40.0)}))
    assert (
        str(caught.value)
        == "page.effect_ranges: 'jpeg' is not among the effects of 'clean'. Give page.effect_probabilities.jpeg too."
    )
    size, (sheets, keys) = {"jpeg": (30.0, 40.0)}, sheets_and_keys(2)
    asked = Renderer(PageConfig(effects="clean", effect_ranges=size, effect_probabilities={"jpeg": 1.0})).render(
        sheets, keys
    )
    assert all("jpeg" in truth.effects for truth in asked.truth)
    left_out = PageConfig(effects="clean", effect_ranges=size, effect_probabilities={"jpeg": 0.0})
    clean = Renderer(left_out.model_copy(update={"effect_ranges": {}, "effect_probabilities": {}})).render(sheets, keys)
    np.testing.assert_array_equal(Renderer(left_out).render(sheets, keys).image, clean.image)
    assert effects.enabled_effects(PageConfig(effect_ranges=size))["jpeg"] == effects.Effect(0.55, 30.0, 40.0), (
        "mixed has it"
    )


def test_the_sample_pages_of_the_laptop_preset_keep_their_pixels():
    """Figures were measured on these pages; clean pages are the same bytes everywhere, so a digest can hold them."""
    saws = np.stack([(np.arange(1000) * (lead + 3) % 97) / 97 for lead in range(12)]).astype(np.float32)
    sheets, keys = [Sheet(f"made/{n}", saws, 100.0) for n in range(4)], sheets_and_keys(4)[1]
    laptop = load(Config, "laptop").page
    clean = laptop.model_copy(update={"effects": "clean", "effect_probabilities": {}})
    digest = hashlib.sha256(Renderer(clean).render(sheets, keys).image.tobytes()).hexdigest()
    assert digest[:16] == "4ad0dd4c9f90281e"
    added = set(effects.PRESETS["mixed"]) - set(laptop.effect_probabilities)
    assert added == {
        "rotation", "perspective", "page_scale", "shift", "shading", "shadow", "cast", "gamma", "blur", "motion",
        "noise", "jpeg", "fold", "wrinkle", "glare", "stain", "fade", "grade",
    }  # fmt: skip


def test_a_millivolt_is_ten_millimetres_and_the_pulse_too():
    page = PageConfig(height=2159, width=2794, effects="clean", layouts={"12x1": 1.0}, jitter=0.0)
    signal = np.zeros((12, 1000), np.float32)
    signal[1, 300:600] = 1.0
    signal[1, 800:1000] = -0.2
    truth = Renderer(page).render([Sheet("x", signal, 100.0)], np.array([1], np.uint64)).truth[0]
    points = expand(truth, signal, 100.0).points[1]
    assert points[0, 1] - points[400, 1] == pytest.approx(100.0, abs=0.01)
    assert points[100, 0] - points[0, 0] == pytest.approx(250.0, abs=0.01)
    ys = marks.pulse_paths("left", range(12), truth.geometry)[..., 1]
    assert ys.max() - truth.geometry.first == pytest.approx(11 * truth.geometry.pitch)
    assert np.ptp(ys[0]) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("signal", "fs", "reason"),
    [
        (np.zeros((0, 0), np.float32), 100.0, "shape"),
        (np.zeros((15, 1000), np.float32), 100.0, "shape"),
        (np.zeros(1000, np.float32), 100.0, "shape"),
        (np.zeros((12, 0), np.float32), 100.0, "empty"),
        (np.full((12, 1000), np.nan, np.float32), 100.0, "empty"),
        (np.full((12, 1000), np.inf, np.float32), 100.0, "infinite"),
        (np.zeros((12, 1000), np.float32), 0.0, "rate"),
        (np.zeros((12, 1000), np.float32), float("nan"), "rate"),
    ],
)
def test_what_cannot_be_drawn_is_named(signal, fs, reason):
    renderer, (sheets, keys) = Renderer(PageConfig()), sheets_and_keys(1)
    with pytest.raises(RecordingError, match="made/bad") as caught:
        renderer.render([Sheet("made/bad", signal, fs)], np.array([1], np.uint64))
    assert caught.value.reason == reason
    np.testing.assert_array_equal(  # and leaves no ink on the next page
        renderer.render(sheets, keys).image, Renderer(PageConfig()).render(sheets, keys).image
    )


def test_one_sample_and_readonly_and_float64_signals_are_drawn():
    signal = np.zeros((12, 1))
    signal.flags.writeable = False
    pages = Renderer(PageConfig(effects="clean")).render([Sheet("dot", signal, 100.0)], np.array([1], np.uint64))
    assert pages.image.min() < 120


def test_numbers_of_keys_and_recordings_must_agree():
    with pytest.raises(ConfigError, match="1 recordings but 2 keys"):
        Renderer(PageConfig()).render([sheet()], np.array([1, 2], np.uint64))


def test_an_empty_batch_is_an_empty_batch():
    pages = Renderer(PageConfig()).render([], np.zeros(0, np.uint64))
    assert pages.image.shape == (0, 160, 208, 1)


def test_strength_zero_is_clean():
    sheets, keys = sheets_and_keys(2)
    one, other = (
        Renderer(page).render(sheets, keys).image for page in (PageConfig(strength=0), PageConfig(effects="clean"))
    )
    np.testing.assert_array_equal(one, other)


def test_mixed_is_as_degraded_as_promised():
    sheets, _ = sheets_and_keys(1)
    keys = np.arange(300, dtype=np.uint64) * 31
    truths = Renderer(PageConfig()).render(sheets * 300, keys).truth
    share = {name: np.mean([name in t.effects for t in truths]) for name in ("warp", "light", "blur", "noise", "jpeg")}
    assert share["warp"] == 1
    assert min(share["light"], share["blur"], share["noise"]) >= 0.8
    assert share["jpeg"] >= 0.5


def test_opencv_without_its_system_libraries_is_explained(tmp_path):
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import ecgscan_ray.paper"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "libGL.so.1" in completed.stderr.splitlines()[-1]
    assert "opencv-python-headless" in completed.stderr.splitlines()[-1]


def test_without_numba_numpy_draws(tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('no numba')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from tests.unit.paper.test_renderer import *;"
        "s, k = sheets_and_keys(2); p = Renderer(PageConfig()).render(s, k); print(hashlib.sha256(p.image.tobytes()).hexdigest())"
    )
    digest = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    sheets, keys = sheets_and_keys(2)
    assert digest == hashlib.sha256(Renderer(PageConfig()).render(sheets, keys).image.tobytes()).hexdigest()


def test_importing_the_paper_loads_no_heavy_library():
    code = "import sys, ecgscan_ray.paper; print([m for m in ('torch', 'ray', 'pyarrow', 'numba') if m in sys.modules])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"
