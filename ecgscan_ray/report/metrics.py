"""Read back the metric lines of a run: numbered parts joined, steps that a resumed run did again dropped."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from ecgscan_ray.filesystem import join, list_files, read_bytes

logger = logging.getLogger(__name__)

Line = dict[str, Any]


def read_metrics(run_uri: str) -> list[Line]:
    """All metric lines of a run in the order of their steps.

    A run that goes on from step s writes the steps after s again: the later line of a kind wins, and every earlier line
    of that kind at the same or a later step is dropped.

    Args:
        run_uri: The run folder; empty list where it has no metrics.
    """
    folder = join(run_uri, "metrics")
    parts = [name for name in list_files(folder) if name.startswith("part-") and name.endswith(".jsonl")]
    return join_parts([read_bytes(join(folder, name)).decode() for name in sorted(parts)])


def join_parts(parts: Sequence[str]) -> list[Line]:
    """Lines of the parts' texts, given in the order they were written (see ``read_metrics``)."""
    kept: dict[str, list[Line]] = {}
    broken = 0
    for text in parts:
        for raw in text.splitlines():
            try:
                line = json.loads(raw)
                step, kind = int(line["step"]), str(line["kind"])
            except (ValueError, KeyError, TypeError):
                broken += 1
                continue
            lines = kept.setdefault(kind, [])
            while lines and lines[-1]["step"] >= step:
                lines.pop()
            lines.append(line)
    if broken:
        logger.warning("%d metric lines could not be read and were left out", broken)
    return sorted((line for lines in kept.values() for line in lines), key=lambda line: int(line["step"]))


def series(lines: Sequence[Line], kind: str, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric."""
    found = [(int(line["step"]), float(line[name])) for line in lines if line["kind"] == kind and name in line]
    return [step for step, _ in found], [value for _, value in found]


def training_figures(lines: Sequence[Line]) -> dict[str, float]:
    """What the metric lines say about the whole run.

    Returns:
        ``data_wait_share`` and ``images_per_s`` weighted by the time each line covers, ``training.seconds`` (time in
        the step loop, checkpoints included), ``training.steps``, and the last and best ``validation.score``; without
        those that no line tells.
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
