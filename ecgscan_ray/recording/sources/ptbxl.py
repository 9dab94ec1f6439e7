"""PTB-XL as PhysioNet publishes it: two CSV files, ``records100/`` and ``records500/``."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

from ecgscan_ray.errors import InputError, RecordingError
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources.source import Item, integer, read_csv
from ecgscan_ray.recording.wfdb import parse_age, read_wfdb

TABLE = "ptbxl_database.csv"
STATEMENTS = "scp_statements.csv"
_COLUMNS = ("ecg_id", "patient_id", "strat_fold", "age", "sex", "report", "scp_codes")
_FILENAME = {100: "filename_lr", 500: "filename_hr"}
_SEX = {"0": "male", "1": "female"}
_OVER_89 = 300.0


class PTBXL:
    """Reads PTB-XL at 100 or 500 Hz.

    Args:
        rate: Which of the two published rates, Hz.

    Raises:
        InputError: Another rate.
    """

    name = "ptbxl"
    licence: str | None = "CC-BY-4.0"

    def __init__(self, rate: float | None = 100) -> None:
        if rate not in _FILENAME:
            raise InputError(f"PTB-XL is not published at {rate} Hz", fix="Choose rate 100 or 500.")
        self.rate = int(rate)

    def list_records(self, folder: str | Path) -> list[Item]:
        """All rows of the table; see ``Source``."""
        root, column = Path(folder), _FILENAME[self.rate]
        for name in (TABLE, STATEMENTS, f"records{self.rate}"):
            if not (root / name).exists():
                fix = f"It should be the folder with {TABLE}, {STATEMENTS} and records{self.rate}/."
                raise InputError(f"no PTB-XL recordings: no {name} here", where=folder, fix=fix)
        rows = read_csv(root / TABLE, (*_COLUMNS, column))
        known = {row[""] for row in read_csv(root / STATEMENTS, ("", "diagnostic_class"))}
        return [
            Item(
                id=str(integer(row["ecg_id"]) or row["ecg_id"]),
                path=str(root / row[column]),
                patient_id=str(integer(row["patient_id"]) or row["patient_id"]) or None,
                fold=integer(row["strat_fold"]),
                details={name: row[name] for name in ("report", "scp_codes", "age", "sex")}
                | {"fault": _fault(row["scp_codes"], known)},
            )
            for row in rows
        ]

    def read(self, item: Item) -> Recording:
        """One recording; see ``Source``."""
        details = item.details
        if details["fault"]:
            raise RecordingError(details["fault"], reason="labels", where=item.id)
        age = parse_age(details["age"])
        return dataclasses.replace(
            read_wfdb(item.path, id=item.id, source=self.name, patient_id=item.patient_id),
            report=details["report"] or None,
            labels=parse_codes(details["scp_codes"]),
            age=90.0 if integer(details["age"]) == _OVER_89 else age,  # 300 stands for "older than 89"
            sex=_SEX.get(details["sex"].removesuffix(".0")),
            fold=item.fold,
        )


def parse_codes(text: str) -> dict[str, float]:
    """``"{'NORM': 100.0, 'SR': 0.0}"`` -> code -> likelihood in percent.

    Raises:
        ValueError: The text is no such mapping.
    """
    try:
        return {str(code): float(value) for code, value in dict(ast.literal_eval(text)).items()}
    except (SyntaxError, TypeError) as error:
        raise ValueError(str(error)) from None


def _fault(scp_codes: str, known: set[str]) -> str:
    """What is wrong with a row's statements; empty if nothing."""
    try:
        unknown = sorted(parse_codes(scp_codes).keys() - known)
    except ValueError:
        return f"scp_codes not understood: {scp_codes[:60]!r}"
    return f"{', '.join(unknown)} not in {STATEMENTS}" if unknown else ""
