"""Values that a run logs: summed on the device, averaged over steps and ranks, and read with one transfer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ecgscan_ray.distributed import global_sum, world_size
from ecgscan_ray.training.task import Tensors


class Meter:
    """Running sums on the device."""

    def __init__(self) -> None:
        self._sums: Tensors = {}
        self._steps = 0

    def add(self, values: Tensors) -> None:
        """One step's values: the same names on every rank."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._steps += 1

    def means(self) -> Tensors:
        """This rank's means over the steps since the last call, still on the device; empties the meter."""
        means = {name: total / self._steps for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means


def read_values(means: Mapping[str, Tensor | float], same: Tensors, device: torch.device) -> dict[str, float]:
    """Values on the host: one reduction over the ranks and one transfer.

    Args:
        means: Values of this rank, whose mean over the ranks is read; the same names on every rank.
        same: Values that are the same on every rank already; read as they are.
        device: Where collectives take place.
    """
    local = [torch.as_tensor(value, dtype=torch.float64, device=device) for value in means.values()]
    reduced = global_sum(torch.stack(local)) / world_size() if local else torch.empty(0, device=device)
    exact = [value.detach().double().reshape(1) for value in same.values()]
    return dict(zip([*means, *same], torch.cat([reduced.double(), *exact]).tolist(), strict=True))


class FiniteCheck:
    """Whether the gradient of each step was finite, read one step later.

    The norm is the same on every rank (gradients are averaged, and ``GradCache`` makes them NaN where any loss is not
    finite), so all ranks stop at the same step. Its flag is copied to the host without waiting. Before the next optimiser
    step the copy is read: by then the device has passed it, or is about to with the next step's work already queued, so the
    device never idles for it. The step that was not finite is the last one made, and nothing was saved since.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._pending: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def add(self, grad_norm: Tensor) -> None:
        """Start the copy of one step's flag."""
        flag = grad_norm.detach().isfinite()
        if self._cuda:
            host = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._pending = host.copy_(flag, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._pending = flag

    def is_finite(self) -> bool:
        """Whether the step added last was finite; true before the first one."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._pending is None or bool(self._pending)
