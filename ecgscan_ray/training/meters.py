"""What a run writes of itself while it trains: metric lines, TensorBoard, and one small file on progress.

Buckets cannot append, so lines are kept and written as numbered parts with each checkpoint; ``report/metrics.py`` joins
the parts and drops what a resumed run did again.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from tensorboardX import SummaryWriter
from torch import Tensor

from ecgscan_ray.store.filesystem import exists, join, write_bytes_atomic


class Meter:
    """Running sums on the device; one transfer when read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._count += 1

    def read(self) -> dict[str, float]:
        """Means since the last call; empties the meter."""
        if not self._count:
            return {}
        values = (torch.stack(list(self._sums.values())) / self._count).tolist()
        means = dict(zip(self._sums, values, strict=True))
        self._sums, self._count = {}, 0
        return means


class RunLog:
    """Metric lines of one worker group's life, written to the run folder. Only rank 0 has one.

    Args:
        out: URI of the run folder.
    """

    def __init__(self, out: str) -> None:
        self._out = out
        self._lines: list[str] = []
        self._part = 0
        while exists(join(out, "metrics", f"part-{self._part:05d}.jsonl")):
            self._part += 1
        self._local = tempfile.TemporaryDirectory(prefix="ecgscan-tensorboard-")
        self._board = SummaryWriter(self._local.name, flush_secs=3600)
        self._last_progress = 0.0

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Keep a line of metrics until the next ``flush``."""
        self._lines.append(json.dumps({"step": step, "kind": kind, "time": time.time(), **values}))
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name.removeprefix(kind + '.')}", value, step)

    def progress(self, values: Mapping[str, float | str]) -> None:
        """Say where the run stands in ``progress.json``, at most once a second."""
        if time.monotonic() - self._last_progress > 1:
            self._last_progress = time.monotonic()
            write_bytes_atomic(join(self._out, "progress.json"), json.dumps({"time": time.time(), **values}).encode())

    def stalled(self, text: str) -> None:
        """Say in ``progress.json`` why nothing moves."""
        write_bytes_atomic(
            join(self._out, "progress.json"), json.dumps({"time": time.time(), "stalled": text}).encode()
        )

    def flush(self) -> None:
        """Write what was kept as the next part, and the TensorBoard file."""
        if not self._lines:
            return
        write_bytes_atomic(
            join(self._out, "metrics", f"part-{self._part:05d}.jsonl"), "\n".join([*self._lines, ""]).encode()
        )
        self._part, self._lines = self._part + 1, []
        self._board.flush()
        for path in Path(self._local.name).iterdir():
            write_bytes_atomic(join(self._out, "tensorboard", path.name), path.read_bytes())

    def close(self) -> None:
        self.flush()
        self._board.close()
        self._local.cleanup()
