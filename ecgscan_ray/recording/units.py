"""Units of voltage, as headers write them."""

from __future__ import annotations

_MICRO = ("\u00b5", "\u03bc", "\u00e2\u00b5", "\u00ee\u00bc", "\u00e6", "\u00ec")
"""The micro sign and the Greek letter, in lower case: as such, read as Latin-1 though written in UTF-8, and read as
Latin-1 though written in code page 437 or in Greek."""
_PER_MV = {
    "v": 1e-3,
    "volt": 1e-3,
    "mv": 1.0,
    "millivolt": 1.0,
    "uv": 1e3,
    "microvolt": 1e3,
    "nv": 1e6,
    "nanovolt": 1e6,
}


def units_per_mv(units: str) -> float | None:
    """Units per millivolt; ``None`` where they are no voltage.

    Args:
        units: ``mV``, ``uV``, ``\u00b5V``, ``V``, ``microvolts`` and so on, in any case.
    """
    text = units.strip().lower()
    if text.removesuffix("v") in _MICRO:
        return _PER_MV["uv"]
    return _PER_MV.get(text.removesuffix("s"))
