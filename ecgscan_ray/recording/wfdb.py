"""WFDB records (PhysioNet's ``.hea`` with ``.dat`` or ``.mat``) as recordings.

Nothing is guessed: gain, rate and units come from the header, leads are identified by name and never by position, and each
segment of a record is read with its own header.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.header import read_header
from ecgscan_ray.recording.leads import LEADS, derive_limb_leads, lead_names
from ecgscan_ray.recording.recording import Recording, without_standstill
from ecgscan_ray.recording.samples import read_values
from ecgscan_ray.recording.segments import read_segments
from ecgscan_ray.recording.units import units_per_mv

_MAX_AGE = 130.0


@dataclass(frozen=True)
class Channels:
    """The signals of any WFDB record, ECG or not.

    Attributes:
        values: (n, T) float64 in ``units``, or in steps where the header gives no gain; NaN where missing.
        fs: Frames per second, Hz.
        names: As written in the header, ``None`` where absent.
        units: As written in the header (``mV`` where absent, as WFDB defines).
        gains: Steps per unit; ``None`` where the header gives none, or 0 (not calibrated).
        comments: Key (lower case) -> value of ``key: value`` comments.
    """

    values: NDArray[np.float64]
    fs: float
    names: list[str | None]
    units: list[str]
    gains: list[float | None]
    comments: dict[str, str]


def read_channels(path: str | Path) -> Channels:
    """Read all signals of a record.

    Args:
        path: Of the header, with or without ``.hea``.

    Raises:
        RecordingError: The header or a signal file is missing, damaged, not understood, or they disagree.
    """
    header = read_header(str(path).removesuffix(".hea"))
    if header.fs is None:
        fix = "Write the rate; WFDB's default of 250 Hz would be a guess."
        raise RecordingError("no sampling rate", reason="sampling_rate", where=f"{header.path}.hea", fix=fix)
    if header.segments:
        values, signals = read_segments(header)
    else:
        values, signals = read_values(header), header.signals
    return Channels(
        values=values,
        fs=header.fs,
        names=[signal.name for signal in signals],
        units=[signal.units for signal in signals],
        gains=[signal.gain for signal in signals],
        comments=header.comments,
    )


def read_wfdb(
    path: str | Path, *, id: str | None = None, source: str = "wfdb", patient_id: str | None = None
) -> Recording:
    """Read a 12-lead record.

    Leads are identified by name, in any case and order; other signals (Frank leads, pressures) are dropped. Records of
    eight leads (I, II, V1 to V6) are completed by the lead laws. Where all leads are constant for a second or more
    (padding, gaps), samples are missing. ``Age``, ``Sex``, ``Dx`` and ``Patient ID`` are taken from the
    header's comments.

    Args:
        path: Of the header, with or without ``.hea``.
        id: Of the recording; by default the file's name.
        source: Name of the archive.
        patient_id: Overrides the header's.

    Raises:
        RecordingError: The record cannot be read, is not calibrated in volts, or lacks a lead.
    """
    channels = read_channels(path)
    name = str(path).removesuffix(".hea")
    leads = _leads(channels, name)
    indices = list(leads.values())
    per_mv = np.array([_per_mv(channels, index, name) for index in indices])
    millivolts = dict(zip(leads, channels.values[indices] / per_mv[:, None], strict=True))
    steps = float(np.max(np.abs([channels.gains[index] or 1.0 for index in indices]) * per_mv))
    if len(leads) < len(LEADS):
        millivolts = derive_limb_leads(millivolts["I"], millivolts["II"]) | millivolts
        steps *= 2  # halves of a step
    comments = channels.comments
    return Recording(
        id=id or os.path.basename(name),
        source=source,
        patient_id=patient_id or comments.get("patient id") or None,
        signal_mv=without_standstill(np.stack([millivolts[lead] for lead in LEADS]).astype(np.float32), channels.fs),
        fs=channels.fs,
        labels=dict.fromkeys(_codes(comments.get("dx", "")), 100.0),
        age=parse_age(comments.get("age")),
        sex=parse_sex(comments.get("sex")),
        steps_per_mv=steps,
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
