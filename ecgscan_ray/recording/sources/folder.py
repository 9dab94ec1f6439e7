"""Any folder of WFDB records, with an optional table of reports and labels.

The table is ``recordings.csv``, or the only CSV file with a column ``record``, at the top of the folder. Of its columns
only ``record`` is required: the record's path from the folder, without ending. ``patient_id``, ``report``, ``labels``
(``NORM;SR``, ``['NORM', 'SR']`` or ``{'NORM': 100, 'SR': 0}``), ``age``, ``sex`` (male, female), ``fold`` and ``split``
(train, validation, test) are used where present. Records missing from the table are read without them.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from ecgscan_ray.errors import InputError, RecordingError, printable
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.header import MAX_SIGNALS
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources.labels import HOW, parse_labels
from ecgscan_ray.recording.sources.source import Item
from ecgscan_ray.recording.sources.table import Row, Table, column_names, read_table
from ecgscan_ray.recording.values import identifier, plain
from ecgscan_ray.recording.wfdb import read_wfdb

logger = logging.getLogger(__name__)

TABLE = "recordings.csv"
COLUMNS = ("record", "patient_id", "report", "labels", "age", "sex", "fold", "split")
MAX_AGE, MAX_FOLD = 130, 9999
_CRITICAL_COLUMNS = ("patient_id", "report", "labels", "fold", "split")
"""A column with nearly such a name is refused: ignoring it would change training or the test split."""
_ONE_LETTER = 0.82
"""Similarity of words of six letters that differ in one."""
_ENDING = re.compile(r"\.(hea|dat|mat)$", re.IGNORECASE)
_HEADER_BYTES = 2**20
_PATIENT = re.compile(r"(?im)^#[ \t]*patient id[ \t]*:[ \t]*(\S[^\r\n]*)")
_MASTER = re.compile(r"\S+/(\d{1,6})")
_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}


class Folder:
    """Reads every WFDB record below a folder.

    Args:
        rate: Unused; records have rates of their own.
    """

    name = "folder"
    licence: str | None = None

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate

    def list_records(self, archive: ArchiveFiles) -> Iterator[Item]:
        """The table's records and all others found; see ``Source``."""
        names = sorted({name.removesuffix(".hea") for name in archive.names((".hea",))})
        contents = archive.read_each((f"{name}.hea" for name in names), _HEADER_BYTES)
        headers = {name: _Header.parse(content) for name, content in zip(names, contents, strict=True)}
        paths = _by_name(headers.keys() - _parts(headers))
        table = _table(archive)
        rows = _rows_by_record(table, paths) if table else {}
        if not paths and not rows:
            fix = "Give a folder of WFDB records."
            raise InputError("no recordings: no .hea file here", where=archive.root, fix=fix)
        if table:
            _report_unused_columns(table)
            _match(table, rows, paths)
        records = sorted({*paths, *rows})
        items = [_item(paths.get(record, record), rows.get(record), headers) for record in records]
        _warn_about_similar_ids(items)
        return iter(items)

    def read(self, item: Item, archive: ArchiveFiles) -> Recording:
        """One recording; see ``Source``."""
        details = item.details
        with archive.local(item.files) as folder:
            recording = read_wfdb(folder / item.path, id=item.id, source=self.name)
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


@dataclasses.dataclass(frozen=True)
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


def _by_name(paths: Iterable[str]) -> dict[str, str]:
    """Normalised name (NFC) -> path as the file system has it."""
    names: dict[str, str] = {}
    for path in sorted(paths):
        name = unicodedata.normalize("NFC", path)
        names[path if name in names else name] = path
    return names


def _table(archive: ArchiveFiles) -> Table | None:
    """The table of recordings, if there is one."""
    files = [name for name in archive.names_at_top() if name.endswith(".csv")]
    if TABLE in files:
        name = TABLE
    else:
        tables = [name for name in files if "record" in column_names(archive, name)]
        if len(tables) > 1:
            fix = f"Call the table of recordings {TABLE}."
            raise InputError(
                f"several CSV files have a column record ({', '.join(tables)})", where=archive.root, fix=fix
            )
        _report_other_files(archive, [name for name in files if name not in tables])
        if not tables:
            return None
        (name,) = tables
    read = read_table(archive, name, ("record",))
    if read.separator != "commas":
        logger.info("%s is separated by %s", name, read.separator)
    return read


def _report_other_files(archive: ArchiveFiles, files: list[str]) -> None:
    for file in files:
        names = ", ".join(name for name in column_names(archive, file)[:8] if name) or "no readable header"
        logger.warning("%s has no column 'record' (it has %s) and is not used", file, printable(names))
    stem = TABLE.removesuffix(".csv")
    for file in archive.names_at_top():
        if file.startswith(f"{stem}.") and file.lower().endswith((".xlsx", ".xls", ".ods", ".tsv", ".txt")):
            logger.warning("%s is not read; save it as %s", file, TABLE)


def _report_unused_columns(table: Table) -> None:
    """Log columns that are not used; one with nearly the name of a critical column is refused."""
    unused = [name for name in table.columns if name not in COLUMNS]
    absent = [name for name in COLUMNS if name not in table.columns]
    for name in unused:
        for column in absent:
            if column in _CRITICAL_COLUMNS and _nearly(name, column):
                fix = f"Did you mean '{column}'? Rename it to that, or to something else if it is none."
                raise InputError(f"column '{name}' is not used", where=table.path, fix=fix)
    if unused:
        nearest = {name: difflib.get_close_matches(name, absent, n=1, cutoff=0.7) for name in unused}
        words = [f"'{name}'" + (f" (did you mean '{near[0]}'?)" if near else "") for name, near in nearest.items()]
        more = f" and {len(words) - 12} more" if len(words) > 12 else ""
        logger.warning("%s: columns not used: %s%s", table.name, printable(", ".join(words[:12])), more)


def _nearly(name: str, column: str) -> bool:
    """``Patient ID`` and ``patient`` mean ``patient_id``, ``label`` and ``labals`` mean ``labels``."""
    given, known = (re.sub(r"[^a-z]", "", text) for text in (name, column))
    stems = {word.removesuffix("s").removesuffix("id") for word in (given, known)}
    return len(stems) == 1 or difflib.SequenceMatcher(None, known, given).ratio() > _ONE_LETTER


def _rows_by_record(table: Table, paths: Mapping[str, str]) -> dict[str, Row]:
    """Record -> its row; equal rows count once.

    Raises:
        InputError: A row names no record, or one outside the folder, or two rows name the same.
    """
    rows: dict[str, Row] = {}
    for row in table.rows:
        record = _record(row, paths)
        other = rows.setdefault(record, row)
        if other is not row and _used(other) != _used(row):
            fix = "Keep one of them."
            raise InputError(f"rows {other.number} and {row.number} are both of {record}", where=table.path, fix=fix)
        _refuse_swallowed(row, table.columns.index("record"), paths)
    return rows


def _used(row: Row) -> list[str]:
    return [row.text(column) for column in COLUMNS[1:]]


def _record(row: Row, paths: Mapping[str, str]) -> str:
    """The record that a row names in any spelling: with an ending, backslashes, ``./`` or outer blanks."""
    text = unicodedata.normalize("NFC", row.values["record"])
    exact, trimmed = (os.path.normpath(name.replace("\\", "/")) for name in (text, plain(text)))
    record = next((name for name in (exact, trimmed) if name in paths), os.path.normpath(_ENDING.sub("", trimmed)))
    if not text.strip() or record == ".":
        row.refuse("names no record", "Write its path from the folder, without ending.")
    if record.startswith("/") or record.split("/")[0] == ".." or re.match(r"[A-Za-z]:/", record):
        row.refuse(f"record '{text[:100]}' is outside the folder", "Paths in the table start at the folder.")
    return record


def _refuse_swallowed(row: Row, column: int, paths: Mapping[str, str]) -> None:
    """An unbalanced quotation mark joins rows: a line inside a field then looks like the row of a record of this folder."""
    lines = (line for value in row.values.values() for line in value.splitlines()[1:])
    for fields in (re.split(r"[,;\t]", line) for line in lines):
        name = _ENDING.sub("", fields[column].strip(' "')) if len(fields) > max(column, 1) else ""
        if name in paths:
            fix = 'Is a quotation mark (") missing, or one too many?'
            row.refuse(f"holds the row of {name} inside a quotation", fix)


def _match(table: Table, rows: Mapping[str, Row], paths: Mapping[str, str]) -> None:
    """Log which rows have no file, and which files no row.

    Raises:
        InputError: No row has a file.
    """
    absent = [record for record in rows if record not in paths]
    without = [record for record in paths if record not in rows]
    name = table.name
    if absent:
        example = f"e.g. '{printable(absent[0])}' in row {rows[absent[0]].number}"
        if len(absent) == len(rows):
            here = f"; here is '{printable(without[0])}'" if without else ""
            fix = f"The column holds each record's path from the folder, without ending{here}."
            raise InputError(f"no row names a record that is here, {example}", where=table.path, fix=fix)
        logger.warning("%s: %d of %s name no record here, %s", name, len(absent), _count(len(rows), "row"), example)
    if without:
        example = f"{_count(len(paths), 'record')} have no row in {name}, e.g. '{printable(without[0])}'"
        logger.warning("%d of %s: read without report and labels of the table", len(without), example)


def _warn_about_similar_ids(items: Iterable[Item]) -> None:
    """Programs that read ids as numbers drop leading zeros: then one patient has two ids."""
    names: dict[str, set[str]] = defaultdict(set)
    for patient in {item.patient_id for item in items if item.patient_id}:
        names[patient.lstrip("0")].add(patient)
    similar = [sorted(ids) for ids in names.values() if len(ids) > 1]
    if similar:
        example = printable(" and ".join(similar[0]))
        count = _count(len(similar), "patient")
        logger.warning("%s may have two names, e.g. %s: zeros in front are lost in some programs", count, example)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _item(path: str, row: Row | None, headers: Mapping[str, _Header]) -> Item:
    header = headers.get(path, _Header())
    item = Item(
        id=printable(path.replace(os.sep, "/")),
        path=path,
        patient_id=header.patient_id,
        files=tuple(_files(path, headers)),
    )
    return _with_row(item, row) if row else item


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


def _with_row(item: Item, row: Row) -> Item:
    age = row.number_between("age", 0, MAX_AGE)
    texts = {"report": row.text("report"), "labels": row.text("labels"), "sex": row.word("sex", _SEXES)}
    return dataclasses.replace(
        item,
        patient_id=row.identifier("patient_id") or item.patient_id,
        fold=row.whole_number("fold", 0, MAX_FOLD),
        split=row.word("split", _SPLITS),
        details={name: text for name, text in texts.items() if text} | ({} if age is None else {"age": f"{age:g}"}),
    )
