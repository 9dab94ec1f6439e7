"""What a source of recordings is: it lists small work items, and reads one of them anywhere in a cluster."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ecgscan_ray.errors import InputError
from ecgscan_ray.recording.recording import Recording


@dataclass(frozen=True)
class Item:
    """One recording to read: a few hundred bytes.

    Attributes:
        id: Unique within the source.
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
        """Everything there is to read.

        Raises:
            InputError: The folder has no recordings of this shape.
        """
        ...

    def read(self, item: Item) -> Recording:
        """One recording.

        Raises:
            RecordingError: It cannot be read; the others can.
        """
        ...


def read_csv(path: Path, required: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file as text, with column names in lower case.

    Raises:
        InputError: It cannot be read, or a required column is missing.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [
                {key.strip().lower(): value or "" for key, value in row.items() if key is not None}
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"not readable as CSV in UTF-8 ({error})", where=path) from None
    if not rows:
        raise InputError("the table has no rows", where=path)
    missing = [name for name in required if name not in rows[0]]
    if missing:
        raise InputError(f"no column {', '.join(missing)}", where=path, fix=f"It has {', '.join(rows[0])}.")
    return rows


def integer(text: str | None) -> int | None:
    """``"3"`` and ``"3.0"`` -> 3; empty -> ``None``."""
    try:
        return int(float(text)) if text else None
    except ValueError:
        return None
