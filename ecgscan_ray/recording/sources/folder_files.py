"""Which files of a folder are recordings: WFDB records, EDF, DICOM, and arrays where the user states what they hold."""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ecgscan_ray.errors import printable
from ecgscan_ray.filesystem.archive import THREADS, ArchiveFiles
from ecgscan_ray.filesystem.threads import in_order
from ecgscan_ray.recording.formats.dicom import patient_of_dicom
from ecgscan_ray.recording.formats.edf import patient_of_edf
from ecgscan_ray.recording.header import MAX_SIGNALS
from ecgscan_ray.recording.values import identifier

logger = logging.getLogger(__name__)

HEADER = ".hea"
DESCRIBED = (".dcm", ".edf", ".bdf")
"""Files that say what they hold."""
ARRAYS = (".npy", ".npz", ".h5", ".hdf5", ".csv")
"""Files that do not."""
ENDINGS = (HEADER, *DESCRIBED, *ARRAYS)
"""In the order in which they are preferred where one recording has several."""

_HEADER_BYTES = 2**20
_EDF_HEAD_BYTES = 256
_DICOM_HEAD_BYTES = 2**18
_PATIENT = re.compile(r"(?im)^#[ \t]*patient id[ \t]*:[ \t]*(\S[^\r\n]*)")
_MASTER = re.compile(r"\S+/(\d{1,6})")


@dataclass(frozen=True)
class Found:
    """The files of one recording.

    Attributes:
        path: From the archive's root; of a WFDB record, without ending.
        files: From the archive's root; the first one's ending says what it is.
        patient_id: Where a WFDB header names one.
    """

    path: str
    files: tuple[str, ...]
    patient_id: str | None = None


def candidates(archive: ArchiveFiles) -> Iterator[str]:
    """All files that may be recordings; errors as ``ArchiveFiles.names``."""
    return archive.names(tuple(form for ending in ENDINGS for form in (ending, ending.upper())))


def find_recordings(archive: ArchiveFiles, names: Iterable[str], arrays: bool, table: str | None) -> dict[str, Found]:
    """Record (its path without ending, letters composed) -> its files.

    Args:
        archive: In which they lie.
        names: Of all ``candidates``.
        arrays: Whether the user states what arrays hold; they are left out otherwise, which a line says.
        table: The table of recordings, which is no array.
    """
    by_ending: dict[str, list[str]] = {ending: [] for ending in ENDINGS}
    for name in names:
        stem, ending = os.path.splitext(name)
        if ending.lower() in by_ending and name != table and stem:
            by_ending[ending.lower()].append(name)
    headers = _headers(
        archive, sorted({name.removesuffix(HEADER) for name in by_ending[HEADER] if name.endswith(HEADER)})
    )
    recordings = {
        name: Found(path, tuple(_files(path, headers)), headers[path].patient_id) for name, path in _by_name(headers)
    }
    usable = (*DESCRIBED, *(ARRAYS if arrays else ()))
    copies = [
        name
        for ending in usable
        for name in sorted(by_ending[ending])
        if not _add(recordings, name, os.path.splitext(name)[0])
    ]
    if copies:
        logger.warning("other forms of recordings are not used (%d, e.g. %s)", len(copies), printable(copies[0]))
    unused = {ending: len(by_ending[ending]) for ending in ARRAYS if ending not in usable and ending != ".csv"}
    if sum(unused.values()):
        counts = ", ".join(f"{count} {ending}" for ending, count in unused.items() if count)
        logger.warning("files of arrays are not read (%s): state rate, units and leads in recordings.yaml", counts)
    return recordings


def patients(archive: ArchiveFiles, files: Iterable[str]) -> Iterator[str | None]:
    """The patient that each EDF or DICOM file names; several requests at a time."""
    return in_order(lambda file: _patient(archive, file), files, THREADS)


def _patient(archive: ArchiveFiles, file: str) -> str | None:
    try:
        if file.lower().endswith(".dcm"):
            return identifier(patient_of_dicom(archive.read(file, _DICOM_HEAD_BYTES)))
        if file.lower().endswith((".edf", ".bdf")):
            return identifier(patient_of_edf(archive.read(file, _EDF_HEAD_BYTES)))
    except OSError:  # reading the recording raises the error
        pass
    return None


def _add(recordings: dict[str, Found], name: str, stem: str) -> bool:
    """Add a file of one recording, unless there is another of it."""
    record = unicodedata.normalize("NFC", stem)
    if record in recordings:
        return False
    recordings[record] = Found(name, (name,))
    return True


@dataclass(frozen=True)
class _Header:
    """The part of a header that is needed before recordings are split."""

    patient_id: str | None = None
    segments: tuple[str, ...] = ()
    """Records that are segments of this one, and no recordings by themselves."""

    files: tuple[str, ...] = ()
    """Names of its signal files, in its own folder."""

    @classmethod
    def parse(cls, content: bytes | None) -> _Header:
        if content is None:
            return cls()  # reading the recording raises the error
        text = content.decode("utf-8", errors="replace")
        patient = _PATIENT.search(text)
        lines = [line.split()[0] for line in text.splitlines() if line.strip() and not line.startswith("#")]
        master = _MASTER.fullmatch(lines[0] if lines else "")
        segments = tuple(lines[1 : 1 + int(master[1])]) if master else ()
        files = () if master else tuple(dict.fromkeys(name for name in lines[1 : 1 + MAX_SIGNALS] if name != "~"))
        return cls(identifier(patient[1]) if patient else None, segments, files)


def _parts(headers: Mapping[str, _Header]) -> set[str]:
    """Records that a master header names as its segments; a master itself is no segment."""
    named = {
        os.path.join(os.path.dirname(path), segment) for path, head in headers.items() for segment in head.segments
    }
    return {path for path in named if path in headers and not headers[path].segments}


def _headers(archive: ArchiveFiles, names: list[str]) -> dict[str, _Header]:
    """Records that are no segments of others, with what their headers say; and the segments."""
    contents = archive.read_each((f"{name}{HEADER}" for name in names), _HEADER_BYTES)
    return {name: _Header.parse(content) for name, content in zip(names, contents, strict=True)}


def _by_name(headers: Mapping[str, _Header]) -> Iterator[tuple[str, str]]:
    """Normalised name (NFC) and path as the file system has it, of all that are no segments."""
    seen: Counter[str] = Counter()
    for path in sorted(headers.keys() - _parts(headers)):
        name = unicodedata.normalize("NFC", path)
        yield (path if seen[name] else name), path
        seen[name] += 1


def _files(path: str, headers: Mapping[str, _Header]) -> Iterator[str]:
    """A record's header and signal files, and those of its segments."""
    header, folder = headers.get(path, _Header()), os.path.dirname(path)
    yield f"{path}.hea"
    for name in header.files:
        yield os.path.join(folder, name)
    for segment in dict.fromkeys(header.segments):
        part = os.path.join(folder, segment)
        if part in headers and part != path and not headers[part].segments:
            yield from _files(part, headers)
