"""One's own folder of WFDB records, with an optional table of reports and labels.

The table is ``recordings.csv`` (or the only CSV file) at the top of the folder. Of its columns only ``record`` is
required: the record's path from the folder, without ending. ``patient_id``, ``report``, ``labels`` (``NORM;SR`` or
``{'NORM': 100, 'SR': 0}``), ``age``, ``sex`` (male, female), ``fold`` and ``split`` (train, validation, test) are used
where present. Records that the table lacks are read without them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from ecgscan_ray.errors import InputError, RecordingError
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources.ptbxl import parse_codes
from ecgscan_ray.recording.sources.source import Item, integer, read_csv
from ecgscan_ray.recording.wfdb import parse_age, parse_sex, read_wfdb

TABLE = "recordings.csv"
_PATIENT = re.compile(rb"(?im)^#[ \t]*patient id[ \t]*:[ \t]*(\S+)")
_SPLITS = {"": None, "train": "train", "val": "validation", "validation": "validation", "test": "test"}


class Folder:
    """Reads every WFDB record below a folder.

    Args:
        rate: Taken for the sake of one signature; records have rates of their own.
    """

    name = "folder"
    licence: str | None = None

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate

    def list_records(self, folder: str | Path) -> list[Item]:
        """The table's records and all others found; see ``Source``."""
        root = Path(folder)
        if not root.is_dir():
            raise InputError("no such folder", where=folder)
        found = {path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.hea")}
        rows = {_record(row["record"]): row for row in _table(root)}
        records = sorted(found | rows.keys())
        if not records:
            raise InputError("no recordings: no .hea file here", where=folder, fix="Give a folder of WFDB records.")
        return [_item(root, record, rows.get(record, {})) for record in records]

    def read(self, item: Item) -> Recording:
        """One recording; see ``Source``."""
        details = item.details
        recording = read_wfdb(item.path, id=item.id, source=self.name, patient_id=item.patient_id)
        try:
            labels = _labels(details["labels"]) if details.get("labels") else recording.labels
        except ValueError:
            problem = f"labels not understood: {details['labels'][:60]!r}"
            raise RecordingError(problem, reason="labels", where=item.id) from None
        return dataclasses.replace(
            recording,
            report=details.get("report") or None,
            labels=labels,
            age=parse_age(details.get("age")) if details.get("age") else recording.age,
            sex=parse_sex(details.get("sex")) or recording.sex,
            fold=item.fold,
        )


def _table(root: Path) -> list[dict[str, str]]:
    tables = sorted(root.glob("*.csv"))
    if root / TABLE in tables:
        tables = [root / TABLE]
    if len(tables) > 1:
        raise InputError("several CSV files", where=root, fix=f"Call the table of recordings {TABLE}.")
    return read_csv(tables[0], ("record",)) if tables else []


def _record(text: str) -> str:
    """A record's name in one spelling: no ending, forward slashes, nothing that leads out of the folder."""
    record = os.path.normpath(text.strip().replace("\\", "/").removesuffix(".hea").removesuffix(".dat"))
    if record.startswith(("/", "..")):
        raise InputError(f"record '{text}' lies outside the folder", fix="Paths in the table start at the folder.")
    return record


def _item(root: Path, record: str, row: dict[str, str]) -> Item:
    split = row.get("split", "").strip().lower()
    if split not in _SPLITS:
        raise InputError(f"split '{split}' of record {record}", where=root, fix="Use train, validation or test.")
    return Item(
        id=record,
        path=str(root / record),
        patient_id=row.get("patient_id", "").strip() or _patient_in_header(root / f"{record}.hea"),
        fold=integer(row.get("fold")),
        split=_SPLITS[split],
        details={name: row[name] for name in ("report", "labels", "age", "sex") if row.get(name)},
    )


def _patient_in_header(path: Path) -> str | None:
    """The patient must be known before recordings are split, so the header is searched while listing."""
    try:
        found = _PATIENT.search(path.read_bytes())
    except OSError:
        return None
    return found.group(1).decode("ascii", errors="replace") if found else None


def _labels(text: str) -> dict[str, float]:
    if text.lstrip().startswith("{"):
        return parse_codes(text)
    return {code.strip(): 100.0 for code in text.split(";") if code.strip()}
