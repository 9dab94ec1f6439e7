"""Tables from archives, people and spreadsheets: a CSV file is parsed completely, or refused with file and row.

Rows are numbered as in a spreadsheet: the header is row 1, and empty rows count.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import NoReturn

from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources.table_encoding import checked_encoding, encoding_by_mark, open_text
from ecgscan_ray.recording.values import cut_short, identifier, nothing, plain

logger = logging.getLogger(__name__)

MAX_FIELD = 1_000_000
"""Characters of one field; the longest real reports have a few thousand."""

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_BLANKS = " \t\r\n\f\v\u00a0\ufeff"
_TOO_FEW = "Is a separator or a quotation mark missing?"
_CORRECT = "Correct it, or leave it empty."
_SEPARATOR_LINE = re.compile(r'"?sep=(?P<delimiter>[,;\t])"?(?:\r\n|\r|\n)', re.IGNORECASE)
"""First line that Excel understands and other programs do not."""


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        table: File, for errors.
        number: As in a spreadsheet.
        values: Column (lower case, without outer blanks) -> text as written.
    """

    table: str
    number: int
    values: Mapping[str, str]

    def text(self, column: str) -> str:
        """Without outer blanks; empty where the column is absent or the text means a missing value."""
        value = plain(self.values.get(column, ""))
        return "" if nothing(value) else value

    def identifier(self, column: str) -> str | None:
        """See ``identifier``.

        Raises:
            InputError: A spreadsheet has cut the number short.
        """
        text = self.text(column)
        if cut_short(text):
            self.refuse(f"{column} '{text}' is a number that was cut short", "Store the column as text.")
        return identifier(text)

    def number_between(self, column: str, low: float, high: float) -> float | None:
        """A number, also with a decimal comma; ``None`` where there is none.

        Raises:
            InputError: The text is no number from ``low`` to ``high``.
        """
        text = self.text(column)
        if not text:
            return None
        try:
            number = float(re.sub(r"^(\d+),(\d{1,2})$", r"\1.\2", text))
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            self.refuse(f"{column} '{text[:60]}' is not a number from {low:g} to {high:g}", _CORRECT)
        return number

    def whole_number(self, column: str, low: int, high: int) -> int | None:
        """As ``number_between``, without a fraction: ``3`` and ``3.0`` are 3."""
        number = self.number_between(column, low, high)
        if number is not None and number != int(number):
            self.refuse(f"{column} '{self.text(column)}' is not a whole number", _CORRECT)
        return None if number is None else int(number)

    def word(self, column: str, meanings: Mapping[str, str]) -> str | None:
        """The meaning of a word in any case; ``None`` where there is none.

        Raises:
            InputError: The word is not among ``meanings``.
        """
        text = self.text(column)
        if text and text.lower() not in meanings:
            fix = f"Use {', '.join(meanings)}, or leave it empty."
            self.refuse(f"{column} '{text[:60]}' is not understood", fix)
        return meanings[text.lower()] if text else None

    def refuse(self, problem: str, fix: str) -> NoReturn:
        """Raise an ``InputError`` that names file and row."""
        raise InputError(f"row {self.number}: {problem}", where=self.table, fix=fix)


@dataclass(frozen=True)
class Form:
    """What a user states of a table; the rest is found out.

    Attributes:
        encoding: As Python calls it, e.g. ``cp1252``.
        separator: One letter.
        columns: Our name of a column -> the table's.
        values: Our name of a column -> text in the table, in any case -> what it means.
    """

    encoding: str | None = None
    separator: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def renamed(self, path: str, columns: list[str]) -> list[str]:
        """The table's columns under our names.

        Raises:
            InputError: A stated column is not there.
        """
        our_names = {stated.strip().lower(): name for name, stated in self.columns.items()}
        if absent := sorted(our_names.keys() - set(columns)):
            fix = f"It has {', '.join(columns)[:500]}."
            raise InputError(f"no column '{absent[0]}', which recordings.yaml names", where=path, fix=fix)
        return [our_names.get(name, name) for name in columns]

    def meaning(self, column: str, text: str) -> str:
        """A value as stated, else as written."""
        return self.values[column].get(text.strip().lower(), text) if column in self.values else text


_PLAIN = Form()


@dataclass(frozen=True)
class Table:
    """A CSV file.

    Attributes:
        path: Its whole name.
        columns: In the file's order, in lower case without outer blanks; empty where unnamed.
        separator: In words: ``commas``, ``semicolons``, ``tabs``; another one as it is.
        rows: Without empty ones; they can be passed through once, and one at a time is in memory.
    """

    path: str
    columns: list[str]
    separator: str
    rows: Iterator[Row]

    @property
    def name(self) -> str:
        """Of the file, without its folder."""
        return self.path.rpartition("/")[2]


def read_table(
    archive: ArchiveFiles, name: str, required: tuple[str, ...], form: Form = _PLAIN, latin_1: bool = False
) -> Table:
    """A CSV file, separated by commas, semicolons or tabs unless ``form`` states otherwise.

    It is in UTF-8 or (with a byte order mark) UTF-16. Its encoding is looked at before; faults of a row are raised when it comes.

    Args:
        archive: In which it lies.
        name: Of the file, from the archive's root.
        required: Columns that must exist; they also decide the separator.
        form: What the user states of it.
        latin_1: Read a file that cannot be UTF-8 and is text in Latin-1 as that, and say so.

    Raises:
        InputError: A row has more or fewer fields than the header, a quotation does not end, a column is missing or
            doubled, the encoding is another one, a field is longer than ``MAX_FIELD``, or there are no rows.
    """
    path, encoding = archive.uri(name), checked_encoding(archive, name, form.encoding, latin_1)
    with open_text(archive, name, encoding) as text:
        start = text.read(2 * MAX_FIELD).removeprefix("\ufeff")
    stated = tuple(form.columns.get(column, column).strip().lower() for column in required)
    columns, delimiter = _header(path, start, stated, form.separator)
    columns = form.renamed(path, columns)
    _check_columns(path, columns, required)
    rows = _stream(archive, name, encoding, columns, delimiter, form)
    first = next(rows, None)
    if first is None:
        raise InputError(
            "the table has no rows", where=path, fix="Write one row for each recording, or remove the file."
        )
    return Table(path, columns, _DELIMITERS.get(delimiter, f"'{delimiter}'"), chain([first], rows))


def _stream(
    archive: ArchiveFiles, name: str, encoding: str, columns: list[str], delimiter: str, form: Form
) -> Iterator[Row]:
    path = archive.uri(name)
    with open_text(archive, name, encoding) as text:
        records = _records(path, _without_mark(text), delimiter)
        next(records)  # the header
        yield from _rows(path, columns, records, form)


def _without_mark(lines: Iterable[str]) -> Iterator[str]:
    lines = iter(lines)
    yield next(lines, "").removeprefix("\ufeff")
    yield from lines


def stream_rows(archive: ArchiveFiles, name: str, required: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a published archive's table (UTF-8, commas), one in memory at a time; errors as ``read_table``."""
    path = archive.uri(name)
    with open_text(archive, name, "utf-8-sig") as text:
        records = _records(path, _lines(path, text), ",")
        columns = [field.strip(_BLANKS).lower() for field in next(records, (0, list[str]()))[1]]
        _check_columns(path, columns, required)
        yield from _rows(path, columns, records, _PLAIN)


def _lines(path: str, text: io.TextIOWrapper) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(text, 1):
            if "\0" in line:
                raise InputError(f"a zero byte in line {number}: damaged", where=path)
            yield line
    except UnicodeDecodeError:
        raise InputError(f"not in UTF-8 after line {number}", where=path) from None


def _check_columns(path: str, columns: list[str], required: tuple[str, ...]) -> None:
    doubled = sorted({name for name in columns if name and columns.count(name) > 1})
    if doubled:
        raise InputError(f"two columns are called {', '.join(doubled)}", where=path, fix="Rename or delete one.")
    missing = [name for name in required if name not in columns]
    if missing:
        names = ", ".join(name or "one without a name" for name in columns)
        raise InputError(f"no column {', '.join(missing)}", where=path, fix=f"It has {names[:500]}.")


def column_names(archive: ArchiveFiles, name: str, wanted: str, form: Form = _PLAIN) -> list[str]:
    """The columns of a CSV file in any encoding, as in ``Table``; empty where it cannot be read as a table.

    Args:
        archive: In which it lies.
        name: Of the file, from the archive's root.
        wanted: Column that decides the separator, in lower case.
        form: What the user states of it.
    """
    try:
        data = archive.read(name, MAX_FIELD)
        text = data.decode(form.encoding or encoding_by_mark(data), errors="replace")
        return _header(archive.uri(name), text, (wanted,), form.separator)[0]
    except (OSError, InputError):
        return []


def _rows(path: str, columns: list[str], records: Iterator[tuple[int, list[str]]], form: Form) -> Iterator[Row]:
    for number, fields in records:
        if len(fields) != len(columns):
            more = len(fields) > len(columns)
            fix = 'Put a field that contains the separator into quotation marks ("...").' if more else _TOO_FEW
            counts = f"{len(fields)} field{'s' * (len(fields) != 1)}, the header has {len(columns)}"
            raise InputError(f"row {number}: {counts}", where=path, fix=fix)
        pairs = zip(columns, fields, strict=True)
        yield Row(path, number, {column: form.meaning(column, text) for column, text in pairs})


def _header(path: str, text: str, required: tuple[str, ...], separator: str | None = None) -> tuple[list[str], str]:
    """Names of the columns, and the separator: the one that shows the required columns, else the most columns."""
    line = _SEPARATOR_LINE.match(text)
    stated = separator or (line and line["delimiter"])
    candidates: list[tuple[list[str], str]] = []
    faults: list[InputError] = []
    for delimiter in [stated] if stated else _DELIMITERS:
        try:
            start = io.StringIO(text[: 2 * MAX_FIELD], newline="")
            _, fields = next(_records(path, start, delimiter), (0, list[str]()))
        except InputError as fault:  # quotations end only at the right separator
            faults.append(fault)
            continue
        candidates.append(([field.strip(_BLANKS).lower() for field in fields], delimiter))
    if not candidates:
        raise faults[0]
    return max(candidates, key=lambda candidate: (set(required) <= set(candidate[0]), len(candidate[0])))


def _records(path: str, lines: Iterable[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, with their numbers; the header is the first of them."""
    lines = iter(lines)
    first, number = next(lines, ""), 0
    if stated := _SEPARATOR_LINE.match(first):
        first, number = first[stated.end() :], 1
    reader = csv.reader(chain([first] if first else [], lines), delimiter=delimiter, strict=True)
    before = csv.field_size_limit(MAX_FIELD)
    try:
        for fields in reader:
            number += 1
            if any(field.strip() for field in fields):
                yield number, fields
    except csv.Error as error:
        raise InputError(f"row {number + 1}: {_explained(error)}", where=path) from None
    finally:
        csv.field_size_limit(before)


def _explained(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end" in text:
        return 'a quotation (") is opened and never closed'
    if "expected after" in text:
        return 'text after a closed quotation; write a quotation mark inside a quotation twice ("")'
    if "field larger" in text:
        return f"a field of more than {MAX_FIELD:,} characters; is a quotation mark missing?"
    return f"not readable as CSV ({text})"
