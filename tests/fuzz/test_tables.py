"""Mutated tables of recordings, of the shapes that programs write, through what ``prepare`` lists and reads of them.

A changed letter of a report or a digit of an age is another table, as good as the first; the share is printed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray.recording.sources import open_source
from ecgscan_ray.recording.sources.labels import parse_labels
from ecgscan_ray.recording.sources.ptbxl import parse_codes
from ecgscan_ray.recording.sources.source import Item
from tests.fuzz.harness import fuzz, mutate
from tests.records import heart_uv, list_items, write_record

pytestmark = pytest.mark.verify

_NAMES = ("a", "b", "deep/c", "deep/d")
_HEAD = ("record", "patient_id", "report", "labels", "age", "sex", "fold", "split")
_ROWS = (
    ("a", "48705.0", "sinus rhythm, normal ECG", "NORM;SR", "56", "female", "1", ""),
    ("b.hea", "7", 'so-called "T wave"\nchanges', "['NORM', 'SR']", "60.5", "M", "9.0", "val"),
    ("deep/c", "nan", "nan", "{'MI': 80.0, 'SR': 0.0}", "", "", "10", "test"),
    ("deep\\d", "ä-12", "Übergang", "AFIB", "71", "f", "2", "train"),
)
_PTBXL_HEAD = ["ecg_id", "patient_id", "age", "sex", "report", "scp_codes", "strat_fold", "filename_lr", "filename_hr"]
_PTBXL_ROWS = tuple(
    (
        str(k),
        f"{k}.0",
        "300.0",
        "1",
        "f#r, sinus",
        "{'NORM': 100.0}",
        str(k),
        f"records100/{k}_lr",
        f"records500/{k}_hr",
    )
    for k in range(1, 5)
)


def _text(head: tuple[str, ...] | list[str], rows: tuple, separator: str, end: str = "\n") -> str:
    def field(text: str) -> str:
        special = any(letter in text for letter in (separator, '"', "\n", "\r"))
        quoted = text.replace('"', '""')
        return f'"{quoted}"' if special else text

    return "".join(separator.join(map(field, row)) + end for row in (head, *rows))


_SHAPES = {
    "commas": _text(_HEAD, _ROWS, ",").encode(),
    "semicolons": ("\ufeffsep=;\r\n" + _text(_HEAD, _ROWS, ";", "\r\n")).encode(),
    "tabs": _text(_HEAD, _ROWS, "\t", "\r\n").encode("utf-16"),
    "ptbxl": _text(_PTBXL_HEAD, _PTBXL_ROWS, ",").encode(),
}


_PIECES = (
    ",",
    ";",
    "\t",
    '"',
    '""',
    "'",
    "\n",
    "\r",
    " ",
    "nan",
    "-1",
    "inf",
    "1e9",
    "0",
    ".0",
    "../",
    "\\",
    "{",
    "]",
    "ü",
    "record",
)


def _edit(text: str, rng: np.random.Generator) -> str:
    """One to three slips of a hand: a piece typed, deleted or exchanged for another, a row doubled or lost."""
    for _ in range(int(rng.integers(1, 4))):
        at, piece = int(rng.integers(len(text))), _PIECES[int(rng.integers(len(_PIECES)))]
        lines = text.splitlines(keepends=True)
        match int(rng.integers(5)):
            case 0:
                text = text[:at] + piece + text[at:]
            case 1:
                text = text[:at] + piece + text[at + len(piece) :]
            case 2:
                text = text[:at] + text[at + int(rng.integers(1, 4)) :]
            case 3:
                text = "".join([*lines, lines[int(rng.integers(len(lines)))]])
            case _:
                del lines[int(rng.integers(len(lines)))]
                text = "".join(lines) or text
    return text


def _mutant(shape: str, number: int) -> bytes:
    """Every second one by slips of a hand, the others by damage."""
    rng, table = np.random.default_rng([number, len(shape)]), _SHAPES[shape]
    if number % 2:
        return mutate(table, rng)
    encoding = "utf-16" if shape == "tabs" else "utf-8"
    return _edit(table.decode(encoding), rng).encode(encoding)


def _make(shape: str, number: int, folder: Path) -> Path:
    root = folder / shape
    if not root.exists():
        for name in _NAMES:
            write_record(root / Path(name).parent, Path(name).name, heart_uv(seconds=3))
        (root / "records100").mkdir()
        (root / "scp_statements.csv").write_text(",diagnostic_class\nNORM,NORM\n")
    table = root / ("ptbxl_database.csv" if shape == "ptbxl" else "recordings.csv")
    table.write_bytes(_mutant(shape, number))
    return root


def make_commas(number: int, folder: Path) -> Path:
    return _make("commas", number, folder)


def make_semicolons(number: int, folder: Path) -> Path:
    return _make("semicolons", number, folder)


def make_tabs(number: int, folder: Path) -> Path:
    return _make("tabs", number, folder)


def make_ptbxl(number: int, folder: Path) -> Path:
    return _make("ptbxl", number, folder)


def _meaning(items: list[Item]) -> list[object]:
    """What the table says, labels understood; and that it stays within the archive and can be stored."""
    meanings: list[object] = []
    for item in items:
        labels = item.details.get("labels", item.details.get("scp_codes", ""))
        try:
            codes = (parse_codes if "scp_codes" in item.details else parse_labels)(labels) if labels else {}
        except ValueError:  # this recording's own reason
            codes = {"": -1.0}
        assert ".." not in Path(item.path).parts and item.id.isprintable()
        assert all(0 <= likelihood <= 100 for code, likelihood in codes.items() if code)
        details = {key: text for key, text in item.details.items() if key not in ("labels", "scp_codes", "fault")}
        meanings.append((item.id, item.patient_id, item.fold, item.split, details, codes))
    return meanings


@cache
def _expected(root: Path, source: str) -> list[object]:
    table = root / ("ptbxl_database.csv" if source == "ptbxl" else "recordings.csv")
    mutant = table.read_bytes()
    table.write_bytes(_SHAPES[root.name])
    expected = _meaning(list_items(open_source(source), root))
    table.write_bytes(mutant)
    return expected


def attempt(root: Path) -> str:
    """List the archive; the good table is listed once for comparison."""
    source = "ptbxl" if root.name == "ptbxl" else "folder"
    expected = _expected(root, source)
    items = list_items(open_source(source), root)
    assert not any(item.path.startswith("/") for item in items)
    return "same" if _meaning(items) == expected else "other"


@pytest.mark.parametrize(
    ("name", "make"),
    [("commas", make_commas), ("semicolons", make_semicolons), ("tabs", make_tabs), ("ptbxl", make_ptbxl)],
)
def test_mutated_tables(tmp_path: Path, name: str, make) -> None:
    tally = fuzz(f"tables, {name}", make, attempt, 500, tmp_path)
    assert not tally.findings, tally.findings[:5]
    assert tally.outcomes["refused"] > 100
