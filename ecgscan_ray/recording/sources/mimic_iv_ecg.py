"""MIMIC-IV-ECG as PhysioNet publishes it: ``record_list.csv``, ``machine_measurements.csv`` and ``files/``.

The headers name aVR, aVF, aVL in this order: leads go by their names. Age and sex are not part of the archive.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator

from ecgscan_ray.errors import printable
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources.records import read_record, record_path, require_files
from ecgscan_ray.recording.sources.source import Item
from ecgscan_ray.recording.sources.table import Row, stream_rows

logger = logging.getLogger(__name__)

TABLE = "record_list.csv"
MEASUREMENTS = "machine_measurements.csv"
_STATEMENT = re.compile(r"report_(\d+)")


class MimicIvEcg:
    """Reads MIMIC-IV-ECG: the machine's statements are the report, ``subject_id`` is the patient.

    Args:
        rate: Unused; all records have 500 Hz.
    """

    name = "mimic-iv-ecg"
    licence: str | None = "ODbL-1.0"

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate

    def list_records(self, archive: ArchiveFiles) -> Iterator[Item]:
        """All rows of the list of records; see ``Source``. The reports are held in memory: 200 MB for all 800,000."""
        require_files(archive, "MIMIC-IV-ECG", (TABLE, MEASUREMENTS))
        reports, without, count = _reports(archive), 0, 0
        for row in stream_rows(archive, TABLE, ("subject_id", "study_id", "path")):
            study, path = row.identifier("study_id"), record_path(row, "path")
            count, without = count + 1, without + (study not in reports)
            report = reports.get(study or "", "")
            yield Item(
                id=printable(study or path),
                path=path,
                files=(f"{path}.hea", f"{path}.dat"),
                patient_id=row.identifier("subject_id"),
                details={"report": report} if report else {},
            )
        if without:
            logger.warning("%d of %d records have no row in %s: read without report", without, count, MEASUREMENTS)

    def read(self, item: Item, archive: ArchiveFiles) -> Recording:
        """One recording; see ``Source``."""
        recording = read_record(item, archive, self.name)
        return dataclasses.replace(recording, patient_id=item.patient_id, report=item.details.get("report"))


def _reports(archive: ArchiveFiles) -> dict[str, str]:
    """Study -> the machine's statements, joined in their order."""
    reports: dict[str, str] = {}
    unique: dict[str, str] = {}  # a tenth of the reports are different ones
    for row in stream_rows(archive, MEASUREMENTS, ("study_id", "report_0")):
        study, report = row.identifier("study_id") or "", _report(row)
        if reports.setdefault(study, unique.setdefault(report, report)) != report:
            row.refuse(f"study_id {study} has another report in a row before", "Keep one of them.")
    return reports


def _report(row: Row) -> str:
    numbers = sorted(int(match[1]) for name in row.values if (match := _STATEMENT.fullmatch(name)))
    statements = (row.text(f"report_{number}").rstrip(" .") for number in numbers)
    return ". ".join(statement for statement in statements if statement)
