"""The interface of a source of recordings: it lists small items, and reads one of them anywhere in a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.recording import Recording


@dataclass(frozen=True)
class Item:
    """One recording to read: some hundred bytes.

    Attributes:
        id: Unique within the source; printable, whatever the file's name.
        path: Of the recording from the archive's root; of a WFDB record, without ending.
        patient_id: ``None`` = unknown.
        fold: Of the source, where it has folds.
        split: ``train``, ``validation`` or ``test``, where the source states it.
        details: Other columns of the source's table, as text.
        files: From the archive's root: what ``read`` needs by name.
        header: What the first of these files holds, a character for each byte, where listing asked a server for it.
    """

    id: str
    path: str
    patient_id: str | None = None
    fold: int | None = None
    split: str | None = None
    details: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    header: str = ""


class Source(Protocol):
    """One kind of archive. To add another, add a small file to this folder and a line to ``SOURCES``."""

    name: str
    licence: str | None

    def list_records(self, archive: ArchiveFiles) -> Iterator[Item]:
        """All recordings of the archive, in an order that is the same each time; a large table is not held as a whole.

        Unused parts of its table are logged in one line.

        Raises:
            InputError: It is no such archive, or its table is malformed.
            StoreError: Its storage cannot be read.
        """
        ...

    def read(self, item: Item, archive: ArchiveFiles) -> Recording:
        """One recording; called by several threads at a time.

        Raises:
            RecordingError: It cannot be read; others may be.
            StoreError: The archive's storage cannot be read.
        """
        ...
