"""Work for a pool of processes; a negative number ends its process."""

from __future__ import annotations

import os
from collections.abc import Callable


def load(factor: int) -> int:
    return factor


def multiply(task: int, factor: int, stopped: Callable[[], bool]) -> tuple[int, int]:
    """The product, and the process."""
    if task < 0:
        os._exit(9)
    return task * factor, os.getpid()
