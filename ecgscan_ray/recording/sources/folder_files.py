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
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.formats.dicom import patient_of_dicom
from ecgscan_ray.recording.formats.edf import patient_of_edf
from ecgscan_ray.recording.header import MAX_SIGNALS
from ecgscan_ray.recording.sources.disk_dict import DiskDict
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
_KEPT_BYTES = 4096
"""A header of twelve leads has some 700."""
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


def find_recordings(
    archive: ArchiveFiles, names: Iterable[str], arrays: bool, table: str | None
) -> tuple[DiskDict[Found], DiskDict[bytes]]:
    """The recordings of a folder, and the headers that were read for it.

    Args:
        archive: In which they lie.
        names: Of all ``candidates``.
        arrays: Whether the user states what arrays hold; they are left out otherwise, which a line says.
        table: The table of recordings, which is no array.

    Returns:
        Record (its path without ending, letters composed) -> its files; and file -> content of the small headers of an archive
        that is not local, so that reading the recording need not ask for them again.
    """
    files, stems, counts = DiskDict[None](), DiskDict[None](), Counter[str]()
    usable = (*DESCRIBED, *(ARRAYS if arrays else ()))
    for name in names:
        stem, ending = os.path.splitext(name)
        if name == table or not stem:
            continue
        counts[ending.lower()] += 1
        if ending == HEADER:
            stems[stem] = None
        elif ending.lower() in usable:
            files[f"{usable.index(ending.lower())}{name}"] = None  # in the order of preference
    contents = DiskDict[bytes]()
    recordings = _records(archive, stems, contents)
    copies, first = 0, ""
    for key in files:
        if not _add(recordings, key[1:], os.path.splitext(key[1:])[0]):
            copies, first = copies + 1, first or key[1:]
    if copies:
        logger.warning("other forms of recordings are not used (%d, e.g. %s)", copies, printable(first))
    unused = {ending: counts[ending] for ending in ARRAYS if ending not in usable and ending != ".csv"}
    if sum(unused.values()):
        words = ", ".join(f"{count} {ending}" for ending, count in unused.items() if count)
        logger.warning("files of arrays are not read (%s): state rate, units and leads in recordings.yaml", words)
    return recordings, contents


def patient_of(archive: ArchiveFiles, file: str) -> str | None:
    """The patient that an EDF or DICOM file names."""
    try:
        if file.lower().endswith(".dcm"):
            return identifier(patient_of_dicom(archive.read(file, _DICOM_HEAD_BYTES)))
        if file.lower().endswith((".edf", ".bdf")):
            return identifier(patient_of_edf(archive.read(file, _EDF_HEAD_BYTES)))
    except OSError:  # reading the recording raises the error
        pass
    return None


def _add(recordings: DiskDict[Found], name: str, stem: str) -> bool:
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


def _records(archive: ArchiveFiles, stems: DiskDict[None], small: DiskDict[bytes]) -> DiskDict[Found]:
    """WFDB records that are no segments of others, by their names (NFC); ``small`` receives small headers."""
    contents = archive.read_each((f"{stem}{HEADER}" for stem in stems), _HEADER_BYTES)
    headers, named = DiskDict[_Header](), DiskDict[None]()
    for stem, content in zip(stems, contents, strict=True):
        headers[stem] = header = _Header.parse(content)
        if content and len(content) <= _KEPT_BYTES and not archive.is_local:
            small[f"{stem}{HEADER}"] = content
        for segment in header.segments:
            named[os.path.join(os.path.dirname(stem), segment)] = None
    recordings = DiskDict[Found]()
    for path, header in headers.stream():
        if path in named and not header.segments:  # a master itself is no segment
            continue
        name = unicodedata.normalize("NFC", path)
        if name in recordings and name == path:  # another spelling of it came before
            recordings[recordings[name].path] = recordings[name]
        elif name in recordings:
            name = path
        recordings[name] = Found(path, tuple(_files(path, headers)), header.patient_id)
    return recordings


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
