"""What a run writes of itself while it trains: metric lines, TensorBoard, and one small file on progress.

Buckets cannot append, so lines are kept and written as numbered parts with each checkpoint; ``report/metrics.py`` joins
the parts and drops what a resumed run did again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from tensorboardX import SummaryWriter
from torch import Tensor

from ecgscan_ray.distributed import global_sum, world_size
from ecgscan_ray.filesystem import exists, join, write_bytes_atomic


class Meter:
    """Running sums on the device; one transfer, and with several ranks one reduction, when read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._finite: list[Tensor] = []

    def add(self, values: dict[str, Tensor]) -> None:
        """One step's values: the same names on every rank."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._finite.append(torch.stack([value.detach() for value in values.values()]).isfinite().all())

    def read(self) -> tuple[dict[str, float], int]:
        """Means over steps and ranks since the last call; empties the meter.

        Returns:
            The means, and how many steps before the last one the first value that is not finite came; 0 without one.
        """
        if not self._finite:
            return {}, 0
        count = len(self._finite)
        finite = torch.stack(self._finite).float()
        values = _mean_over_ranks(torch.cat([torch.stack(list(self._sums.values())) / count, finite])).tolist()
        means, good = dict(zip(self._sums, values, strict=False)), values[-count:]
        self._sums, self._finite = {}, []
        return means, next((count - 1 - step for step, share in enumerate(good) if share < 1), 0)


def _mean_over_ranks(values: Tensor) -> Tensor:
    return global_sum(values) / world_size()


def mean_over_ranks(values: Mapping[str, Tensor | float], device: torch.device) -> dict[str, float]:
    """Each value's mean over the ranks, all of which give the same names."""
    if not values:
        return {}
    stacked = torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device) for value in values.values()])
    return dict(zip(values, _mean_over_ranks(stacked).tolist(), strict=True))


class RunLog:
    """Metric lines of one worker group's life, written to the run folder. Only rank 0 has one.

    Args:
        out: URI of the run folder.
        local: Folder on this machine for TensorBoard's files.
    """

    def __init__(self, out: str, local: Path) -> None:
        self._out = out
        self._lines: list[str] = []
        self._part = 0
        while exists(join(out, "metrics", f"part-{self._part:05d}.jsonl")):
            self._part += 1
        self._local = local / "tensorboard"
        self._board = SummaryWriter(str(self._local), flush_secs=3600)
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
        for path in self._local.iterdir():
            write_bytes_atomic(join(self._out, "tensorboard", path.name), path.read_bytes())

    def close(self) -> None:
        self.flush()
        self._board.close()
