"""The interface of a source of recordings: it lists small items, and reads one of them anywhere in a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ecgscan_ray.recording.recording import Recording


@dataclass(frozen=True)
class Item:
    """One recording to read: a few hundred bytes.

    Attributes:
        id: Unique within the source; printable, whatever the file's name.
        path: Of the WFDB record, without ending.
        patient_id: ``None`` = unknown.
        fold: Of the source, where it has folds.
        split: ``train``, ``validation`` or ``test``, where the source states it.
        details: Other columns of the source's table, as text.
    """

    id: str
    path: str
    patient_id: str | None = None
    fold: int | None = None
    split: str | None = None
    details: dict[str, str] = field(default_factory=dict)


class Source(Protocol):
    """One kind of archive. To add another, add a small file to this folder and a line to ``SOURCES``."""

    name: str
    licence: str | None

    def list_records(self, folder: str | Path) -> list[Item]:
        """All recordings of the archive. Unused parts of its table are logged in one line.

        Raises:
            InputError: The folder is not such an archive, or its table is malformed.
        """
        ...

    def read(self, item: Item) -> Recording:
        """One recording.

        Raises:
            RecordingError: It cannot be read; others may be.
        """
        ...
