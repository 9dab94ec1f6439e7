"""SNOMED CT codes in headers, by name: from the archive's own tables, else from the 30 codes that are known here."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass

from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources.table import stream_rows

logger = logging.getLogger(__name__)

SCORED: dict[str, str] = {
    "10370003": "pacing rhythm",
    "111975006": "prolonged qt interval",
    "164889003": "atrial fibrillation",
    "164890007": "atrial flutter",
    "164909002": "left bundle branch block",
    "164917005": "qwave abnormal",
    "164934002": "t wave abnormal",
    "164947007": "prolonged pr interval",
    "17338001": "ventricular premature beats",
    "251146004": "low qrs voltages",
    "270492004": "1st degree av block",
    "284470004": "premature atrial contraction",
    "365413008": "poor R wave Progression",
    "39732003": "left axis deviation",
    "426177001": "sinus bradycardia",
    "426627000": "bradycardia",
    "426783006": "sinus rhythm",
    "427084000": "sinus tachycardia",
    "427172004": "premature ventricular contractions",
    "427393009": "sinus arrhythmia",
    "445118002": "left anterior fascicular block",
    "47665007": "right axis deviation",
    "59118001": "right bundle branch block",
    "59931005": "t wave inversion",
    "63593006": "supraventricular premature beats",
    "6374002": "bundle branch block",
    "698252002": "nonspecific intraventricular conduction disorder",
    "713426002": "incomplete right bundle branch block",
    "713427006": "complete right bundle branch block",
    "733534002": "complete left bundle branch block",
}
"""The codes that the PhysioNet/CinC Challenge 2021 scored, with the names of its table."""


@dataclass(frozen=True)
class CodeTable:
    """A table of an archive that names codes.

    Attributes:
        file: At the archive's root.
        codes: Columns that may hold the code, in lower case; the first that is there counts.
        names: Column of the names.
    """

    file: str
    codes: tuple[str, ...]
    names: str


def code_names(archive: ArchiveFiles, tables: tuple[CodeTable, ...]) -> dict[str, str]:
    """Code -> name. A code of several names in a table has all of them: ``a or b``.

    Names, and not the tables' abbreviations, which other tables use for other things: CD is a cardiac dysrhythmia there
    and a conduction disturbance in PTB-XL.

    Raises:
        InputError: A table is malformed.
    """
    names_of: dict[str, list[str]] = defaultdict(list)
    absent = [table.file for table in tables if not archive.exists(table.file)]
    for table in tables:
        if table.file in absent:
            continue
        for row in stream_rows(archive, table.file, (table.names,)):
            column = next((name for name in table.codes if name in row.values), "")
            if not column:
                row.refuse(f"no column {' or '.join(table.codes)}", "The table is the archive's own, unchanged.")
            code, name = row.identifier(column), " ".join(row.text(table.names).split())
            if code and name and name not in names_of[code]:
                names_of[code].append(name)
    if absent:
        logger.warning("no %s here: only the %d codes known without are named", " and no ".join(absent), len(SCORED))
    return SCORED | {code: " or ".join(names) for code, names in names_of.items()}
