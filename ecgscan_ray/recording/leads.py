"""Names and order of the twelve leads, and the four linear laws among the six limb leads."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The order of leads in every array of this package."""

MEASURED_LEADS: tuple[str, ...] = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The eight leads from which the lead laws give the other four."""

LEAD_LAWS: NDArray[np.float32] = np.array(
    [
        [1.0, -1.0, 1.0, 0.0, 0.0, 0.0] + [0.0] * 6,  # III = II - I
        [0.5, 0.5, 0.0, 1.0, 0.0, 0.0] + [0.0] * 6,  # aVR = -(I + II) / 2
        [-1.0, 0.5, 0.0, 0.0, 1.0, 0.0] + [0.0] * 6,  # aVL = I - II / 2
        [0.5, -1.0, 0.0, 0.0, 0.0, 1.0] + [0.0] * 6,  # aVF = II - I / 2
    ],
    dtype=np.float32,
)
"""(4, 12): ``LEAD_LAWS @ signal`` is 0 at every sample of a recording that obeys the laws."""

_CANONICAL = {lead.upper(): lead for lead in LEADS}
_LIMB = {"DI": "I", "DII": "II", "DIII": "III", "D1": "I", "D2": "II", "D3": "III"}
_IEC = {f"C{number}": f"V{number}" for number in range(1, 7)}
_NOTE = re.compile(r"[ _]*[(\[](?:[MU\u039c]V|EINTHOVEN|GOLDBERGER|WILSON)[)\]]$")
_PREFIX = re.compile(r"^(?:MDC[ _]+)?(?:E[CK]G[ _-]+)?(?:LEAD[ _-]*)?")
_SUFFIX = re.compile(r"[ _-]+LEAD$")
_GAP = re.compile(r"(?<=[A-Z])[ _-]+(?=[A-Z0-9])")


def lead_names(texts: Sequence[str | None]) -> list[str | None]:
    """The lead that each signal's description names, in any case and with the usual prefixes; ``None`` = no lead.

    ``"avr"``, ``"Lead II"``, ``"MDC_ECG_LEAD_V1"``, ``"ECG I"``, ``"V-1"``, ``"I (mV)"`` and ``"DII"`` are known; a
    Frank lead (``"vx"``), a negated lead (``"-aVR"``), a rhythm strip and anything else are not. ``C1`` to ``C6`` (IEC)
    are chest leads where all six are present and no V lead: C3 alone is an EEG electrode.
    """
    plain = [_plain(text or "") for text in texts]
    chest = set(plain) >= _IEC.keys() and not any(name in plain for name in _IEC.values())
    known = _CANONICAL | _LIMB | (_IEC if chest else {})
    return [known.get(name) for name in plain]


def _plain(text: str) -> str:
    """A description in capitals without comment, prefix, unit and separators."""
    name = _SUFFIX.sub("", _NOTE.sub("", text.partition("#")[0].strip().upper()))
    return _GAP.sub("", _PREFIX.sub("", name))


def lead_law_residual(signal_mv: NDArray[np.floating]) -> NDArray[np.float64]:
    """Residual of each law at each sample: (4, T) in mV, NaN where a lead of that law is missing.

    Args:
        signal_mv: (12, T) in the order of ``LEADS``, NaN where missing.
    """
    limb = np.asarray(signal_mv[:6], dtype=np.float64)
    laws = LEAD_LAWS[:, :6].astype(np.float64)
    missing = np.isnan(limb)
    if not missing.any():
        return laws @ limb
    residual = laws @ np.where(missing, 0.0, limb)
    residual[(np.abs(laws) @ missing) > 0] = np.nan
    return residual


def lead_residual_uv(signal_mv: NDArray[np.floating]) -> float:
    """Largest deviation from the four lead laws in uV; 0 where no law can be checked.

    Args:
        signal_mv: (12, T) in the order of ``LEADS``, NaN where missing.
    """
    residual = np.abs(lead_law_residual(signal_mv))
    return float(np.max(residual, initial=0.0, where=~np.isnan(residual)) * 1000.0)


def derive_limb_leads(lead_i: NDArray[np.float64], lead_ii: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """III, aVR, aVL and aVF from I and II (any equal shape and unit)."""
    return {
        "III": lead_ii - lead_i,
        "aVR": -(lead_i + lead_ii) / 2,
        "aVL": lead_i - lead_ii / 2,
        "aVF": lead_ii - lead_i / 2,
    }
