"""How well can our pages be distinguished from real photographs and scans of the same recordings? 0.5 is not at all.

``ECGSCAN_PHOTOS=DATA make -s bench ONLY=realism``; DATA holds ``photos/`` and ``ptbxl/``. A photograph's recording is drawn
with the preset ``photo``, a scan's with ``scan``, each at the picture's own size; both are cut into crops at the
same places. Two classifiers distinguish the crops, in folds by recording: boosted trees on statistics of colour and
gradients, and a small convolutional network. The higher area under the ROC curve counts. ``clean`` pages against real
ones show that the classifiers can see: below 0.95 they would be too weak. The real pages are of one program: thin dark
red lines each 5 mm, ours of many, which alone identifies most of them; ``same_print`` draws ours on that one grid too, and
so asks about what happened to the page alone. Intervals are over recordings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import nn

from benchmarks.photographs import Photograph, data_folder, database, photographs, recordings
from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import EcgscanError
from ecgscan_ray.evaluation.bootstrap import Estimate, PatientBootstrap
from ecgscan_ray.paper import Renderer, page_key
from ecgscan_ray.paper.grid import GridStyle
from ecgscan_ray.recording.recording import Recording

PREFIX = "paper"
"""Of the figures: they are about pages, beside those of ``bench_paper``."""
WIDTH = 900
"""Pictures are brought to this width, px: 2.4 to 3.3 px/mm, where the grid of 1 mm is still seen."""
CROP = 96
CROPS = 16
"""Of each picture."""
FOLDS = 4
EPOCHS = 10
_BATCH = 48
PRESETS = {"photo": "photo", "scan": "scan"}
"""Kind of picture -> preset of our page; a kind without one is drawn clean."""
SAME_PRINT = {
    "photo": GridStyle("full", (252.0,) * 3, (175.0, 75.0, 75.0), (243.0, 230.0, 230.0), 0.2, 0.1),
    "scan": GridStyle("full", (252.0,) * 3, (110.0,) * 3, (215.0,) * 3, 0.2, 0.1),
}
"""Grids like those of the photographed and scanned pages."""
_ASKED: dict[str, tuple[dict[str, str], dict[str, GridStyle] | None]] = {
    "realism": (PRESETS, None),
    "realism.same_print": (PRESETS, SAME_PRINT),
    "realism.clean": ({}, None),
}


def run() -> dict[str, float]:
    """Flat figures; none, and a line that says why, where no photographs are given."""
    uri = os.environ.get("ECGSCAN_PHOTOS")
    if not uri:
        print("realism: not measured; set ECGSCAN_PHOTOS to a folder with photos/ and ptbxl/", file=sys.stderr)
        return {}
    try:
        photos, shown = load(data_folder(uri))
    except EcgscanError as error:
        sys.exit(f"error: {error}")
    real = crops([sized(photo.pixels()) for photo in photos])
    figures: dict[str, float] = {}
    for name, (presets, grids) in _ASKED.items():
        ours = crops(render_pages(photos, shown, presets, grids))
        estimates = {kind: classifier_auroc(real, ours, photos, *steps) for kind, steps in CLASSIFIERS.items()}
        for kind, estimate in [*estimates.items(), ("", max(estimates.values(), key=lambda e: e.value))]:
            key = ".".join(part for part in (name, kind, "auroc") if part)
            figures |= {key: estimate.value, f"{key}.low": estimate.low or 0.0, f"{key}.high": estimate.high or 0.0}
    return {key: round(value, 4) for key, value in figures.items()}


def load(data: Path) -> tuple[list[Photograph], list[Recording]]:
    """The photographs and the recording on each."""
    photos = photographs(data)
    rows = {row["ecg_id"]: row for row in database(data)}
    return photos, recordings(data, [rows[photo.ecg_id] for photo in photos])


def sized(image: np.ndarray) -> np.ndarray:
    """The picture at the common width."""
    size = (WIDTH, round(image.shape[0] * WIDTH / image.shape[1]))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def render_pages(
    photos: Sequence[Photograph],
    shown: Sequence[Recording],
    presets: dict[str, str],
    grids: dict[str, GridStyle] | None = None,
) -> list[np.ndarray]:
    """A page of ours for each picture, at its size: uint8 (H, W, 3).

    Args:
        photos: The pictures.
        shown: Their recordings.
        presets: Kind of picture -> preset.
        grids: Kind of picture -> the one grid of its pages; the renderer's own choice by default.
    """
    pages = []
    made: tuple[tuple, Renderer] | None = None
    for photo, recording in zip(photos, shown, strict=True):
        settings = (*sized(photo.pixels()).shape[:2], photo.kind)
        with (
            mock.patch("ecgscan_ray.paper.grid.grid_style", lambda _, kind=photo.kind: grids[kind])
            if grids
            else nullcontext()
        ):
            if made is None or made[0] != settings:  # one at a time: each holds a bank of grids
                effects = presets.get(photo.kind, "clean")
                page = PageConfig(height=settings[0], width=settings[1], channels=3, fit="pad", effects=effects)
                made = settings, Renderer(page)
            key = page_key(0, 0, photo.path.name, 0)
            pages.append(made[1].render([recording], np.array([key], np.uint64)).image[0])
    return pages


def crops(images: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 (N * CROPS, CROP, CROP, 3), a picture's at places that depend on its number and size alone."""
    cut = []
    for number, image in enumerate(images):
        places = np.random.default_rng(number).random((CROPS, 2)) * (np.array(image.shape[:2]) - CROP)
        cut += [image[y : y + CROP, x : x + CROP] for y, x in places.astype(int)]
    return np.stack(cut)


def classifier_auroc(
    real: np.ndarray, ours: np.ndarray, photos: Sequence[Photograph], prepare: Callable, classify: Callable
) -> Estimate:
    """Area under the ROC curve of real crops against ours, each scored by a classifier that never saw its recording."""
    ids = np.array([int(photo.ecg_id) for photo in photos])
    order = np.random.default_rng(0).permutation(np.unique(ids))
    recording = np.tile(np.repeat(ids, CROPS), 2)
    fold = np.argsort(order)[np.searchsorted(np.sort(order), recording)] % FOLDS
    seen, is_real = prepare(np.concatenate([real, ours])), np.repeat([True, False], len(real))
    scores = np.zeros(len(seen))
    for held_out in range(FOLDS):
        test = fold == held_out
        scores[test] = classify(seen[~test], is_real[~test], seen[test])
    return PatientBootstrap(recording).macro_auroc(scores[:, None], is_real[:, None])


def by_trees(seen: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Boosted trees on the crops' statistics; scores of the crops asked for."""
    trees = HistGradientBoostingClassifier(max_iter=150, max_leaf_nodes=15, random_state=0)
    return trees.fit(seen, labels).decision_function(asked)


def by_network(images: torch.Tensor, labels: np.ndarray, asked: torch.Tensor) -> np.ndarray:
    """A network of four convolutions trained for ``EPOCHS`` with crops mirrored at random; scores of the crops asked for."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs, side in ((3, 16, 5), (16, 32, 3), (32, 64, 3), (64, 64, 3)):
        layers += [nn.Conv2d(inputs, outputs, side, 2, side // 2), nn.GroupNorm(8, outputs), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 1))
    steps = EPOCHS * -(-len(images) // _BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    truth = torch.from_numpy(labels).float()
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(_BATCH):
            batch = images[rows].flip([axis for axis in (2, 3) if torch.rand(()) < 0.5])
            loss = nn.functional.binary_cross_entropy_with_logits(network(batch)[:, 0], truth[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    with torch.inference_mode():
        return torch.cat([network(part)[:, 0] for part in asked.split(_BATCH)]).double().numpy()


def normalised(images: np.ndarray) -> torch.Tensor:
    """Crops for the network."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 64 - 2


def table(images: np.ndarray) -> np.ndarray:
    """Crops for the trees, a row of ``statistics`` each."""
    return np.array([list(statistics(image).values()) for image in images])


def statistics(image: np.ndarray) -> dict[str, float]:
    """What is measured of one crop: light, colour, gradients at three scales, fine grain and what is left of JPEG."""
    figures: dict[str, float] = {}
    planes = image.astype(np.float32)
    grey, lab = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    for percent, value in zip((1, 10, 50, 90, 99), np.percentile(grey, (1, 10, 50, 90, 99)), strict=True):
        figures[f"light {percent} %"] = value
    for name, plane in (("red", planes[..., 0]), ("blue", planes[..., 2])):
        figures[f"{name} to green"] = float(plane.mean() / (planes[..., 1].mean() + 1))
    for name, plane in (("a", lab[..., 1]), ("b", lab[..., 2])):
        for percent, value in zip((2, 50, 98), np.percentile(plane, (2, 50, 98)), strict=True):
            figures[f"colour {name} {percent} %"] = value
        figures[f"colour {name} spread"] = float(plane.std())
    level = grey.astype(np.float32)
    for scale in (1, 2, 4):
        small = cv2.resize(level, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
        across, down = cv2.Sobel(small, -1, 1, 0) / 8, cv2.Sobel(small, -1, 0, 1) / 8
        steep = np.hypot(across, down)
        for percent, value in zip((10, 50, 75, 90, 99), np.percentile(steep, (10, 50, 75, 90, 99)), strict=True):
            figures[f"gradient {percent} % at 1/{scale}"] = value
        angle = ((np.arctan2(down, across) / np.pi) % 1.0 * 8).astype(int) % 8
        share = np.bincount(angle.ravel(), steep.ravel(), 8) / (steep.sum() + 1e-6)
        figures[f"direction at 1/{scale}"] = float(share.max())
        figures[f"levels per gradient at 1/{scale}"] = float(small.std() / (steep.mean() + 0.1))
    figures["shading"] = float(cv2.resize(level, (6, 6), interpolation=cv2.INTER_AREA).std())
    return figures | _grain(planes)


def _grain(planes: np.ndarray) -> dict[str, float]:
    """The finest detail: strength, likeness of neighbours, of colours, tails, and steps at every eighth pixel."""
    rest = planes - cv2.blur(planes, (3, 3))
    fine = rest.mean(-1)
    figures = {"grain": float(fine.std()), "grain of quiet half": float(np.median(np.abs(fine)))}
    quiet = np.abs(fine) < 3 * np.median(np.abs(fine)) + 0.1
    masked = np.where(quiet, fine, 0)
    power = float((masked**2).mean()) + 1e-3
    for name, (dy, dx) in {"x": (0, 1), "y": (1, 0), "xy": (1, 1), "x 2": (0, 2), "y 2": (2, 0)}.items():
        product = masked[dy:, dx:] * masked[: CROP - dy or None, : CROP - dx or None]
        figures[f"grain neighbours {name}"] = float(product.mean() / power)
    colour = rest[..., 0] - rest[..., 2]
    figures["grain colour"] = float(np.median(np.abs(colour)) / (figures["grain of quiet half"] + 0.1))
    figures["grain tails"] = float((fine**4).mean() / ((fine**2).mean() ** 2 + 1e-3))
    spectrum = np.abs(np.fft.rfft2(planes.mean(-1) - planes.mean())) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(CROP), np.fft.rfftfreq(CROP), indexing="ij"))
    for low, high in ((0.02, 0.06), (0.06, 0.12), (0.12, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5)):
        figures[f"spectrum {low}-{high}"] = float(np.log(spectrum[(radius >= low) & (radius < high)].mean() + 1))
    return figures


CLASSIFIERS: dict[str, tuple[Callable, Callable]] = {"boosting": (table, by_trees), "cnn": (normalised, by_network)}
