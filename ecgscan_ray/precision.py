"""Which arithmetic to use: decided by a probe, because hardware differs from day to day.

On CPUs without bf16 instructions a bf16 product runs hundreds of times slower than an fp32 one; a device type alone says
nothing.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def matmul_seconds(device: torch.device, size: int) -> dict[torch.dtype, float]:
    """The shortest of several products of each type, in turn: a machine that is busy for a moment does not decide.

    Where the first in bf16 takes many times as long, there is no other.
    """
    best: dict[torch.dtype, float] = {}
    for _ in range(10):
        for dtype in (torch.float32, torch.bfloat16):
            a = torch.ones(size, size, dtype=dtype, device=device)
            start = time.perf_counter()
            (a @ a).sum().item()
            best[dtype] = min(best.get(dtype, float("inf")), time.perf_counter() - start)
        if best[torch.bfloat16] > 20 * best[torch.float32]:
            break
    return best


def choose_precision(setting: str, device: torch.device | str, before: Precision | None = None) -> Precision:
    """``fp32`` or ``bf16``.

    Args:
        setting: ``fp32``, ``bf16``, or ``auto``: bf16 where a product of two matrices is clearly faster in it.
        device: Where the model runs.
        before: What a run that goes on was trained in: ``auto`` keeps it, unless that is bf16 and far slower here.
    """
    if setting == "fp32" or setting == "bf16":
        return setting  # type: ignore[return-value]
    if before == "fp32":
        return before
    device = torch.device(device)
    size = 1024 if device.type == "cuda" else 384  # small on a CPU: the slow case takes half a second, not minutes
    slower = 2.0 if before == "bf16" else 0.8
    try:
        seconds = matmul_seconds(device, size)
        return "bf16" if seconds[torch.bfloat16] < slower * seconds[torch.float32] else "fp32"
    except RuntimeError:  # a device that has no bf16 at all
        return "fp32"


def fast_cpu_autocast() -> torch.autocast:
    """Arithmetic of networks that read pages on a CPU: bf16 where the probe, run once a process, finds it faster."""
    return torch.autocast("cpu", torch.bfloat16, enabled=_cpu_precision() == "bf16")


@lru_cache(maxsize=1)
def _cpu_precision() -> Precision:
    return choose_precision("auto", "cpu")
