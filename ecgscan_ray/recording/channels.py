"""The signals of one file, ECG or not, and the twelve leads among them.

Nothing is guessed: gain, rate and units are the file's or stated by the user, leads are identified by name and never by
position.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.leads import LEADS, derive_limb_leads, lead_names
from ecgscan_ray.recording.recording import Recording, without_standstill
from ecgscan_ray.recording.units import units_per_mv

_MAX_AGE = 130.0


@dataclass(frozen=True)
class Channels:
    """The signals of any file.

    Attributes:
        values: (n, T) float64 in ``units``, or in steps where the file gives no gain; NaN where missing.
        fs: Frames per second, Hz.
        names: As written in the file, ``None`` where absent.
        units: As written in the file.
        gains: Steps per unit; ``None`` where the file gives none, or 0 (not calibrated), infinite where samples are no steps.
        comments: Key (lower case) -> value: ``age``, ``sex``, ``dx`` and ``patient id`` are used.
    """

    values: NDArray[np.float64]
    fs: float
    names: list[str | None]
    units: list[str]
    gains: list[float | None]
    comments: dict[str, str] = field(default_factory=dict)


def to_recording(channels: Channels, *, where: str, id: str, source: str, patient_id: str | None = None) -> Recording:
    """The twelve leads of a file's signals.

    Leads are identified by name, in any case and order; other signals (Frank leads, pressures) are dropped. Files of
    eight leads (I, II, V1 to V6) are completed by the lead laws, which is noted. Where all leads are constant for a
    second or more (padding, gaps), samples are missing.

    Args:
        channels: Of the file.
        where: The file, for errors.
        id: Of the recording.
        source: Name of the archive.
        patient_id: Overrides the file's.

    Raises:
        RecordingError: The signals are not calibrated in volts, or a lead is missing or there twice.
    """
    leads = _leads(channels, where)
    indices = list(leads.values())
    per_mv = np.array([_per_mv(channels, index, where) for index in indices])
    millivolts = dict(zip(leads, channels.values[indices] / per_mv[:, None], strict=True))
    steps = float(np.max(np.abs([channels.gains[index] or 1.0 for index in indices]) * per_mv))
    notes: tuple[str, ...] = ()
    if len(leads) < len(LEADS):
        derived = derive_limb_leads(millivolts["I"], millivolts["II"])
        notes = (f"derived from I and II: {', '.join(lead for lead in derived if lead not in leads)}",)
        millivolts = derived | millivolts
        steps *= 2  # halves of a step
    comments = channels.comments
    return Recording(
        id=id,
        source=source,
        patient_id=patient_id or comments.get("patient id") or None,
        signal_mv=without_standstill(np.stack([millivolts[lead] for lead in LEADS]).astype(np.float32), channels.fs),
        fs=channels.fs,
        labels=dict.fromkeys(_codes(comments.get("dx", "")), 100.0),
        age=parse_age(comments.get("age")),
        sex=parse_sex(comments.get("sex")),
        steps_per_mv=steps if np.isfinite(steps) else None,
        notes=notes,
    )


def parse_age(text: str | None) -> float | None:
    """Years, or ``None`` where the text is no plausible age."""
    try:
        age = float(text or "nan")
    except ValueError:
        return None
    return age if 0 <= age <= _MAX_AGE else None


def parse_sex(text: str | None) -> str | None:
    """``male``, ``female`` or ``None``, from words or initials in any case."""
    return {"m": "male", "male": "male", "f": "female", "female": "female"}.get((text or "").strip().lower())


def _codes(text: str) -> list[str]:
    return [code for part in text.split(",") if (code := part.strip()) not in ("", "Unknown")]


def _leads(channels: Channels, name: str) -> dict[str, int]:
    """Lead -> index of its signal."""
    names = lead_names(channels.names)
    leads = {lead: index for index, lead in enumerate(names) if lead}
    if doubled := [lead for lead, count in Counter(names).items() if lead and count > 1]:
        raise RecordingError(f"two signals are called {doubled[0]}", reason="duplicate_lead", where=name)
    unknown = [text or "(no name)" for text, lead in zip(channels.names, names, strict=True) if lead is None]
    others = ", ".join(text[:40] for text in dict.fromkeys(unknown))[:200]
    if not leads:
        raise RecordingError(f"not a 12-lead ECG: its signals are called {others}", reason="not_12_lead", where=name)
    derivable = {"III", "aVR", "aVL", "aVF"} if {"I", "II"} <= set(leads) else set()
    missing = [lead for lead in LEADS if lead not in leads and lead not in derivable]
    if missing:
        problem = f"missing lead{'s' * (len(missing) > 1)} {', '.join(missing)}"
        problem += f"; not understood: {others}" if others else ""
        raise RecordingError(problem, reason="missing_lead", where=name, fix=f"It has {', '.join(leads)}.")
    return leads


def _per_mv(channels: Channels, index: int, name: str) -> float:
    """A signal's units per millivolt."""
    units, text = channels.units[index], channels.names[index]
    if channels.gains[index] is None:
        problem = f"signal {text} is not calibrated: its header gives no gain"
        raise RecordingError(problem, reason="not_calibrated", where=name, fix="Write the gain, e.g. 1000/mV.")
    per_mv = units_per_mv(units)
    if per_mv is None:
        raise RecordingError(f"signal {text} is in {units[:20]}, not in volts", reason="units", where=name)
    return per_mv
