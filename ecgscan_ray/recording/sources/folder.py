"""Any folder of recordings, with an optional table of reports and labels and optional settings (``recordings.yaml``).

WFDB records, EDF and DICOM waveforms say what they hold. Arrays (``.npy``, ``.npz``, HDF5, CSV) do not: the settings state
rate, units and leads. The table is ``recordings.csv``, or the only CSV file with a column ``record``, at the top of the
folder. Of its columns only ``record`` is required: the record's path from the folder, without ending. ``patient_id``,
``report``, ``labels`` (``NORM;SR``, ``['NORM', 'SR']`` or ``{'NORM': 100, 'SR': 0}``), ``age``, ``sex`` (male, female),
``fold`` and ``split`` (train, validation, test) are used where present. Records missing from the table are read without.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO

from ecgscan_ray.errors import InputError, RecordingError, printable
from ecgscan_ray.filesystem.archive import IN_PARTS, THREADS, ArchiveFiles
from ecgscan_ray.filesystem.threads import in_order
from ecgscan_ray.recording.channels import Channels, to_recording
from ecgscan_ray.recording.formats.arrays import Arrays, read_csv, read_hdf5, read_npy, read_npz
from ecgscan_ray.recording.formats.dicom import read_dicom
from ecgscan_ray.recording.formats.edf import read_edf
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources.disk_dict import DiskDict
from ecgscan_ray.recording.sources.folder_files import (
    ARRAYS,
    DESCRIBED,
    HEADER,
    Found,
    candidates,
    find_recordings,
    patient_of,
)
from ecgscan_ray.recording.sources.folder_settings import SETTINGS, FolderSettings, read_settings
from ecgscan_ray.recording.sources.folder_table import (
    find_table,
    match,
    report_unused_columns,
    rows_by_record,
    with_row,
    with_warning_of_similar_ids,
)
from ecgscan_ray.recording.sources.labels import HOW, parse_labels
from ecgscan_ray.recording.sources.records import read_record
from ecgscan_ray.recording.sources.source import Item
from ecgscan_ray.recording.sources.table import Row

_DESCRIBED: dict[str, Callable[[BinaryIO, str], Channels]] = {".dcm": read_dicom, ".edf": read_edf, ".bdf": read_edf}
_ARRAYS: dict[str, Callable[[BinaryIO, str, Arrays], Channels]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".csv": read_csv,
}


class Folder:
    """Reads every recording below a folder.

    Args:
        rate: Unused; recordings have rates of their own.
    """

    name = "folder"
    licence: str | None = None

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate

    def list_records(self, archive: ArchiveFiles) -> Iterator[Item]:
        """The table's records and all others found; see ``Source``."""
        archive.check_can_be_listed()
        settings = read_settings(archive)
        table = find_table(archive, settings)
        arrays, name = settings.arrays is not None, table.name if table else None
        recordings, headers = find_recordings(archive, candidates(archive), arrays, name)
        rows = rows_by_record(table, recordings) if table else DiskDict[Row]()
        if not recordings and not rows:
            kinds = f"WFDB records ({HEADER}), {', '.join(DESCRIBED)}, or {', '.join(ARRAYS)} with {SETTINGS}"
            raise InputError("no recordings here", where=archive.root, fix=f"Give a folder of {kinds}.")
        if table:
            report_unused_columns(table)
            match(table, rows, recordings)
        items = DiskDict[Item]()
        for record, files in recordings.stream():
            items[record] = _item(record, files, settings)
        for record, row in rows.stream():
            items[record] = with_row(items.get(record) or _item(record, None, settings), row)
        listed = (_with_header(item, headers) for _, item in items.stream())
        return with_warning_of_similar_ids(_with_patients(archive, listed))

    def read(self, item: Item, archive: ArchiveFiles) -> Recording:
        """One recording; see ``Source``."""
        recording, details = _read(item, archive, self.name), item.details
        try:
            labels = parse_labels(details["labels"]) if "labels" in details else recording.labels
        except ValueError:
            problem = f"labels not understood: {details['labels'][:60]!r}"
            raise RecordingError(problem, reason="labels", where=item.id, fix=f"{HOW}.") from None
        return dataclasses.replace(
            recording,
            patient_id=item.patient_id,
            report=details.get("report"),
            labels=labels,
            age=float(details["age"]) if "age" in details else recording.age,
            sex=details.get("sex", recording.sex),
            fold=item.fold,
        )


def _item(record: str, files: Found | None, settings: FolderSettings) -> Item:
    files = files or Found(record, (f"{record}{HEADER}",))  # of a row: reading it says that the file is missing
    stated = settings.arrays if _ending(files.files[0]) in _ARRAYS else None
    return Item(
        id=printable(record.replace(os.sep, "/")),
        path=files.path,
        patient_id=files.patient_id,
        details={"arrays": stated.model_dump_json(exclude_defaults=True)} if stated else {},
        files=files.files,
    )


def _with_header(item: Item, headers: DiskDict[bytes]) -> Item:
    content = headers.get(item.files[0])
    return dataclasses.replace(item, header=content.decode("latin-1")) if content else item


def _with_patients(archive: ArchiveFiles, items: Iterator[Item]) -> Iterator[Item]:
    """The patients that EDF and DICOM files name, where the table names none."""

    def complete(item: Item) -> Item:
        if item.patient_id is not None or _ending(item.files[0]) not in _DESCRIBED:
            return item
        return dataclasses.replace(item, patient_id=patient_of(archive, item.files[0]))

    return map(complete, items) if archive.is_local else in_order(complete, items, THREADS)


def _read(item: Item, archive: ArchiveFiles, source: str) -> Recording:
    file = next(iter(item.files), f"{item.path}{HEADER}")
    ending, where = _ending(file), archive.uri(file)
    if ending == HEADER:
        return read_record(item, archive, source)
    try:
        with archive.open(file, whole=ending not in IN_PARTS) as content:
            if ending in _DESCRIBED:
                channels = _DESCRIBED[ending](content, where)
            else:
                channels = _ARRAYS[ending](content, where, Arrays.model_validate_json(item.details["arrays"]))
    except OSError as error:
        raise RecordingError(f"missing file ({error.strerror})", reason="missing_file", where=where) from None
    return to_recording(channels, where=where, id=item.id, source=source)


def _ending(file: str) -> str:
    return os.path.splitext(file)[1].lower()
