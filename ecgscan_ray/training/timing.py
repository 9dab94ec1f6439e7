"""Where the time of a step goes, and how much of the device's arithmetic is used."""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

PHASES = ("data_wait", "host_to_device", "forward", "loss", "backward", "communication", "optimizer", "other")
"""Of a step, in their order: together they are all of its time. ``communication`` is what other work does not hide; of a
model that is shared out it is part of ``forward`` and ``backward``. ``other`` is metrics, validation, checkpoints."""

PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
}
"""Dense bf16 operations a second that makers state, by a part of the device's name; longer names before their beginnings."""

Mark = float | torch.cuda.Event


class PhaseTimer:
    """Seconds of each phase: on a GPU those of the device's own work, by events that are read when they have passed.

    Args:
        device: That computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Mark]] = []
        self._steps = self._rows = 0
        self.start("other")

    def start(self, phase: str) -> None:
        """What follows is of this phase."""
        self._marks.append((phase, self._now()))

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """The block is of this phase, what follows of the one before."""
        before = self._marks[-1][0]
        self.start(phase)
        yield
        self.start(before)

    def add_step(self, rows: int) -> None:
        """A step of so many rows, over all workers, was made."""
        self._steps, self._rows = self._steps + 1, self._rows + rows

    def read(self) -> dict[str, float]:
        """Figures since the last call: ``<phase>_s`` a step, ``images_per_s``, ``step_s``, ``seconds``, ``data_wait_share``."""
        self.start(self._marks[-1][0])
        last = self._marks[-1][1]
        if isinstance(last, torch.cuda.Event):
            last.synchronize()
        seconds: Counter[str] = Counter()
        for (phase, begin), (_, end) in pairwise(self._marks):
            seconds[phase] += _between(begin, end)  # type: ignore[assignment]  # a Counter adds floats too
        passed, steps, rows = float(sum(seconds.values())), max(self._steps, 1), self._rows
        self._marks, self._steps, self._rows = self._marks[-1:], 0, 0
        return {
            "images_per_s": rows / max(passed, 1e-9),
            "data_wait_share": seconds["data_wait"] / max(passed, 1e-9),
            "step_s": passed / steps,
            "seconds": passed,
            **{f"{phase}_s": seconds[phase] / steps for phase in PHASES},
        }

    def _now(self) -> Mark:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(begin: Mark, end: Mark) -> float:
    if isinstance(begin, torch.cuda.Event) and isinstance(end, torch.cuda.Event):
        return begin.elapsed_time(end) / 1000
    assert isinstance(begin, float) and isinstance(end, float)
    return end - begin


def exposed_gradient_exchange(parallel: nn.Module) -> float:
    """Seconds a step in which DDP's exchange of gradients was not hidden behind the backward pass; 0 without DDP."""
    if not isinstance(parallel, DistributedDataParallel):
        return 0.0
    figures = parallel._get_ddp_logging_data()
    exchange, hidden = (int(figures.get(f"avg_backward_{name}_time", 0)) for name in ("comm", "compute_comm_overlap"))
    return max(exchange - hidden, 0) * 1e-9


def peak_flops(device: torch.device) -> float | None:
    """Operations a second that the maker states for a GPU; none if it is not known, or a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)


def peak_memory_mb(device: torch.device) -> float:
    """Most memory that this process has held so far: the GPU's, or (on a CPU) resident in main memory, in 10^6 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
