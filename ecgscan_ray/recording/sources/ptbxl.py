"""PTB-XL as PhysioNet publishes it: two CSV files, ``records100/`` and ``records500/``.

Where ``labels/`` of PTB-XL+ lies beside them, the statements of the 12SL program are labels too: ``12SL:NSR``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from ecgscan_ray.errors import InputError, RecordingError, printable
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.reports import repaired
from ecgscan_ray.recording.sources.disk_dict import DiskDict
from ecgscan_ray.recording.sources.labels import parse_labels
from ecgscan_ray.recording.sources.records import read_record, record_path
from ecgscan_ray.recording.sources.source import Item
from ecgscan_ray.recording.sources.table import Row, read_table, stream_rows

TABLE = "ptbxl_database.csv"
STATEMENTS = "scp_statements.csv"
PLUS = "labels/12sl_statements.csv"
_COLUMNS = ("ecg_id", "patient_id", "strat_fold", "age", "sex", "report", "scp_codes")
_FILENAME = {100: "filename_lr", 500: "filename_hr"}
_SEX = {"0": "male", "1": "female", "0.0": "male", "1.0": "female"}
_OVER_89 = ("300", "300.0")


class PTBXL:
    """Reads PTB-XL at 100 or 500 Hz.

    Args:
        rate: One of the two published rates, Hz.

    Raises:
        InputError: Another rate.
    """

    name = "ptbxl"
    licence: str | None = "CC-BY-4.0"

    def __init__(self, rate: float | None = 100) -> None:
        if rate not in _FILENAME:
            requested = "a rate of each recording's own" if rate is None else f"{rate:g} Hz"
            raise InputError(f"PTB-XL is not published at {requested}", fix="Choose rate 100 or 500.")
        self.rate = int(rate)

    def list_records(self, archive: ArchiveFiles) -> Iterator[Item]:
        """All rows of the table; see ``Source``."""
        column = _FILENAME[self.rate]
        self._check_files(archive)
        table = read_table(archive, TABLE, (*_COLUMNS, column))
        statements = read_table(archive, STATEMENTS, ("diagnostic_class",))
        known = {row.values[statements.columns[0]].strip() for row in statements.rows}  # the first column has no name
        plus = _statements_of_plus(archive)
        items = DiskDict[Item]()
        for row in _without_contradictions(table.rows):
            items[f"{row.number:012d}"] = _item(row, column, known, plus)
        return (item for _, item in items.stream())

    def _check_files(self, archive: ArchiveFiles) -> None:
        other = next(rate for rate in _FILENAME if rate != self.rate)
        for name in (TABLE, STATEMENTS, f"records{self.rate}"):
            if archive.exists(name) or not (archive.has_folders or "." in name):
                continue
            fix = f"It should be the folder with {TABLE}, {STATEMENTS} and records{self.rate}/."
            if name.startswith("records") and archive.exists(f"records{other}"):
                fix = f"It has records{other}: give --rate {other}."
            raise InputError(f"no PTB-XL recordings: no {name} here", where=archive.root, fix=fix)

    def read(self, item: Item, archive: ArchiveFiles) -> Recording:
        """One recording; see ``Source``."""
        details = item.details
        if details["fault"]:
            raise RecordingError(details["fault"], reason="labels", where=item.id)
        return dataclasses.replace(
            read_record(item, archive, self.name),
            patient_id=item.patient_id,
            report=repaired(details["report"], self.name),
            labels=parse_codes(details["scp_codes"]) | _labels_of_plus(details.get("12sl", "[]"), item.id),
            age=float(details["age"]) if details["age"] else None,
            sex=details["sex"] or None,
            fold=item.fold,
        )


def parse_codes(text: str) -> dict[str, float]:
    """``"{'NORM': 100.0, 'SR': 0.0}"`` -> code -> likelihood in percent.

    Raises:
        ValueError: The text is not such a mapping.
    """
    if not text.lstrip().startswith("{"):
        raise ValueError("no mapping")
    return parse_labels(text)


def _without_contradictions(rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows; of two with one ``ecg_id``, the second must say what the first does."""
    first = DiskDict[Row]()
    for row in rows:
        number = row.identifier("ecg_id") or ""
        other = first.get(number)
        if other is None:
            first[number] = row
        elif other.values != row.values:
            row.refuse(f"ecg_id {row.text('ecg_id')} is that of row {other.number} too", "Keep one of them.")
        yield row


def _statements_of_plus(archive: ArchiveFiles) -> DiskDict[str]:
    """``ecg_id`` -> statements of the 12SL program, as PTB-XL+ writes them; nothing where it is not there."""
    statements = DiskDict[str]()
    if archive.exists(PLUS):
        for row in stream_rows(archive, PLUS, ("ecg_id", "statements")):
            statements[row.identifier("ecg_id") or ""] = row.text("statements")
    return statements


def _labels_of_plus(text: str, id: str) -> dict[str, float]:
    try:
        return {f"12SL:{statement}": likelihood for statement, likelihood in parse_labels(text or "[]").items()}
    except ValueError:
        problem = f"statements of {PLUS} not understood: {text[:60]!r}"
        raise RecordingError(problem, reason="labels", where=id) from None


def _item(row: Row, column: str, known: set[str], plus: Mapping[str, str]) -> Item:
    age = 90.0 if row.text("age") in _OVER_89 else row.number_between("age", 0, 130)
    path, number = record_path(row, column), row.identifier("ecg_id")
    statements = {"12sl": plus[number]} if number and number in plus else {}
    return Item(
        id=printable(number or path),
        path=path,
        files=(f"{path}.hea", f"{path}.dat"),
        patient_id=row.identifier("patient_id"),
        fold=row.whole_number("strat_fold", 0, 9999),
        details={
            "report": row.text("report"),
            "scp_codes": row.values["scp_codes"],
            "age": "" if age is None else f"{age:g}",
            "sex": row.word("sex", _SEX) or "",
            "fault": _fault(row.values["scp_codes"], known),
        }
        | statements,
    )


def _fault(scp_codes: str, known: set[str]) -> str:
    """What is wrong with a row's statements; empty if nothing."""
    try:
        unknown = sorted(parse_codes(scp_codes).keys() - known)
    except ValueError:
        return f"scp_codes not understood: {scp_codes[:60]!r}"
    return f"{', '.join(unknown)} not in {STATEMENTS}" if unknown else ""
