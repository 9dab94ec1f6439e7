"""The contrastive losses: time and peak memory, beside open_clip's ClipLoss and a plain [N, N, 3, 3] determinant, one thread.

A time is the least of a few rounds of forward and backward, of the thread's own time, with the losses taking turns in one
process. A peak is what the resident memory of a fresh process rises by in one forward and backward: gradients are in it,
features are not. What has no figure did not fit into memory, or is not installed (``open_clip.present``).
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F

from ecgscan_ray.objective.contrastive import MODALITIES, gather_features, pair_losses, triplet_loss
from ecgscan_ray.objective.gram import EPS

SIZES = (1024, 2048, 4096, 8192, 16384)
DIM = 256
CHUNK = 256
MATRICES = {"det": 40, "open_clip": 8}
"""N x N matrices in fp32 that they hold at their worst, about."""
MOST_BYTES = 10 * 2**30

Features = list[torch.Tensor]


def run() -> dict[str, float]:
    """Flat figures."""
    open_clip = importlib.util.find_spec("open_clip") is not None
    if not open_clip:
        print(
            "open_clip is not installed, so its figures are missing: pip install --no-deps open-clip-torch ftfy",
            file=sys.stderr,
        )
    figures = {"open_clip.present": float(open_clip)}
    names = ["gram", "triangle", "infonce", "siglip", "det"] + ["open_clip"] * open_clip
    for size in SIZES:
        fitting = [name for name in names if _fits(name, size)]
        for name, seconds in _in_child(_times, fitting, size, 3 if size < 4096 else 1).items():
            figures[f"{name}.n{size}.ms"] = 1e3 * seconds
        for name in fitting:
            figures[f"{name}.n{size}.mb"] = _in_child(_peak_mb, name, size)
    figures |= {
        f"{name}.peak_mb": figures[f"{name}.n{SIZES[-1]}.mb"] for name in ("gram", "triangle", "infonce", "siglip")
    }
    seconds = _in_child(_times, ["det", "gram", "chunked"], 2048, 5)
    figures["gram.dense.vs_det_time"] = seconds["gram"] / seconds["det"]
    figures["gram.chunked.vs_det_time"] = seconds["chunked"] / seconds["det"]
    if open_clip:
        figures["infonce.vs_open_clip_memory"] = figures["infonce.n8192.mb"] / figures["open_clip.n8192.mb"]
        figures["infonce.vs_open_clip_time"] = figures["infonce.n8192.ms"] / figures["open_clip.n8192.ms"]
    return {name: round(value, 4) for name, value in figures.items()}


def _fits(name: str, size: int) -> bool:
    return MATRICES.get(name, 0) * size**2 * 4 <= min(MOST_BYTES, psutil.virtual_memory().available // 2)


def _in_child(work: Callable[..., Any], *arguments: Any) -> Any:
    """In a process of its own, so that one measurement's memory is not another's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.bench_loss"])  # torch is loaded once
    with context.Pool(1) as pool:
        return pool.apply(work, arguments)


def _times(names: list[str], size: int, rounds: int) -> dict[str, float]:
    """Seconds of each, the least of ``rounds`` after a first one that does not count."""
    torch.set_num_threads(1)
    losses, features = {name: _loss(name) for name in names}, _features(size)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds + 1):
        for name, loss in losses.items():
            start = time.thread_time()
            loss(features).backward()
            taken[name].append(time.thread_time() - start)
    return {name: min(seconds[1:]) for name, seconds in taken.items()}


def _peak_mb(name: str, size: int) -> float:
    torch.set_num_threads(1)
    loss, features = _loss(name), _features(size)
    loss(_features(64)).backward()  # libraries load on first use
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    before = _status("VmRSS")
    loss(features).backward()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """Of /proc/self/status, kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _features(size: int) -> Features:
    torch.manual_seed(size)
    return [F.normalize(torch.randn(size, DIM), dim=-1).requires_grad_() for _ in MODALITIES]


def _loss(name: str) -> Callable[[Features], torch.Tensor]:
    if name == "open_clip":
        from open_clip.loss import ClipLoss

        clip = ClipLoss()
        return lambda features: clip(features[0], features[2], SCALE)
    return {
        "gram": _triple,
        "chunked": partial(_triple, block_rows=CHUNK),
        "triangle": partial(_triple, kind="triangle"),
        "infonce": _pair,
        "siglip": partial(_pair, logit_bias=torch.tensor(-10.0)),
        "det": _determinant,
    }[name]


SCALE = torch.tensor(14.0)


def _items(features: Features):
    count = len(features[0])
    batch = {name: torch.ones(count).bool() for name in ("page_ok", "has_signal", "has_text")}
    batch |= {name: torch.arange(count) for name in ("recording_key", "patient_key", "report_key")}
    return gather_features({f"{name}_features": value for name, value in zip(MODALITIES, features, strict=True)}, batch)


def _triple(features: Features, **settings: Any) -> torch.Tensor:
    return triplet_loss(_items(features), SCALE, **settings)


def _pair(features: Features, **settings: Any) -> torch.Tensor:
    return pair_losses(_items(features), SCALE, ["image_text"], **settings)["image_text"]


def _determinant(features: Features) -> torch.Tensor:
    image, signal, text = features
    count = len(image)
    a, b, c = image @ signal.T, image @ text.T, (signal * text).sum(-1).expand(count, count)
    one, own = torch.ones_like(a), torch.arange(count)
    rows = (torch.stack(row, dim=-1) for row in ((one, a, b), (a, one, c), (b, c, one)))
    squared = torch.linalg.det(torch.stack(list(rows), dim=-2))
    logits = -SCALE * (squared.clamp_min(0) + EPS).sqrt()
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
