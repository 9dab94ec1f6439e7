"""Metrics of a run as gauges of Ray: in its dashboard, and for Prometheus at the metrics port of each node."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from ray.util.metrics import Gauge

_gauges: dict[str, Gauge] = {}
"""By name: one process may train a run several times."""


class RayMetrics:
    """A sink of ``RunLog``: ``train/loss`` is the gauge ``ray_ecgscan_train_loss``, with the name of the run as tag ``run``.

    Args:
        run: Name of the run.
    """

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in {"step": float(step), **values}.items():
            full = "ecgscan_" + re.sub(r"\W", "_", name)
            if full not in _gauges:
                _gauges[full] = Gauge(full, f"{name} of a run of ecgscan_ray", tag_keys=("run",))
            _gauges[full].set(value, self._tags)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Ray has no pictures."""

    def flush(self) -> None:
        """Ray sends by itself."""

    def close(self) -> None:
        """Ray forgets a process's gauges when it ends."""
