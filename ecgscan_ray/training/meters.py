"""Means of what a run measures, over steps and over ranks, with one transfer from the device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ecgscan_ray.objective.gather import global_sum, world_size


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
