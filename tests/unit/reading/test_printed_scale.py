"""What printed text says of a page's scale, and the picture that is given to OCR."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ecgscan_ray.reading import printed_scale
from ecgscan_ray.reading.printed_scale import PX_PER_MM, read_printed_scale, stated_scale, without_lines
from ecgscan_ray.reading.scale import NOTHING
from ecgscan_ray.rectification.page_map import flat_map


@pytest.mark.parametrize(
    ("text", "speed", "gain", "chest"),
    [
        ("25mm/s    10mm/mV    0.05-150 Hz    433.2", 25.0, 10.0, 1.0),
        ("50 mm/s 5 mm/rnV", 50.0, 5.0, 1.0),
        ("Speed: 50 mm/sec  Limb: 10 mm/mV  Chest: 5 mm/mV  F 50~ 0.05-100 Hz", 50.0, 10.0, 0.5),
        ("25mm/s 10/5mm/mV", 25.0, 10.0, 0.5),
        ("12,5 MM/S 2.5 mm/mV", 12.5, 2.5, 1.0),
        ("20 mm/mV", None, 20.0, 1.0),
        ("60mm/s 120mm/mV", None, None, 1.0),  # misread
        ("25 mm/s 50 mm/s 10 mm/mV", None, 10.0, 1.0),  # rows of two speeds
        ("10 mm/mV 20 mm/mV", None, None, 1.0),
        ("Limb: 10 mm/mV Chest: 20 mm/mV", None, None, 1.0),  # a gain that no layout has
        ("QT/QTc 340/380 ms", None, None, 1.0),
    ],
)
def test_the_scale_that_a_text_states(text: str, speed: float | None, gain: float | None, chest: float) -> None:
    scale = stated_scale(text)
    assert (scale.speed, scale.gain, scale.chest) == (speed, gain, chest)


def test_the_grid_is_taken_out_and_letters_stay() -> None:
    band = np.full((200, 1200, 3), (250, 240, 240), np.uint8)
    step = round(5 * PX_PER_MM)
    band[:, ::step] = band[::step] = (190, 120, 120)
    plain = np.full((200, 1200), 255, np.uint8)
    for picture, colour in ((band, (60, 60, 60)), (plain, 0)):
        cv2.putText(picture, "25 mm/s 10 mm/mV", (110, 105), cv2.FONT_HERSHEY_SIMPLEX, 0.7, colour, 2)
    left, letters = without_lines(band)[..., 0], plain < 128
    assert left[letters].mean() < 60 and left[cv2.dilate(letters.astype(np.uint8), np.ones((5, 5))) == 0].mean() > 250


def test_without_the_extra_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printed_scale, "_is_installed", lambda: False)
    page_map = flat_map(np.diag([4.0, 4.0, 1.0]), (0.0, 0.0, 200.0, 150.0), 10.0)
    assert read_printed_scale(np.zeros((600, 800, 3), np.uint8), page_map, np.array([50.0, 100.0])) is NOTHING
