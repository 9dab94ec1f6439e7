"""A page finds its own recording among others, whatever its strips' offsets and a small shift."""

from __future__ import annotations

import numpy as np

from ecgscan_ray.evaluation.signal_search import find_recordings
from ecgscan_ray.paper.layout import find_layout
from ecgscan_ray.reading.leads import Found, PageReading, StripReading
from ecgscan_ray.recording.recording import Recording

FS = 500.0


def recordings(count: int) -> list[Recording]:
    rng = np.random.default_rng(0)
    walks = np.cumsum(rng.standard_normal((count, 12, 5000)), -1).astype(np.float32)
    smooth = np.stack([np.apply_along_axis(np.convolve, -1, walk, np.ones(25) / 25, "same") for walk in walks])
    return [Recording(str(k), "test", None, signal.astype(np.float32) / 50, FS) for k, signal in enumerate(smooth)]


def page(recording: Recording, late: int) -> PageReading:
    """The recording as a 3x4+1 page that begins ``late`` samples too early, each strip around an offset of its own."""
    strips = []
    for k, strip in enumerate(find_layout("3x4+1").strips):
        first, stop = round(strip.start_s * FS), round(strip.stop_s * FS)
        mv = np.roll(recording.signal_mv[strip.lead], late)[first:stop] + 0.1 * k
        strips.append(StripReading(strip, mv.astype(np.float32), np.ones(len(mv), np.float32), np.zeros((0, 2))))
    found = Found(25.0, "given", 1.0)
    return PageReading(tuple(strips), FS, Found("3x4+1", "given", 1.0), found, found, 0, (4.0, 4.0), 1.0, ())


def test_each_page_finds_its_recording() -> None:
    gallery = recordings(40)
    matches = find_recordings([page(gallery[7], 0), page(gallery[23], 20)], gallery, top=3)
    assert [found[0].recording_id for found in matches] == ["7", "23"]
    for found, late_s in zip(matches, (0.0, 0.04), strict=True):
        assert found[0].score > 0.98 > found[1].score + 0.1
        assert abs(found[0].shift_s - late_s) < 0.015
