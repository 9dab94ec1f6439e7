"""CODE-15% as Zenodo publishes it: ``exams.csv`` and the unpacked ``exams_part0.hdf5`` to ``exams_part17.hdf5``.

Units: the values are half millivolts. The authors' program for these files says that they were scaled by 2 from the mV of
the original records (https://github.com/antonior92/ecg-preprocessing); the data set's own sentence, "scale 1e-4V, multiply
by 1000 for V", contradicts itself. ``docs/archives.md`` has the figures that decided.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ecgscan_ray.errors import InputError, RecordingError, printable
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.formats.hdf5 import Hdf5, open_hdf5
from ecgscan_ray.recording.recording import Recording, without_standstill
from ecgscan_ray.recording.sources.records import require_files
from ecgscan_ray.recording.sources.source import Item
from ecgscan_ray.recording.sources.table import Row, stream_rows

logger = logging.getLogger(__name__)

TABLE = "exams.csv"
FS = 400.0
MV_PER_UNIT = 0.5
LABELS = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "normal_ecg")
_SHAPE = (4096, 12)
"""Samples and leads of an exam; shorter ones have zeros before and behind. Leads: I II III aVR aVL aVF V1 to V6."""
_SEX = {"true": "male", "false": "female", "1": "male", "0": "female"}
_YES = {"true": "1", "false": "0", "1": "1", "0": "0", "1.0": "1", "0.0": "0"}
_COLUMNS = ("exam_id", "age", "is_male", *(label.lower() for label in LABELS), "patient_id", "trace_file")


class Code15:
    """Reads CODE-15%; the zeros around a shorter exam are cut off.

    Args:
        rate: Unused; all exams have 400 Hz.
    """

    name = "code15"
    licence: str | None = "CC-BY-4.0"

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate
        self._open: dict[str, Hdf5] = {}
        self._lock = threading.Lock()  # HDF5 reads one thing at a time in a process

    def list_records(self, archive: ArchiveFiles) -> Iterator[Item]:
        """All exams of the table; see ``Source``. The parts' lists of exams are held in memory: 40 MB for all 345,779."""
        require_files(archive, "CODE-15%", (TABLE,))
        parts: dict[str, dict[int, int]] = {}
        any_part = False
        for row in stream_rows(archive, TABLE, _COLUMNS):
            part = row.text("trace_file")
            if part not in parts:
                parts[part] = _exams(archive, row, part)
            any_part = any_part or bool(parts[part])
            yield _item(row, part, parts[part])
        if not any_part:
            fix = f"Unpack exams_part0.zip and so on beside {TABLE}."
            raise InputError("none of the files with the exams is here", where=archive.root, fix=fix)

    def read(self, item: Item, archive: ArchiveFiles) -> Recording:
        """One exam; see ``Source``."""
        details, part = item.details, item.files[0]
        if "row" not in details:
            raise RecordingError(f"{part} is missing or has no such exam", reason="missing_file", where=item.id)
        tracing = self._tracing(archive, part, int(details["row"]))
        signal = MV_PER_UNIT * _without_padding(tracing, item.id).T
        return Recording(
            id=item.id,
            source=self.name,
            patient_id=item.patient_id,
            signal_mv=without_standstill(np.ascontiguousarray(signal, np.float32), FS),
            fs=FS,
            labels=dict.fromkeys((label for label in LABELS if details.get(label)), 100.0),
            age=float(details["age"]) if "age" in details else None,
            sex=details.get("sex"),
        )

    def _tracing(self, archive: ArchiveFiles, part: str, row: int) -> NDArray[np.float64]:
        where = archive.uri(part)
        with self._lock:
            if where not in self._open:  # 18 of them; exams come in random order
                self._open[where] = open_hdf5(archive.open(part), where)
            with self._open[where].reading() as content, np.errstate(invalid="ignore"):
                tracings = content["tracings"]
                if tracings.shape[1:] != _SHAPE or row >= tracings.shape[0]:
                    problem = f"tracings of shape {tracings.shape}, not (N, 4096, 12)"
                    raise RecordingError(problem, reason="format", where=where)
                return np.asarray(tracings[row], np.float64)


def _exams(archive: ArchiveFiles, row: Row, part: str) -> dict[int, int]:
    """Exam -> its row in a part; empty where there is no such file, or it cannot be read."""
    if not part or "/" in part or "\\" in part:
        row.refuse(
            f"trace_file '{part[:60]}' is not a file beside the table", "It is called exams_part0.hdf5 and so on."
        )
    where = archive.uri(part)
    try:
        with archive.open(part) as file, open_hdf5(file, where) as hdf5, hdf5.reading() as content:
            return {int(exam): number for number, exam in enumerate(content["exam_id"][:])}
    except FileNotFoundError:
        logger.warning("%s is not here: its exams are put aside", part)
    except RecordingError as error:
        logger.warning("%s: its exams are put aside", error)
    return {}


def _item(row: Row, part: str, exams: dict[int, int]) -> Item:
    exam, age = row.whole_number("exam_id", 0, 2**53), row.number_between("age", 0, 130)
    details = {"age": "" if age is None else f"{age:g}", "sex": row.word("is_male", _SEX) or ""}
    details |= {label: "1" for label in LABELS if row.word(label.lower(), _YES) == "1"}
    if exam in exams:
        details["row"] = str(exams[exam])
    return Item(
        id=printable(row.identifier("exam_id") or f"row {row.number}"),
        path=part,
        files=(part,),
        patient_id=row.identifier("patient_id"),
        details={name: text for name, text in details.items() if text},
    )


def _without_padding(tracing: NDArray[np.float64], id: str) -> NDArray[np.float64]:
    """The samples between the zeros: (T, 12)."""
    known = np.flatnonzero((tracing != 0).any(axis=1))
    if not len(known):
        raise RecordingError("nothing but zeros", reason="empty", where=id)
    return tracing[known[0] : known[-1] + 1]
