"""What sources of WFDB records share: paths in tables, and reading one record wherever the archive lies."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources.source import Item
from ecgscan_ray.recording.sources.table import Row
from ecgscan_ray.recording.wfdb import read_wfdb


def record_path(row: Row, column: str) -> str:
    """The path that a row gives for its record, from the archive's root.

    Raises:
        InputError: There is none, or it is outside the archive.
    """
    text = row.values[column].strip()
    path = os.path.normpath(text.replace("\\", "/"))
    if path.startswith("/") or path.split("/")[0] in ("..", "."):
        row.refuse(f"{column} '{text[:100]}' is outside the folder", "Paths start at the folder.")
    return path


def read_record(item: Item, archive: ArchiveFiles, source: str) -> Recording:
    """The WFDB record of an item; errors as ``Source.read``."""
    below, name = os.path.split(item.path)
    with archive.local(item.files, below) as folder:
        return read_wfdb(folder / name, id=item.id, source=source)


def require_files(archive: ArchiveFiles, kind: str, names: Iterable[str]) -> None:
    """Refuse an archive that lacks one of the files and folders that make it one of this kind.

    Raises:
        InputError: With the first that is absent.
    """
    names = tuple(names)
    for name in names:
        if not archive.exists(name):
            fix = f"It should be the folder with {' and '.join(names)}."
            raise InputError(f"no {kind}: no {name} here", where=archive.root, fix=fix)
