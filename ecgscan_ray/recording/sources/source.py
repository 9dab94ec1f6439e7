"""What a source of recordings is: it lists small work items, and reads one of them anywhere in a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ecgscan_ray.recording.recording import Recording


@dataclass(frozen=True)
class Item:
    """One recording to read: a few hundred bytes.

    Attributes:
        id: Unique within the source; printable, whatever the file is called.
        path: Of the WFDB record, without ending.
        patient_id: ``None`` = unknown.
        fold: Of the source, where it has folds.
        split: ``train``, ``validation`` or ``test``, where the source says so itself.
        details: What else the source's table says, as text.
    """

    id: str
    path: str
    patient_id: str | None = None
    fold: int | None = None
    split: str | None = None
    details: dict[str, str] = field(default_factory=dict)


class Source(Protocol):
    """An archive of one shape. Another archive is another small file in this folder and a line in ``SOURCES``."""

    name: str
    licence: str | None

    def list_records(self, folder: str | Path) -> list[Item]:
        """Everything there is to read. What was not understood or not used is logged in one line.

        Raises:
            InputError: The folder has no recordings of this shape, or its table is not understood as a whole.
        """
        ...

    def read(self, item: Item) -> Recording:
        """One recording.

        Raises:
            RecordingError: It cannot be read; the others can.
        """
        ...
