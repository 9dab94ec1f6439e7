"""Labels as tables write them: ``NORM;SR``, ``['NORM', 'SR']`` or ``{'NORM': 100, 'SR': 0}``. Nothing is guessed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable

from ecgscan_ray.recording.values import cut_short, identifier

HOW = "Write NORM;SR, ['NORM', 'SR'], or {'NORM': 100, 'SR': 0} with likelihoods from 0 to 100"
_SEPARATORS = ";,|"
_BARE_KEY = re.compile(r"([{,]\s*)(\d+)(\s*:)")


def parse_labels(text: str) -> dict[str, float]:
    """Code -> likelihood in percent; 100 where the text states none.

    Codes are separated by semicolons, commas or bars, one kind throughout; blanks inside a code belong to it. Empty codes
    and words for a missing value are skipped; duplicate codes count once.

    Raises:
        ValueError: The text has none of these forms, or two likelihoods for one code.
    """
    try:
        return _parse(text.strip())
    except (
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:  # a likelihood that is a list, 400 digits, 10,000 brackets
        raise ValueError(type(error).__name__) from None


def _parse(text: str) -> dict[str, float]:
    if text.startswith("{"):
        return _mapping(text)
    if text.startswith("["):
        return _codes(_json(text))
    kinds = [separator for separator in _SEPARATORS if separator in text]
    if len(kinds) > 1:
        raise ValueError("codes are separated in several ways")
    codes = text.split(kinds[0]) if kinds else [text]
    if any(re.search(r'[\[\]{}"\n\r]|^\'|\'$', code.strip()) for code in codes):
        raise ValueError("quotation marks or brackets around codes")
    return _codes(codes)


def _codes(codes: object) -> dict[str, float]:
    if not isinstance(codes, list):
        raise ValueError("no list")
    return dict.fromkeys(_names(codes), 100.0)


def _names(codes: Iterable[object]) -> list[str]:
    if any(isinstance(code, bool) or not isinstance(code, str | int | float) for code in codes):
        raise ValueError("a code is neither text nor a number")
    names = [identifier(str(code)) for code in codes]
    if any(name and cut_short(name) for name in names):
        raise ValueError("a code is a number that was cut short")
    return [" ".join(name.split()) for name in names if name]


def _mapping(text: str) -> dict[str, float]:
    labels: dict[str, float] = {}
    content = _json(text)
    if not isinstance(content, dict):
        raise ValueError("no mapping")
    for code, value in content.items():
        if isinstance(value, bool):
            raise ValueError("a likelihood is no number")
        likelihood = float(value)
        if not (math.isfinite(likelihood) and 0 <= likelihood <= 100):
            raise ValueError(f"likelihood {value} of {code}")
        for name in _names([code]):
            if labels.setdefault(name, likelihood) != likelihood:
                raise ValueError(f"two likelihoods of {name}")
    return labels


def _json(text: str) -> object:
    """JSON, or what Python prints of lists and mappings.

    JSON is the stricter grammar: Python itself would join the two codes of ``['NORM' 'SR']``, which numpy prints.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError:
        spelled = _BARE_KEY.sub(r'\1"\2"\3', text.replace("'", '"'))
        return json.loads(spelled, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if any(mapping[code] != value for code, value in pairs):
        raise ValueError("two likelihoods of one code")
    return mapping
