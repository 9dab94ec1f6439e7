"""Speed and gain from calibration pulses; nothing is believed that one pulse alone says."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscan_ray.reading.rows import Rows
from ecgscan_ray.reading.scale import read_scale

LEFT = 20.0


def rows(pulses: list[tuple[float, float] | None]) -> Rows:
    """Rows whose pulses have these heights and widths, mm; None = no pulse."""
    x = np.arange(0, 300, 0.25)
    up = np.zeros((len(pulses), len(x)))
    for row, pulse in enumerate(pulses):
        if pulse:
            up[row, (x >= LEFT - 2 - pulse[1]) & (x < LEFT - 2)] = pulse[0]
    sure = np.ones_like(up, np.float32)
    return Rows(x, up, sure, sure, np.zeros(len(pulses)), np.zeros((len(pulses), 1, len(x), 3), np.uint8))


@pytest.mark.parametrize(("speed", "gain"), [(25.0, 10.0), (50.0, 10.0), (25.0, 5.0), (25.0, 20.0)])
def test_pulses_that_agree_are_believed(speed: float, gain: float) -> None:
    scale = read_scale(rows([(gain, 0.2 * speed)] * 4), LEFT)
    assert (scale.speed, scale.gain, scale.chest, scale.agreement) == (speed, gain, 1.0, 1.0)


@pytest.mark.parametrize(
    "pulses", [[None] * 4, [(10.0, 5.0), None, None, None], [(10.0, 5.0), (4.0, 9.0), (7.0, 3.5), None]]
)
def test_no_pulse_or_one_alone_says_nothing(pulses: list[tuple[float, float] | None]) -> None:
    scale = read_scale(rows(pulses), LEFT)
    assert (scale.speed, scale.gain) == (None, None)
