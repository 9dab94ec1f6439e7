"""How many cores this process may use: by its affinity and its container's quota, not by the machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: affinity and cgroup quota (version 1 and 2), rounded down, at least 1.

    Args:
        root: Where ``proc`` and ``sys`` lie.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root))]))


def set_torch_threads(threads: int | None = None) -> None:
    """Give torch as many threads as usable cores: by default it counts the machine's, which a container's quota throttles.

    Args:
        threads: Instead of that number.
    """
    import torch

    torch.set_num_threads(threads or usable_cores())


def limit_threads(threads: int) -> None:
    """Give torch, BLAS and OpenCV so many threads: each would take as many as there are cores, in every process.

    Args:
        threads: Of each; libraries that are loaded later are not limited.
    """
    import cv2
    from threadpoolctl import threadpool_limits

    set_torch_threads(threads)
    threadpool_limits(threads)
    cv2.setNumThreads(threads)


def _quotas(root: Path) -> Iterator[float]:
    """Cores that each group above this process grants, where it sets a limit."""
    for line in _words(root / "proc/self/cgroup", "\n"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for folder in _upwards(root / "sys/fs/cgroup", path):
                yield from _share(*_words(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):
            for folder in _upwards(root / "sys/fs/cgroup/cpu", path):
                yield from _share(*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us"))


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it; in a container its own group is often mounted as the top."""
    parts = Path(path).parts[1:]
    return (mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _share(quota: str = "max", period: str = "", *_: str) -> Iterator[float]:
    """Quota by period; ``max`` and -1 mean without limit."""
    if quota.isdecimal() and period.isdecimal() and int(period):
        yield int(quota) / int(period)


def _words(file: Path, separator: str | None = None) -> list[str]:
    try:
        return [word for word in file.read_text().split(separator) if word]
    except OSError:
        return []
