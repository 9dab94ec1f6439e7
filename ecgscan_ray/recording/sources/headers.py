"""Archives whose records say everything in their headers: age, sex and SNOMED CT codes of what was found."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ecgscan_ray.errors import InputError, printable
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources.records import read_record
from ecgscan_ray.recording.sources.snomed import CodeTable, code_names
from ecgscan_ray.recording.sources.source import Item


class HeaderArchive:
    """Reads every ``.hea`` with its ``.mat`` below a folder; labels are the names of the header's codes.

    The headers name no patient: recordings are split one by one, and ``prepare`` says so.

    Args:
        rate: Unused; records have rates of their own.
    """

    name: str
    licence: str | None = "CC-BY-4.0"
    tables: tuple[CodeTable, ...]
    """Where the archive names its codes."""

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate
        self._names: tuple[str, dict[str, str]] | None = None

    def details(self, path: str) -> dict[str, str]:
        """What a record's path says."""
        return {}

    def list_records(self, archive: ArchiveFiles) -> Iterator[Item]:
        """All records found; see ``Source``. No header is opened."""
        self._code_names(archive)  # a table that is not understood is refused before anything is read
        empty = True
        for file in archive.names((".hea",)):
            path, empty = file.removesuffix(".hea"), False
            name = path.rpartition("/")[2]
            yield Item(printable(name), path, details=self.details(path), files=(file, f"{path}.mat"))
        if empty:
            raise InputError(f"no recordings of {self.name}: no .hea file here", where=archive.root)

    def read(self, item: Item, archive: ArchiveFiles) -> Recording:
        """One recording; see ``Source``."""
        recording, names = read_record(item, archive, self.name), self._code_names(archive)
        labels = {names.get(code, code): likelihood for code, likelihood in recording.labels.items()}
        return dataclasses.replace(recording, labels=labels)

    def _code_names(self, archive: ArchiveFiles) -> dict[str, str]:
        """Read once in each process."""
        if self._names is None or self._names[0] != archive.root:
            self._names = archive.root, code_names(archive, self.tables)
        return self._names[1]
