"""Pages as files: PNG or JPEG with JSON ground truth, and a contact sheet of all presets for the eye."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import InputError, RecordingError
from ecgscan_ray.paper.effects import PRESETS
from ecgscan_ray.paper.key import page_key
from ecgscan_ray.paper.layout import Layout
from ecgscan_ray.paper.renderer import Drawable, Renderer
from ecgscan_ray.paper.truth import PageTruth, expand, masks
from ecgscan_ray.processes import end_with_parent, sigint_blocked
from ecgscan_ray.recording.leads import LEADS

MASK_SUFFIX = ".mask.png"
_BATCH = 16


@dataclass(frozen=True)
class OutputOptions:
    """How pages are written.

    Attributes:
        folder: Output folder, created if absent.
        image_format: ``png``, or ``jpg`` at quality 92.
        truth: Write the ground truth as JSON next to each page.
        masks: Write ``<id>.mask.png`` next to each page: each pixel holds the number of the strip whose trace covers most
            of it, counted from 1 in the order of the JSON's strips; 0 = no trace covers half of it.
        views: Pages per recording.
        grid: Write the nodes of the 5 mm grid into the JSON, ``grid_px``.
    """

    folder: Path
    image_format: Literal["png", "jpg"] = "png"
    truth: bool = True
    masks: bool = False
    views: int = 1
    grid: bool = False

    def path(self, recording_id: str, view: int) -> Path:
        """Path of one page."""
        name = file_name(recording_id) + (f"_{view}" if self.views > 1 else "")
        return self.folder / f"{name}.{self.image_format}"


def write_pages(
    recordings: Iterable[Drawable],
    files: OutputOptions,
    page: PageConfig,
    seed: int,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Render each recording and write ``<id>.png`` and ``<id>.json``: the same files whatever the number of workers.

    Args:
        recordings: To draw.
        files: Output options.
        page: Settings.
        seed: Of the pages' keys.
        workers: Processes that draw; 1 = this process.
        progress: Called with the number of pages written so far.

    Returns:
        The paths of the pages.

    Raises:
        RecordingError: A recording cannot be drawn, or two share a file name.
        InputError: The folder cannot be written.
    """
    writer = _Writer(files, page, seed)
    written: list[Path] = []
    batches = _batches(_reject_duplicate_names((r, view) for r in recordings for view in range(files.views)), _BATCH)
    done = map(writer, batches) if workers == 1 else _map_in_processes(batches, workers, (files, page, seed))
    for names in done:
        written += names
        if progress is not None:
            progress(len(written))
    return written


class _Writer:
    """Draws and writes a batch of (recording, view)."""

    def __init__(self, files: OutputOptions, page: PageConfig, seed: int) -> None:
        self._files, self._seed, self._renderer = files, seed, Renderer(page)

    def __call__(self, batch: list[tuple[Drawable, int]]) -> list[Path]:
        keys = np.array([page_key(self._seed, 0, recording.id, view) for recording, view in batch], np.uint64)
        pages = self._renderer.render([recording for recording, _ in batch], keys)
        paths = [self._files.path(recording.id, view) for recording, view in batch]
        for path, (recording, _), image, truth in zip(paths, batch, pages.image, pages.truth, strict=True):
            _write(path, encode(image, self._files.image_format))
            if self._files.truth:
                text = json.dumps(truth_record(truth, recording, path.name, self._files.grid), allow_nan=False)
                _write(path.with_suffix(".json"), text.encode())
            if self._files.masks:
                cover = masks(truth, recording.signal_mv, recording.fs)
                strip = np.where(cover.max(0) > 127, cover.argmax(0) + 1, 0).astype(np.uint8)
                _write(path.with_suffix(MASK_SUFFIX), encode(strip[..., None]))
        return paths


_process_writer: list[_Writer] = []
"""The writer of a worker process."""


def _start(*settings: Any) -> None:
    end_with_parent()
    _process_writer[:] = [_Writer(*settings)]


def _work(batch: list[tuple[Drawable, int]]) -> list[Path]:
    return _process_writer[0](batch)


def _map_in_processes(batches: Iterable[list[Any]], workers: int, settings: tuple[Any, ...]) -> Iterator[list[Path]]:
    """Batches over processes, results in order; spawned, since OpenCV's threads do not survive a fork."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, settings) as pool:
        pending: deque[Future[list[Path]]] = deque()
        try:
            for batch in batches:
                with sigint_blocked():
                    pending.append(pool.submit(_work, batch))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _reject_duplicate_names(items: Iterable[tuple[Drawable, int]]) -> Iterator[tuple[Drawable, int]]:
    """The items; raises where two recordings share a file name."""
    seen: dict[tuple[str, int], str] = {}
    for recording, view in items:
        name = file_name(recording.id), view
        if name in seen:
            raise RecordingError(f"shares its file name with {seen[name]}", reason="duplicate", where=recording.id)
        seen[name] = recording.id
        yield recording, view


def file_name(recording_id: str) -> str:
    """The id as a file name: everything but letters, digits, dot and hyphen becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", recording_id).strip("._") or "recording"


def encode(image: np.ndarray, image_format: Literal["png", "jpg"] = "png") -> bytes:
    """uint8 (H, W, C) grey or RGB as the bytes of a file."""
    ordered = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[2] == 3 else image
    options = (cv2.IMWRITE_JPEG_QUALITY, 92) if image_format == "jpg" else (cv2.IMWRITE_PNG_COMPRESSION, 4)
    done, data = cv2.imencode(f".{image_format}", ordered, options)
    if not done:
        raise InputError(f"OpenCV cannot write {image_format}", fix="Use png or jpg.")
    return data.tobytes()


def truth_record(truth: PageTruth, recording: Drawable, image_name: str, grid: bool = False) -> dict[str, Any]:
    """The ground truth of one page as JSON values: how it was made, and what every strip shows and where.

    Pixels are index coordinates: the centre of the first pixel is (0, 0). ``trace_px`` holds one point per sample of the
    recording from ``first_sample`` on, null where the sample is missing. With ``grid``, ``grid_px[row][column]`` is where
    the printed grid's 5 mm lines cross, from the page's upper left corner; empty without a grid.
    """
    expanded, geometry = expand(truth, recording.signal_mv, recording.fs), truth.geometry
    layout: Layout = truth.layout_at_speed()
    strips = []
    for s, strip in enumerate(layout.strips):
        samples = expanded.samples[s]
        strips.append(
            {
                "lead": LEADS[strip.lead],
                "label": strip.label,
                "rhythm": strip.rhythm,
                "drawn": truth.offsets_mv[s] is not None,
                "start_s": strip.start_s,
                "stop_s": strip.stop_s,
                "gain_mm_per_mv": geometry.gain_of(strip),
                "first_sample": int(samples[0]) if len(samples) else None,
                "zero_line_mv": truth.offsets_mv[s],
                "band_px": _rounded(expanded.strip_corners[s]),
                "label_px": _rounded(expanded.label_corners[s]),
                "trace_px": [None if np.isnan(p).any() else _rounded(p) for p in expanded.points[s]],
            }
        )
    return {
        "image": image_name,
        "recording": recording.id,
        "fs": recording.fs,
        "paper_speed_mm_per_s": geometry.speed,
        "gain_mm_per_mv": geometry.gain,
        "chest_gain_mm_per_mv": geometry.gain * geometry.chest,
        "sequential": not layout.simultaneous,
        "page": json.loads(truth.to_json()),
        "strips": strips,
    } | ({"grid_px": _rounded(expanded.grid_nodes)} if grid else {})


def contact_sheet(recordings: Iterable[Drawable], page: PageConfig, seed: int = 0, columns: int = 4) -> np.ndarray:
    """uint8 (H, W, 3): one row of pages per preset of effects, at the settings' size."""
    examples = list(islice(recordings, columns))
    if not examples:
        raise InputError("there is no recording to draw", where="contact sheet")
    keys = np.array([page_key(seed, 0, recording.id, 0) for recording in examples], np.uint64)
    rows = []
    for preset in PRESETS:
        pages = Renderer(page.model_copy(update={"effects": preset, "channels": 3})).render(examples, keys)
        framed = np.pad(pages.image, ((0, 0), (3, 3), (3, 3), (0, 0)), constant_values=128)
        rows.append(np.concatenate(list(framed), axis=1))
    return np.concatenate(rows)


def write_sheet(recordings: Iterable[Drawable], folder: Path, page: PageConfig, seed: int) -> Path:
    """Write the contact sheet as ``sheet.png``."""
    path = folder / "sheet.png"
    _write(path, encode(contact_sheet(recordings, page, seed)))
    return path


def _rounded(points: np.ndarray) -> Any:
    return np.round(points.astype(np.float64), 2).tolist()


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _write(path: Path, data: bytes) -> None:
    """Whole or absent: written to a temporary file and moved."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=path, fix="Choose another folder.") from None
