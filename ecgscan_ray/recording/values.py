"""Single values of tables: words for a missing value, and numbers that are names."""

from __future__ import annotations

import re
import unicodedata

NOTHING = frozenset(("", "-", "?", "nan", "<na>", "#n/a", "n/a", "na", "nat", "none", "null", "nil", "unknown"))
"""Spellings of a missing value, in lower case."""

_WHOLE_AS_FLOAT = re.compile(r"(-?\d+)\.0+")
_FORMULA = re.compile(r'=\(?"([^"]*)"\)?')
_CUT_SHORT = re.compile(r"\d(?:[.,]\d+)?[eE]\+\d+")


def plain(text: str) -> str:
    """The text without outer blanks, and without the formula that protects a number in spreadsheets: ``="00123"``."""
    text = text.strip()
    formula = _FORMULA.fullmatch(text)
    return formula.group(1).strip() if formula else text


def nothing(text: str) -> bool:
    """Whether a text means a missing value: empty, ``nan``, ``None``, ``N/A``, ..."""
    return text.strip().lower() in NOTHING


def identifier(text: str | None) -> str | None:
    """A name or number in one spelling: ``48705.0`` (from programs that know numbers only) is ``48705``.

    Returns:
        ``None`` where the text means a missing value.
    """
    name = unicodedata.normalize("NFC", plain(text or ""))
    whole = _WHOLE_AS_FLOAT.fullmatch(name)
    return None if nothing(name) else whole.group(1) if whole else name


def cut_short(text: str) -> bool:
    """Whether a number was printed with fewer digits than it has, as spreadsheets do: ``1.23E+10``."""
    return _CUT_SHORT.fullmatch(text) is not None
