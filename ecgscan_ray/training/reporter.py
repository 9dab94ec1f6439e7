"""What the step loop needs of whoever runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import nn

Validate = Callable[[nn.Module], dict[str, float]]
"""Model in evaluation mode -> ``validation.*``."""


class Reporter(Protocol):
    """The loop's link to whoever runs it; every rank calls ``report`` the same number of times."""

    def last_checkpoint(self) -> Path | None:
        """Local folder of the checkpoint to resume from."""

    def new_folder(self) -> Path:
        """An empty local folder for a checkpoint."""

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Hand over metrics and (rank 0) a checkpoint folder, which the receiver may move; it may be stored later."""

    def should_stop(self, step: int, metrics: dict[str, float]) -> bool:
        """Called at each report; the same answer on every rank."""

    def close(self) -> None:
        """Called once, at the end: what was reported is stored when it returns."""
