"""Pages a second of one pinned thread, their fidelity at the same settings, and ratios to other ways of drawing.

``floor_ms`` is what a bare OpenCV warp of the same size takes in the same run: it tells how loaded the machine was. Other
programs (ecg_plot, pmecg) are timed where ``ECGSCAN_PEERS_PYTHON`` names an interpreter that has them installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import fidelity
from ecgscan_ray.config import PageConfig
from ecgscan_ray.paper import Renderer, page_key, windows_of
from ecgscan_ray.recording.leads import LEADS
from tests.unit.paper.pages import Sheet

SIZES: dict[str, dict[str, Any]] = {
    "clean_336": {"height": 336, "width": 336, "channels": 3, "effects": "clean"},
    "mixed_336": {"height": 336, "width": 336, "channels": 3, "effects": "mixed"},
    "laptop": {"strength": 0.5, "jitter": 0.5},
    "clean_2200x1700": {"height": 1700, "width": 2200, "channels": 3, "effects": "clean"},
    "photo_2200x1700": {"height": 1700, "width": 2200, "channels": 3, "effects": "photo"},
}
BATCHES = {"laptop": (32, 15), "clean_336": (32, 15), "mixed_336": (32, 15)}


def run() -> dict[str, float]:
    """Flat figures; times are the thread's own, and the median over batches, so that neighbours count less."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        figures = _speed()
        for name, ms in _peers_ms().items():
            figures[f"{name}.ms"] = ms
            figures[f"clean_336.vs_{name}"] = ms / figures["clean_336.ms"]
    finally:
        os.sched_setaffinity(0, allowed)
    for name, height, width in (("336", 336, 336), ("512x384", 384, 512)):
        figures |= {f"fidelity_{name}.{key}": value for key, value in fidelity.small_page(height, width).items()}
    figures |= {f"fidelity_2200x1700.{key}": value for key, value in fidelity.large_page().items()}
    return {name: round(value, 4) for name, value in figures.items()}


def _speed() -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, settings in SIZES.items():
        count, rounds = BATCHES.get(name, (4, 7))
        renderer, fs = Renderer(PageConfig(**settings)), 100.0 if name == "laptop" else 500.0
        recordings = [Sheet(f"bench/{i}", fidelity.noisy(fs, i), fs) for i in range(count)]
        for epoch in range(6):  # grids and faces are drawn on first use
            _render(renderer, recordings, epoch)
        seconds = _median(partial(_render, renderer, recordings), rounds)
        figures[f"{name}.pages_per_s"] = count / seconds
        figures[f"{name}.ms"] = 1e3 * seconds / count
        if settings.get("effects") == "clean":  # at once, while the machine is as it is
            size = settings["height"], settings["width"]
            blit, bare = _blitted_ms(*size), _blitted_ms(*size, bare=True)
            figures[f"{name}.blit_ms"], figures[f"{name}.vs_matplotlib_blit"] = blit, blit * count / (1e3 * seconds)
            figures[f"{name}.bare_blit_ms"] = bare
            figures[f"{name}.vs_matplotlib_bare_blit"] = bare * count / (1e3 * seconds)
    figures["floor_ms"] = _warp_ms()
    return figures


def _peers_ms() -> dict[str, float]:
    python = os.environ.get("ECGSCAN_PEERS_PYTHON")
    if not python:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "signal.npy", fidelity.noisy(500.0).astype(float))
        command = [python, str(Path(__file__).with_name("peers.py")), str(Path(folder) / "signal.npy"), "500"]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])


def _render(renderer: Renderer, recordings: list, epoch: int) -> None:
    keys = np.array([page_key(0, epoch, recording.id, 0) for recording in recordings], np.uint64)
    renderer.render(recordings, keys)


def _median(work: Callable[[int], object], rounds: int) -> float:
    taken = []
    for n in range(rounds):
        start = time.thread_time()
        work(100 + n)
        taken.append(time.thread_time() - start)
    return float(np.median(taken))


def _warp_ms() -> float:
    import cv2

    image = np.zeros((336, 336, 3), np.uint8)
    turn = np.array([[0.99, 0.05, 3.0], [-0.05, 0.99, 2.0], [0, 0, 1.0]])
    return 1e3 * _median(lambda _: cv2.warpPerspective(image, turn, (336, 336)), 50)


def _blitted_ms(height: int, width: int, bare: bool = False) -> float:
    """ms a page of matplotlib at its best: one figure kept, the grid blitted, the rest redrawn.

    The rest is what ours draws anew too, since its rows move from page to page: 13 traces, 13 labels and 4 calibration pulses
    (in one path). ``bare`` draws the 13 traces alone, at one place: less than a page of ours. Both leave out ours' header and
    footer.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 279.4), ylim=(215.9, 0))
    axes.vlines(np.arange(0, 280), 0, 216, colors="pink", lw=0.3)
    axes.hlines(np.arange(0, 216), 0, 280, colors="pink", lw=0.3)
    signal = fidelity.noisy(500.0)
    lines = [axes.plot([], [], "k", lw=0.8, animated=True)[0] for _ in range(13)]
    names = [axes.text(0, 0, LEADS[int(lead)], size=6, animated=True) for lead, _, _ in windows_of("3x4+1")]
    pulses = axes.plot([], [], "k", lw=0.8, animated=True)[0]
    pulse = np.array([(0.0, 0.0), (1.2, 0.0), (1.2, -10.0), (6.2, -10.0), (6.2, 0.0), (7.4, 0.0), (np.nan, np.nan)])
    canvas.draw()
    background = canvas.copy_from_bbox(figure.bbox)
    windows = windows_of("3x4+1")

    def page(number: int) -> np.ndarray:
        canvas.restore_region(background)
        left, top = (16.0, 60.0) if bare else (16.0 + number % 5, 60.0 + number % 7)
        for strip, (line, (lead, start, stop)) in enumerate(zip(lines, windows, strict=True)):
            part = signal[int(lead), int(start * 500) : int(stop * 500)]
            x, y = left + 25 * (start + np.arange(len(part)) / 500), top + 37 * (strip % 3 if strip < 12 else 3)
            line.set_data(x, y - 10 * part)
            axes.draw_artist(line)
            if not bare:
                names[strip].set_position((x[0] + 1, y - 6))
                axes.draw_artist(names[strip])
        if not bare:
            rows = np.concatenate([pulse + np.array([left - 8, top + 37 * row]) for row in range(4)])
            pulses.set_data(rows[:, 0], rows[:, 1])
            axes.draw_artist(pulses)
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    page(0)
    return 1e3 * _median(page, 15)
