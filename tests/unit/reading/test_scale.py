"""Speed and gain from calibration pulses: plateaus of a standard's height and width that stand on the zero line."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscan_ray.reading.rows import Rows
from ecgscan_ray.reading.scale import read_scale

LEFT = 20.0


def rows(pulses: list[tuple[float, float] | None], apart: float = 30.0) -> Rows:
    """Rows, so many mm apart, whose pulses have these heights and widths, mm; None = no pulse."""
    x = np.arange(0, 300, 0.25)
    up = np.zeros((len(pulses), len(x)))
    for row, pulse in enumerate(pulses):
        if pulse:
            up[row, (x >= LEFT - 2 - pulse[1]) & (x < LEFT - 2)] = pulse[0]
    sure = np.ones_like(up, np.float32)
    return Rows(x, up, sure, sure, apart * np.arange(len(pulses)), np.zeros((len(pulses), 1, len(x), 3), np.uint8))


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(("speed", "gain"), [(25.0, 10.0), (50.0, 10.0), (25.0, 5.0), (25.0, 20.0), (50.0, 2.5)])
def test_pulses_say_speed_and_gain_and_several_are_believed_more(speed: float, gain: float, count: int) -> None:
    scale = read_scale(rows([(gain, 0.2 * speed)] * count + [None] * (4 - count)), LEFT)
    assert (scale.speed, scale.gain, scale.chest) == (speed, gain, 1.0)
    assert scale.agreement == (0.95 if count == 1 else 0.99)
    assert scale.pulse_stop is not None and abs(scale.pulse_stop - (LEFT - 2)) < 0.3


@pytest.mark.parametrize(
    "pulses",
    [
        [None] * 4,
        [(10.0, 2.5), None, None, None],  # as wide as a letter
        [(7.0, 5.0)] * 4,  # of no standard
        [(20.0, 4.8), (20.0, 3.9), None, None],  # of 10 mm, whose edges lie on lines of the grid
        [(10.0, 7.5), (10.0, 7.5), None, None],  # two of no standard's width
        [(10.0, 7.5), (10.0, 7.5), (10.0, 2.5), (10.0, 3.5)],
        [(10.0, 5.0), (10.0, 10.0), None, None],  # which of the two?
        [(1.0, 5.0)] * 4,
        [(17.9, 4.4), (18.6, 4.4), None, None],  # read in a margin: lower and narrower than pulses are
    ],
)
def test_what_is_no_pulse_says_nothing(pulses: list[tuple[float, float] | None]) -> None:
    scale = read_scale(rows(pulses), LEFT)
    assert (scale.speed, scale.gain) == (None, None)


@pytest.mark.parametrize("missing", [0, 1])
def test_pulses_of_no_standards_width_say_the_gain_where_rows_agree(missing: int) -> None:
    """A cart whose pulses are 130 ms long."""
    scale = read_scale(rows([(10.0, 3.25)] * (4 - missing) + [None] * missing), LEFT)
    assert (scale.speed, scale.gain, scale.agreement) == (None, 10.0, 0.99)


def test_a_bump_with_doubtful_samples_within_is_one_pulse() -> None:
    torn = rows([(10.0, 5.0), None, None, None])
    torn.belief[0, (torn.x_mm > LEFT - 5) & (torn.x_mm < LEFT - 4)] = 0.0
    scale = read_scale(torn, LEFT)
    assert (scale.speed, scale.gain, scale.agreement) == (25.0, 10.0, 0.95), "not two that agree"
    torn = rows([(10.0, 3.25), None, None, None])
    torn.belief[0, (torn.x_mm > LEFT - 4.6) & (torn.x_mm < LEFT - 2.4) & (np.arange(len(torn.x_mm)) % 3 == 0)] = 0.0
    assert read_scale(torn, LEFT).gain is None


def test_a_bump_beside_the_zero_line_or_a_slope_is_no_pulse() -> None:
    lifted = rows([(10.0, 5.0)] * 4)
    lifted.up_mm[:, lifted.x_mm < LEFT] += 3.0
    slope = rows([(10.0, 5.0)] * 4)
    inside = slope.up_mm > 0
    slope.up_mm[inside] *= np.tile(np.linspace(0.5, 1.5, inside[0].sum()), 4)
    assert read_scale(lifted, LEFT).gain is None and read_scale(slope, LEFT).gain is None


def test_a_stepped_pulse_is_half_the_gain_for_the_chest() -> None:
    stepped = rows([(10.0, 5.0)] * 4)
    stepped.up_mm[:, (stepped.x_mm >= LEFT - 4.5) & (stepped.x_mm < LEFT - 2)] = 5.0
    scale = read_scale(stepped, LEFT)
    assert (scale.speed, scale.gain, scale.chest) == (25.0, 10.0, 0.5)


def test_the_top_of_the_next_rows_pulse_is_no_pulse_of_its_own() -> None:
    """Of 20 mm, 11 mm below: 9 mm high in the row above, which is near 10."""
    top = (9.0, 5.0)
    assert read_scale(rows([None, top, None], apart=11.0), LEFT).gain is None
    assert read_scale(rows([top, top, (20.0, 5.0)], apart=11.0), LEFT).gain == 20.0
    assert read_scale(rows([None, None, (10.0, 5.0)], apart=11.0), LEFT).gain == 10.0, (
        "the lowest row has none below it"
    )
    assert read_scale(rows([(10.0, 5.0)] * 3, apart=11.0), LEFT).gain == 10.0
