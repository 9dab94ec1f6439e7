"""The table of one's own archive: found, matched with the files, and each row's meaning."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import math
import os
import re
import unicodedata
from collections.abc import Container, Iterable, Iterator

from ecgscan_ray.errors import InputError, printable
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources.disk_dict import DiskDict
from ecgscan_ray.recording.sources.folder_files import ENDINGS, Found
from ecgscan_ray.recording.sources.folder_settings import COLUMNS, SETTINGS, FolderSettings, TableSettings
from ecgscan_ray.recording.sources.source import Item
from ecgscan_ray.recording.sources.table import Row, Table, column_names, read_table
from ecgscan_ray.recording.values import plain

logger = logging.getLogger(__name__)

TABLE = "recordings.csv"
MAX_AGE, MAX_FOLD = 130, 9999
_CRITICAL_COLUMNS = ("patient_id", "report", "labels", "fold", "split")
"""A column with nearly such a name is refused: ignoring it would change training or the test split."""
_ONE_LETTER = 0.82
"""Similarity of words of six letters that differ in one."""
_ENDING = re.compile(rf"({'|'.join(map(re.escape, (*ENDINGS, '.dat', '.mat')))})$", re.IGNORECASE)
_MOST_FILES = 8
"""Named where they are not used."""
_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
_SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}


def find_table(archive: ArchiveFiles, settings: FolderSettings) -> Table | None:
    """The table of recordings, if there is one: the one stated, ``recordings.csv``, or the only one with a column ``record``.

    Where arrays are stated, CSV files are arrays, and only the first two count.

    Raises:
        InputError: There are several, or it is malformed.
    """
    name = settings.table.file or _table_name(archive, settings.table, settings.arrays is not None)
    if name is None:
        return None
    read = read_table(archive, name, ("record",), settings.table.form(), latin_1=True)
    if read.separator != "commas":
        logger.info("%s is separated by %s", name, read.separator)
    return read


def _table_name(archive: ArchiveFiles, settings: TableSettings, arrays: bool) -> str | None:
    files = [name for name in archive.names_at_top() if name.endswith(".csv")]
    if TABLE in files or arrays:
        return TABLE if TABLE in files else None
    record, form = settings.columns.get("record", "record").strip().lower(), settings.form()
    tables = [name for name in files if record in column_names(archive, name, record, form)]
    if len(tables) > 1:
        fix = f"Call the table of recordings {TABLE}, or name it in {SETTINGS}."
        names = ", ".join(tables)
        raise InputError(f"several CSV files have a column {record} ({names})", where=archive.root, fix=fix)
    _report_other_files(archive, [name for name in files if name not in tables], record)
    return tables[0] if tables else None


def _report_other_files(archive: ArchiveFiles, files: list[str], record: str) -> None:
    for file in files[:_MOST_FILES]:
        names = ", ".join(name for name in column_names(archive, file, record)[:8] if name) or "no readable header"
        logger.warning("%s has no column '%s' (it has %s) and is not used", file, record, printable(names))
    if len(files) > _MOST_FILES:
        logger.warning("%d more CSV files are not used", len(files) - _MOST_FILES)
    stem = TABLE.removesuffix(".csv")
    for file in archive.names_at_top():
        if file.startswith(f"{stem}.") and file.lower().endswith((".xlsx", ".xls", ".ods", ".tsv", ".txt")):
            logger.warning("%s is not read; save it as %s", file, TABLE)


def report_unused_columns(table: Table) -> None:
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


def rows_by_record(table: Table, records: Container[str]) -> DiskDict[Row]:
    """Record -> its row, without columns that are not used; equal rows count once.

    Raises:
        InputError: A row names no record, or one outside the folder, or two rows name the same.
    """
    rows = DiskDict[Row]()
    for row in table.rows:
        record = _record(row, records)
        other = rows.get(record)
        if other is None:
            used = {column: text for column, text in row.values.items() if column in COLUMNS}
            rows[record] = dataclasses.replace(row, values=used)
        elif _used(other) != _used(row):
            fix = "Keep one of them."
            raise InputError(f"rows {other.number} and {row.number} are both of {record}", where=table.path, fix=fix)
        _refuse_swallowed(row, table.columns.index("record"), records)
    return rows


def _used(row: Row) -> list[str]:
    return [row.text(column) for column in COLUMNS[1:]]


def _record(row: Row, records: Container[str]) -> str:
    """The record that a row names in any spelling: with an ending, backslashes, ``./`` or outer blanks."""
    text = unicodedata.normalize("NFC", row.values["record"])
    exact, trimmed = (os.path.normpath(name.replace("\\", "/")) for name in (text, plain(text)))
    record = next((name for name in (exact, trimmed) if name in records), os.path.normpath(_ENDING.sub("", trimmed)))
    if not text.strip() or record == ".":
        row.refuse("names no record", "Write its path from the folder, without ending.")
    if record.startswith("/") or record.split("/")[0] == ".." or re.match(r"[A-Za-z]:/", record):
        row.refuse(f"record '{text[:100]}' is outside the folder", "Paths in the table start at the folder.")
    return record


def _refuse_swallowed(row: Row, column: int, records: Container[str]) -> None:
    """An unbalanced quotation mark joins rows: a line inside a field then looks like the row of a record of this folder."""
    lines = (line for value in row.values.values() for line in value.splitlines()[1:])
    for fields in (re.split(r"[,;\t]", line) for line in lines):
        name = _ENDING.sub("", fields[column].strip(' "')) if len(fields) > max(column, 1) else ""
        if name in records:
            fix = 'Is a quotation mark (") missing, or one too many?'
            row.refuse(f"holds the row of {name} inside a quotation", fix)


def match(table: Table, rows: DiskDict[Row], records: DiskDict[Found]) -> None:
    """Log which rows have no file, and which files no row.

    Raises:
        InputError: No row has a file.
    """
    absent, first = 0, ("", 0)
    for record, row in rows.stream():
        if record not in records:
            absent, first = absent + 1, min(first, (record, row.number), key=lambda pair: pair[1] or math.inf)
    without, example = 0, ""
    for record in records:
        if record not in rows:
            without, example = without + 1, example or printable(record)
    if absent:
        of_row = f"e.g. '{printable(first[0])}' in row {first[1]}"
        if absent == len(rows):
            here = f"; here is '{example}'" if without else ""
            fix = f"The column holds each record's path from the folder, without ending{here}."
            raise InputError(f"no row names a record that is here, {of_row}", where=table.path, fix=fix)
        logger.warning("%s: %d of %s name no record here, %s", table.name, absent, _count(len(rows), "row"), of_row)
    if without:
        of_record = f"{_count(len(records), 'record')} have no row in {table.name}, e.g. '{example}'"
        logger.warning("%d of %s: read without report and labels of the table", without, of_record)


def with_warning_of_similar_ids(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, and a line after the last: programs that read ids as numbers drop leading zeros."""
    names = DiskDict[tuple[str, ...]]()
    similar, example = 0, ""
    for item in items:
        yield item
        number = (item.patient_id or "").lstrip("0")
        known = names.get(number, ())
        if item.patient_id and item.patient_id not in known:
            names[number] = known = (*known, item.patient_id)
            if len(known) == 2:
                similar, example = similar + 1, example or printable(" and ".join(sorted(known)))
    if similar:
        count = _count(similar, "patient")
        logger.warning("%s may have two names, e.g. %s: zeros in front are lost in some programs", count, example)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def with_row(item: Item, row: Row) -> Item:
    """An item with what its row says.

    Raises:
        InputError: A value is not understood.
    """
    age = row.number_between("age", 0, MAX_AGE)
    texts = {"report": row.text("report"), "labels": row.text("labels"), "sex": row.word("sex", _SEXES)}
    return dataclasses.replace(
        item,
        patient_id=row.identifier("patient_id") or item.patient_id,
        fold=row.whole_number("fold", 0, MAX_FOLD),
        split=row.word("split", _SPLITS),
        details=item.details
        | {name: text for name, text in texts.items() if text}
        | ({} if age is None else {"age": f"{age:g}"}),
    )
