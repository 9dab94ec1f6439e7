"""What is read of real photographs and scans, and is the right recording found?

``ECGSCAN_PHOTOS=DATA make -s bench ONLY=real_pages``. DATA holds ``photos/`` (``photos.csv`` and the pictures) and ``ptbxl/``
(table, packed samples, their ``read.py``). Pictures are read as they are, nothing is stated of them. Beside each figure stands
its 95 % interval over patients (``.low``, ``.high``), and the same for two halves of the pictures, drawn by ``HALVES_SEED``:
those that were looked at during development (``.developed``) and the others (``.unseen``).

``found``: the recording among those photographed and up to 1,000 others, one a patient, none trained on; ``found_among_all``:
among all recordings of DATA; ``turned.90`` and so on: pictures turned clockwise. Only what lies in the rows of traces is
compared: a printed head with id and age is not read. ``embedding``: the same by features of the run ``ECGSCAN_RUN`` (default
``runs/demo``, which ``make demo`` makes), the head painted over for encoders of pictures; ``reranked``: the hundred nearest by
them, ordered by signal.
``snr``: of what the page shows against the recording at 100 Hz, each strip without its mean (``reading_error``).
``grid_error_mm``: see ``crossings``. ``not_in_gallery.auroc``: the match's probability, of pages searched with their recording
in the gallery and without.

``read_then_encoded``: superclass macro AUROC of a linear probe on the run's test recordings, drawn as pages and read;
``.minus_recorded_strips``: less the same with the recorded strips in place of what was read.

``rendered``: pages of ours, of recordings that were not trained on (``rendered_pages``); ``.held_out_layouts`` and ``covered``
were never trained on. ``quality.auroc``: of the reading's quality, for an SNR of 5 dB or more, among all pages that were read:
real ones, also turned, and rendered ones; ``quality.bad_pages``: how many are below.

A sheet of all pictures with what was read drawn over them, worst first, is written to ``runs/real_pages/index.html``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.crossings import crossings, grid_error_mm
from benchmarks.find_recordings import check_strangers, embed_signals, gallery
from benchmarks.photographs import Photograph, data_folder, database, photographs, recordings
from benchmarks.read_then_encoded import read_then_encoded
from benchmarks.reading_error import SMOOTHING_S, ReadingError, reading_error
from benchmarks.reading_sheet import write_sheet
from benchmarks.rendered_pages import TRAINED_LAYOUTS, RenderedPage, rendered_pages
from ecgscan_ray.cores import usable_cores
from ecgscan_ray.digitise import load_reader
from ecgscan_ray.digitise.options import Options
from ecgscan_ray.encoder import load_encoder
from ecgscan_ray.errors import EcgscanError, InputError
from ecgscan_ray.evaluation.bootstrap import Estimate, PatientBootstrap, auroc_statistic, interval
from ecgscan_ray.evaluation.signal_search import find_recordings
from ecgscan_ray.reading.leads import PageReading
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.runs.folder import RunFolder

HALVES_SEED = 0
OTHERS = 1000
TURNS = (1, 2, 3)
SHEET = Path("runs/real_pages")
RECALL_AT = (1, 10)
DEMO_RUN = "runs/demo"
RERANKED = 100
"""Recordings nearest by embedding that are compared by signal."""
LEAST_SNR_DB = 5.0
SCALE_TOLERANCE = 0.01


@dataclass(frozen=True)
class Read:
    """A page that was read, or not.

    Attributes:
        reading: None where it was refused.
        reason: Why.
        seconds: From pixels to leads, one thread.
    """

    reading: PageReading | None
    reason: str
    seconds: float


@dataclass(frozen=True)
class Judged:
    """A page that was read: its quality, SNR and patient."""

    quality: float
    snr_db: float
    patient: int


def run() -> dict[str, float]:
    """Flat figures; none, and a line that says why, where no photographs are given."""
    uri = os.environ.get("ECGSCAN_PHOTOS")
    if not uri:
        print("real_pages: not measured; set ECGSCAN_PHOTOS to a folder with photos/ and ptbxl/", file=sys.stderr)
        return {}
    try:
        data = data_folder(uri)
        photos = photographs(data)
        flat: dict[str, float] = {}
        for figures in _parts(data, photos):
            part = _flat(figures)
            print(json.dumps(part, indent=1), file=sys.stderr)  # an hour's work is not lost with the last of it
            flat |= part
    except EcgscanError as error:
        sys.exit(f"error: {error}")
    return flat


def _parts(data: Path, photos: Sequence[Photograph]) -> Iterator[dict[str, Estimate]]:
    judged: list[Judged] = []
    yield _of_photographs(data, photos, judged)
    if (run := _finished_run()) is not None:
        figures = read_then_encoded(run.uri)
        yield {f"read_then_encoded.{name}": estimate for name, estimate in figures.items()}
    others = gallery(data, photos, OTHERS)[len({photo.ecg_id for photo in photos}) :]
    for name, pages in rendered_pages(others).items():
        yield _of_rendered(name, pages, others, judged)
    yield _of_quality(judged)


def _flat(figures: dict[str, Estimate]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, estimate in figures.items():
        bounds = {"": estimate.value, ".low": estimate.low, ".high": estimate.high}
        flat |= {f"{name}{key}": round(v, 4) for key, v in bounds.items() if v is not None and np.isfinite(v)}
    return flat


def halves(count: int) -> np.ndarray:
    """bool (count,): pictures that were looked at during development."""
    looked_at = np.zeros(count, bool)
    looked_at[np.random.default_rng(HALVES_SEED).permutation(count)[: count // 2]] = True
    return looked_at


def _of_photographs(data: Path, photos: Sequence[Photograph], judged: list[Judged]) -> dict[str, Estimate]:
    table = database(data)
    shown = {r.id: r for r in recordings(data, [r for r in table if r["ecg_id"] in {p.ecg_id for p in photos}])}
    own = [shown[photo.ecg_id] for photo in photos]
    reads = read_all([(_pixels, (photo, 0)) for photo in photos])
    errors = [_error(read, recording) for read, recording in zip(reads, own, strict=True)]
    write_sheet(SHEET, photos, [read.reading for read in reads], [read.reason for read in reads], errors)
    candidates = gallery(data, photos, OTHERS)
    ranks, scores = _found(reads, own, candidates), _probabilities(reads, own, candidates)
    among_all = _found(reads, own, recordings(data, table))
    judged += _judged(reads, errors, own)
    means: dict[str, np.ndarray | list[bool]] = {}
    for turn in TURNS:
        turned = read_all([(_pixels, (photo, turn)) for photo in photos])
        judged += _judged(turned, [_error(read, r) for read, r in zip(turned, own, strict=True)], own)
        turned_ranks = _found(turned, own, candidates)
        means |= {f"turned.{90 * turn}.recall_at_{k}": turned_ranks <= k for k in RECALL_AT}
    means |= {
        **{f"found.recall_at_{k}": ranks <= k for k in RECALL_AT},
        "found_among_all.recall_at_1": among_all <= 1,
        "layout_right": [_layout_right(read, photo) for read, photo in zip(reads, photos, strict=True)],
        "scale_right": [_scale_right(read, photo) for read, photo in zip(reads, photos, strict=True)],
        "refused": [read.reading is None for read in reads],
    }
    medians = {"rmse_mv": [e.rmse_mv for e in errors], "seconds_a_picture": [read.seconds for read in reads]}
    known = crossings()
    medians["grid_error_mm"] = [
        grid_error_mm(p.path.name, p.pixels()) if p.path.name in known else np.nan for p in photos
    ]
    for kind in sorted({photo.kind for photo in photos}):
        for name in ("snr_db", "snr_one_shift_db"):
            values = [getattr(e, name) if p.kind == kind else np.nan for e, p in zip(errors, photos, strict=True)]
            medians[f"{kind}.{name}"] = values
    means |= _embedded(reads, photos, own, candidates)
    bootstrap = PatientBootstrap(np.array([int(recording.patient_id or -1) for recording in own]))
    figures: dict[str, Estimate] = {"gallery": Estimate(float(len(candidates)))}
    developed = halves(len(photos))
    for group, inside in (("", developed | ~developed), (".developed", developed), (".unseen", ~developed)):
        rows = np.flatnonzero(inside)
        for name, values in means.items():
            figures[f"{name}{group}"] = bootstrap.mean(np.array(values, float)[rows], rows)
        for name, values in medians.items():
            part = rows[np.isfinite(np.array(values, float)[rows])]
            if len(part):
                label = name if name == "seconds_a_picture" else f"{name}.median"
                figures[f"{label}{group}"] = bootstrap.median(np.array(values, float)[part], part)
        figures[f"not_in_gallery.auroc{group}"] = _not_in_gallery(scores[rows], bootstrap.weights[:, rows])
    return figures


def _finished_run() -> RunFolder | None:
    """The run whose encoder is measured; none, and a line that says so, where there is none."""
    run = RunFolder(os.environ.get("ECGSCAN_RUN", DEMO_RUN))
    if run.is_finished():
        return run
    print(f"real_pages: no figures of an encoder; {run.uri} is no finished run: 'make demo' makes one", file=sys.stderr)
    return None


def _embedded(
    reads: Sequence[Read], photos: Sequence[Photograph], own: Sequence[Recording], candidates: Sequence[Recording]
) -> dict[str, np.ndarray]:
    """Whether the right recording is among the first by embedding, and by signal among the hundred nearest by embedding."""
    run = _finished_run()
    if run is None:
        return {}
    check_strangers(candidates, run.environment()["store"])
    encoder = load_encoder(run.uri)
    signals, row_of = embed_signals(encoder, candidates), {r.id: k for k, r in enumerate(candidates)}
    ranks, reranked = np.full((2, len(reads)), np.inf)
    for k, (read, photo) in enumerate(zip(reads, photos, strict=True)):
        if read.reading is None:
            continue
        similarity = signals @ encoder.embed([photo.pixels(headless=not encoder.reads)], projected=True)[0]
        ranks[k] = (similarity > similarity[row_of[own[k].id]]).sum() + 1
        nearest = [candidates[i] for i in np.argsort(-similarity)[:RERANKED]]
        reranked[k] = _found([read], [own[k]], nearest)[0]
    return {
        **{f"embedding.recall_at_{k}": ranks <= k for k in RECALL_AT},
        **{f"reranked.recall_at_{k}": reranked <= k for k in RECALL_AT},
    }


def _of_rendered(
    name: str, pages: Sequence[RenderedPage], others: Sequence[Recording], judged: list[Judged]
) -> dict[str, Estimate]:
    """Pages of ours of one kind, all layouts and turns."""
    figures: dict[str, Estimate] = {}
    reads = read_all([(RenderedPage.pixels, (page,)) for page in pages])
    own = [page.recording for page in pages]
    errors = [_error(read, recording, 0.0) for read, recording in zip(reads, own, strict=True)]
    judged += _judged(reads, errors, own)
    bootstrap = PatientBootstrap(np.array([int(r.patient_id or -1) for r in own]))
    pairs = list(zip(reads, pages, strict=True))
    values = {
        "snr_db.median": np.array([e.snr_db for e in errors]),
        "found.recall_at_1": (_found(reads, own, others) <= 1).astype(float),
        "layout_right": np.array([_layout_right(*pair) for pair in pairs], float),
        "scale_right": np.array([_scale_right(*pair) for pair in pairs], float),
        "refused": np.array([read.reading is None for read in reads], float),
    }
    held_out = np.array([page.layout not in TRAINED_LAYOUTS for page in pages])
    for group, rows in (("", np.arange(len(pages))), (".held_out_layouts", np.flatnonzero(held_out))):
        for figure, each in values.items():
            measure = bootstrap.median if figure.endswith("median") else bootstrap.mean
            figures[f"rendered.{name}{group}.{figure}"] = measure(each[rows], rows)
    scores = _probabilities(reads, own, others)
    figures[f"rendered.{name}.not_in_gallery.auroc"] = _not_in_gallery(scores, bootstrap.weights)
    return figures


def _of_quality(judged: Sequence[Judged]) -> dict[str, Estimate]:
    quality, snr_db, patients = (np.array(column) for column in zip(*map(astuple, judged), strict=True))
    good, bootstrap = snr_db >= LEAST_SNR_DB, PatientBootstrap(patients)
    point = auroc_statistic(quality, good, np.ones((1, len(good))))[0]
    area = interval(float(point), auroc_statistic(quality, good, bootstrap.weights), len(good))
    return {"quality.auroc": area, "quality.bad_pages": Estimate(float((~good).sum()), n=len(good))}


def read_all(pages: Sequence[tuple[Callable[..., np.ndarray], tuple]]) -> list[Read]:
    """Read pages by processes of one thread each; a page is made where it is read.

    Args:
        pages: What makes the pixels, and its arguments.
    """
    with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
        return list(pool.map(_read, *zip(*pages, strict=True), chunksize=4))


_reader: list = []
"""Of a process, loaded at its first page."""


def _read(make: Callable[..., np.ndarray], arguments: tuple) -> Read:
    if not _reader:
        _reader.append(load_reader(1))
    image = make(*arguments)
    start = time.perf_counter()
    try:
        reading, reason = _reader[0](image, Options()), ""
    except InputError as error:
        reading, reason = None, error.what
    return Read(reading, reason, time.perf_counter() - start)


def _pixels(photo: Photograph, turn: int) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(photo.pixels(), -turn))


def _error(read: Read, recording: Recording, smoothing_s: float = SMOOTHING_S) -> ReadingError:
    if read.reading is None:
        return ReadingError(-20.0, -20.0, 1.0, 0.0, 0.0, ())
    return reading_error(read.reading, recording, smoothing_s)


def _judged(reads: Sequence[Read], errors: Sequence[ReadingError], own: Sequence[Recording]) -> list[Judged]:
    return [
        Judged(read.reading.quality, error.snr_db, int(recording.patient_id or -1))
        for read, error, recording in zip(reads, errors, own, strict=True)
        if read.reading is not None
    ]


def _layout_right(read: Read, page: Photograph | RenderedPage) -> bool:
    return read.reading is not None and read.reading.layout.text == page.layout


def _scale_right(read: Read, page: Photograph | RenderedPage) -> bool:
    if read.reading is None:
        return False
    found = float(read.reading.speed.value) / page.speed, float(read.reading.gain.value) / page.gain
    return all(abs(ratio - 1) <= SCALE_TOLERANCE for ratio in found)


def _found(reads: Sequence[Read], own: Sequence[Recording], candidates: Sequence[Recording]) -> np.ndarray:
    """Rank of the right recording, infinite beyond the tenth."""
    ranks = np.full(len(reads), np.inf)
    known = [k for k, read in enumerate(reads) if read.reading is not None]
    pages = [read.reading for read in reads if read.reading is not None]
    for k, found in zip(known, find_recordings(pages, candidates, top=max(RECALL_AT)), strict=True):
        ids = [match.recording_id for match in found.matches]
        ranks[k] = ids.index(own[k].id) + 1 if own[k].id in ids else np.inf
    return ranks


def _probabilities(reads: Sequence[Read], own: Sequence[Recording], candidates: Sequence[Recording]) -> np.ndarray:
    """(N, 2) that the first one is right, with the pages' recordings in the gallery, and without them; 0 = not read."""
    out = np.zeros((len(reads), 2))
    known = [k for k, read in enumerate(reads) if read.reading is not None]
    pages = [read.reading for read in reads if read.reading is not None]
    left_out = {recording.id for recording in own}
    for column, part in enumerate((candidates, [r for r in candidates if r.id not in left_out])):
        out[known, column] = [found.probability for found in find_recordings(pages, part)]
    return out


def _not_in_gallery(scores: np.ndarray, weights: np.ndarray) -> Estimate:
    """Area under the curve of the probability: pages whose recording is in the gallery, and the same pages without it."""
    flat, present = scores.T.ravel(), np.repeat([True, False], len(scores))
    point = auroc_statistic(flat, present, np.ones((1, len(flat))))[0]
    return interval(float(point), auroc_statistic(flat, present, np.tile(weights, 2)), len(scores))
