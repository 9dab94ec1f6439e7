"""Reporters of the step loop, for tests."""

from __future__ import annotations

import tempfile
from pathlib import Path


class Discarding:
    """Starts from nothing and keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def last_checkpoint(self) -> None:
        return None

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        pass

    def should_stop(self, step: int, metrics: dict[str, float]) -> bool:
        return False

    def close(self) -> None:
        """All is stored already."""
