"""The metrics of a run: written as numbered parts, joined when they are read, and handed to the sinks.

Buckets cannot append, so lines are kept and written as a new part with each checkpoint. Reading joins the parts and drops
the steps that a resumed run repeated.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ecgscan_ray.config import Config
from ecgscan_ray.errors import EcgscanError
from ecgscan_ray.filesystem import exists, join, list_files, read_bytes, write_bytes_atomic
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.names import METRICS
from ecgscan_ray.runs.progress import write_progress
from ecgscan_ray.runs.sinks import Sink, open_sinks

logger = logging.getLogger(__name__)

PROGRESS_EVERY_S = 1.0

Line = dict[str, Any]


def _part(number: int) -> str:
    return f"part-{number:05d}.jsonl"


def _validation_part(step: int) -> str:
    return f"validation-{step:09d}.jsonl"


def write_validation(folder: RunFolder, step: int, values: Mapping[str, float | str]) -> None:
    """Write what was measured of a checkpoint beside training, or the ``error`` that came instead, as a part of its own."""
    line = json.dumps({"step": step, "kind": "validation", "time": time.time(), **values})
    write_bytes_atomic(join(folder.uri, METRICS, _validation_part(step)), f"{line}\n".encode())


def _send_image(sink: Sink, step: int, name: str, image: np.ndarray) -> None:
    sink.image(step, name, image)


class RunLog:
    """Writes the metrics of one worker group. Only rank 0 has one.

    Args:
        config: Settings of the run; they name the sinks.
        folder: Of the run.
        local: Folder on this machine for files on their way.
        more_sinks: Name -> sink, beside those that the settings name.
    """

    def __init__(
        self, config: Config, folder: RunFolder, local: Path, more_sinks: Mapping[str, Sink] | None = None
    ) -> None:
        self._folder = folder
        self._lines: list[str] = []
        self._part = 0
        while exists(join(folder.uri, METRICS, _part(self._part))):
            self._part += 1
        self._sinks = {**open_sinks(config, folder, local), **(more_sinks or {})}
        self._step, self._last_progress = 0, 0.0
        self._showing: threading.Thread | None = None

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Keep a line of metrics until the next ``flush``, and hand it to the sinks."""
        self._step = step
        self._lines.append(json.dumps({"step": step, "kind": kind, "time": time.time(), **values}))
        named = {f"{kind}/{name.removeprefix(kind + '.')}": float(value) for name, value in values.items()}
        self._each_sink(lambda sink: sink.scalars(step, named))

    def images(self, images: Mapping[str, np.ndarray]) -> None:
        """Hand pictures, uint8 (H, W, 3), of the step written last to the sinks."""
        for name, image in images.items():
            self._each_sink(partial(_send_image, step=self._step, name=name, image=image))

    def progress(self, values: Mapping[str, float | str]) -> None:
        """Write the figures of the progress line, at most once a second."""
        if time.monotonic() - self._last_progress > PROGRESS_EVERY_S:
            self._last_progress = time.monotonic()
            self._show(values)

    def stalled(self, reason: str) -> None:
        """Write to the progress file why no step is made."""
        self._show({"stalled": reason})

    def _show(self, values: Mapping[str, float | str]) -> None:
        """In a thread, and not while the figures before are on their way: no step waits for storage."""
        if self._showing is None or not self._showing.is_alive():
            self._showing = threading.Thread(target=self._write_progress, args=(values,), daemon=True, name="progress")
            self._showing.start()

    def _write_progress(self, values: Mapping[str, float | str]) -> None:
        with suppress(EcgscanError):  # where storage fails, checkpoints do too, and say so
            write_progress(self._folder, values)

    def flush(self) -> None:
        """Write the kept lines as the next part, and flush the sinks; another thread may write lines meanwhile.

        Raises:
            StoreError: It cannot be written; the lines are kept.
        """
        count = len(self._lines)
        if not count:
            return
        text = "\n".join([*self._lines[:count], ""])
        write_bytes_atomic(join(self._folder.uri, METRICS, _part(self._part)), text.encode())
        del self._lines[:count]
        self._part += 1
        self._each_sink(lambda sink: sink.flush())

    def close(self) -> None:
        """Write what is left, and close the sinks."""
        self.flush()
        if self._showing:
            self._showing.join()
        self._each_sink(lambda sink: sink.close())

    def _each_sink(self, use: Callable[[Sink], None]) -> None:
        """A tracker that fails is left out from then on: it does not end the training."""
        for name, sink in list(self._sinks.items()):
            try:
                use(sink)
            except EcgscanError:  # storage of the run itself
                raise
            except Exception as error:
                self._sinks.pop(name, None)
                reason = (str(error).splitlines() or [""])[0][:160]
                logger.warning(
                    "the metrics sink '%s' failed and is left out (%s: %s)", name, type(error).__name__, reason
                )


def read_metrics(run_uri: str) -> list[Line]:
    """All metric lines of a run in the order of their steps.

    A run that goes on from step s writes the steps after s again: the later line of a kind wins, and every earlier line
    of that kind at the same or a later step is dropped. Lines of ``write_validation`` come between them.

    Args:
        run_uri: The run folder; empty list where it has no metrics.
    """
    folder = join(run_uri, METRICS)
    names = sorted(name for name in list_files(folder) if name.endswith(".jsonl"))
    parts, beside = (
        join_parts([read_bytes(join(folder, name)).decode() for name in names if name.startswith(prefix)])
        for prefix in ("part-", "validation-")
    )
    between = {line["step"] for line in parts if line["kind"] == "validation"}
    lines = [*parts, *(line for line in beside if line["step"] not in between)]
    return sorted(lines, key=lambda line: int(line["step"]))


def join_parts(parts: Sequence[str]) -> list[Line]:
    """Lines of the parts' texts, given in the order they were written (see ``read_metrics``)."""
    by_kind: dict[str, list[Line]] = {}
    broken = 0
    for text in parts:
        for raw in text.splitlines():
            try:
                line = json.loads(raw)
                step, kind = int(line["step"]), str(line["kind"])
            except (ValueError, KeyError, TypeError):
                broken += 1
                continue
            lines = by_kind.setdefault(kind, [])
            while lines and lines[-1]["step"] >= step:
                lines.pop()
            lines.append(line)
    if broken:
        logger.warning("%d metric lines could not be read and were left out", broken)
    return sorted((line for lines in by_kind.values() for line in lines), key=lambda line: int(line["step"]))


def series(lines: Sequence[Line], kind: str, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric."""
    points = [(int(line["step"]), float(line[name])) for line in lines if line["kind"] == kind and name in line]
    return [step for step, _ in points], [value for _, value in points]


def training_figures(lines: Sequence[Line]) -> dict[str, float]:
    """Figures of the whole run.

    Returns:
        ``data_wait_share`` and ``images_per_s`` weighted by the time each line covers, ``training.seconds`` (time in
        the step loop, checkpoints included), ``training.steps``, and the last and best ``validation.score``; those
        that no line has are left out.
    """
    train = [line for line in lines if line["kind"] == "train"]
    figures: dict[str, float] = {}
    timed = [line for line in train if line.get("seconds", 0) > 0]
    if timed:
        seconds = sum(line["seconds"] for line in timed)
        figures["training.seconds"] = seconds
        for name in ("data_wait_share", "images_per_s"):
            if all(name in line for line in timed):
                figures[name] = sum(line[name] * line["seconds"] for line in timed) / seconds
    if train:
        figures["training.steps"] = float(train[-1]["step"])
    _, scores = series(lines, "validation", "validation.score")
    if scores:
        figures |= {"validation.score.last": scores[-1], "validation.score.best": max(scores)}
    return figures
