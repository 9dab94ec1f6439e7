"""WFDB records (PhysioNet's ``.hea`` with ``.dat`` or ``.mat``) as recordings.

The package ``wfdb`` reads the samples. What it guesses is checked here against the header's own words: a gain that is
absent or 0 (it would assume 200), a signal file cut short, units other than mV, leads by name and never by position.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb
from numpy.typing import NDArray

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.format16 import read_plain
from ecgscan_ray.recording.leads import LEADS, derive_limb_leads, lead_name
from ecgscan_ray.recording.recording import Recording

_UNITS_PER_MV = {"v": 1e-3, "mv": 1.0, "uv": 1e3, "\u00b5v": 1e3, "\u03bcv": 1e3, "nv": 1e6}
_BYTES = {"8": 1.0, "80": 1.0, "16": 2.0, "61": 2.0, "160": 2.0, "212": 1.5, "24": 3.0, "32": 4.0}
"""Format -> bytes a sample, where that is fixed."""
_SIGNAL_LINE = re.compile(
    r"^(?P<file>\S+)\s+(?P<fmt>\d+)(?:x(?P<spf>\d+))?(?::\d+)?(?:\+(?P<offset>\d+))?(?P<rest>.*)$"
)
_GAIN = re.compile(r"^\s+(?P<gain>[-+]?[\d.]+(?:[eE][-+]?\d+)?)")
_COMMENT = re.compile(r"^\s*([A-Za-z][A-Za-z _]*?)\s*:\s*(.*?)\s*$")
_MAX_AGE = 130.0


@dataclass(frozen=True)
class Channels:
    """The signals of any WFDB record, ECG or not.

    Attributes:
        values: (n, T) float64 in ``units``, NaN where missing.
        fs: Frames a second, Hz.
        names: As written in the header, ``None`` where absent.
        units: As written in the header (``mV`` where absent, as WFDB defines).
        gains: Steps a unit; ``None`` where the header gives none, or 0 (not calibrated).
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
        RecordingError: The header or a signal file is missing, damaged or shorter than promised.
    """
    record_path = str(path).removesuffix(".hea")
    header = _read_header(record_path)
    _check_files(record_path, header)
    if plain := read_plain(record_path, header):
        comments = _comments(_comment_lines(record_path))
        return Channels(plain.values, plain.fs, [*plain.names], plain.units, [*plain.gains], comments)
    try:
        record = wfdb.rdrecord(record_path)
    except Exception as error:  # wfdb raises many kinds; all mean that this record cannot be read
        raise _translated(error, record_path) from None
    values = np.asarray(record.p_signal, dtype=np.float64).T
    if record.sig_len is not None and values.shape[1] != record.sig_len:
        raise _truncated(record_path, f"{values.shape[1]} of {record.sig_len} samples")
    uncalibrated = _uncalibrated(header, record)
    return Channels(
        values=values,
        fs=float(record.fs),
        names=list(record.sig_name),
        units=[unit or "mV" for unit in record.units],
        gains=[None if bare else float(gain) for gain, bare in zip(record.adc_gain, uncalibrated, strict=True)],
        comments=_comments(_comment_lines(record_path)),
    )


def read_wfdb(
    path: str | Path, *, id: str | None = None, source: str = "wfdb", patient_id: str | None = None
) -> Recording:
    """Read a 12-lead record.

    Leads are found by name, in any case and order; other signals (Frank leads, pressures) are dropped. From eight leads
    (I, II, V1 to V6) the other four follow by the lead laws. ``Age``, ``Sex``, ``Dx`` and ``Patient ID`` are taken from
    the header's comments.

    Args:
        path: Of the header, with or without ``.hea``.
        id: Of the recording; by default the file's name.
        source: Name of the archive.
        patient_id: Overrides what the header says.

    Raises:
        RecordingError: The record cannot be read, is not calibrated in volts, or lacks a lead.
    """
    channels = read_channels(path)
    name = str(path).removesuffix(".hea")
    chosen = _leads(channels, name)
    millivolts = {lead: _millivolts(channels, index, name) for lead, index in chosen.items()}
    gains = {_steps_per_mv(channels, index) for index in chosen.values()}
    steps = max(gains)
    if len(chosen) < len(LEADS):
        millivolts = derive_limb_leads(millivolts["I"], millivolts["II"]) | millivolts
        steps *= 2  # halves of a step
    comments = channels.comments
    return Recording(
        id=id or os.path.basename(name),
        source=source,
        patient_id=patient_id or comments.get("patient id") or None,
        signal_mv=np.stack([millivolts[lead] for lead in LEADS]).astype(np.float32),
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
    found: dict[str, int] = {}
    for index, text in enumerate(channels.names):
        lead = lead_name(text)
        if lead in found:
            raise RecordingError(f"two signals are called {lead}", reason="duplicate_lead", where=name)
        if lead is not None:
            found[lead] = index
    if not found:
        names = ", ".join(str(text) for text in channels.names[:15])
        raise RecordingError(f"not a 12-lead ECG: its signals are called {names}", reason="not_12_lead", where=name)
    derivable = {"III", "aVR", "aVL", "aVF"} if {"I", "II"} <= set(found) else set()
    missing = [lead for lead in LEADS if lead not in found and lead not in derivable]
    if missing:
        problem = f"missing lead{'s' * (len(missing) > 1)} {', '.join(missing)}"
        raise RecordingError(problem, reason="missing_lead", where=name, fix=f"It has {', '.join(found)}.")
    return found


def _millivolts(channels: Channels, index: int, name: str) -> NDArray[np.float64]:
    unit, text = channels.units[index], channels.names[index]
    if channels.gains[index] is None:
        problem = f"signal {text} is not calibrated: its header gives no gain"
        raise RecordingError(problem, reason="not_calibrated", where=name, fix="Write the gain, e.g. 1000/mV.")
    if unit.lower() not in _UNITS_PER_MV:
        raise RecordingError(f"signal {text} is in {unit}, not in volts", reason="units", where=name)
    return channels.values[index] / _UNITS_PER_MV[unit.lower()]


def _steps_per_mv(channels: Channels, index: int) -> float:
    return abs(channels.gains[index] or 1.0) * _UNITS_PER_MV[channels.units[index].lower()]


def _lines(record_path: str) -> list[str]:
    path = f"{record_path}.hea"
    try:
        text = Path(path).read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise RecordingError(f"missing file ({error.strerror})", reason="missing_file", where=path) from None
    return [stripped for line in text.splitlines() if (stripped := line.strip())]


def _comment_lines(record_path: str) -> list[str]:
    return [line.lstrip("#") for line in _lines(record_path) if line.startswith("#")]


def _read_header(record_path: str) -> list[str]:
    """The header's lines without comments and empty ones."""
    path = f"{record_path}.hea"
    lines = [line for line in _lines(record_path) if not line.startswith("#")]
    if not lines:
        raise RecordingError("empty header", reason="header", where=path)
    if not re.match(r"^[-\w]+(/\d+)?\s+\d+", lines[0]):
        fix = "A record's name has letters, digits, - and _ only, and no file ending."
        raise RecordingError(f"header line not understood: '{lines[0][:60]}'", reason="header", where=path, fix=fix)
    return lines


def _signal_lines(header: list[str]) -> list[re.Match[str]]:
    """The parsed signal lines of a single-segment header; none for a record of segments."""
    if "/" in header[0].split()[0]:
        return []
    count = int(header[0].split()[1])
    return [match for line in header[1 : 1 + count] if (match := _SIGNAL_LINE.match(line))]


def _uncalibrated(header: list[str], record: wfdb.Record) -> list[bool]:
    """For each signal whether its header line gives no gain, or 0."""
    lines = _signal_lines(header)
    if len(lines) != record.n_sig:  # segments have headers of their own
        return [gain == 0 for gain in record.adc_gain]
    gains = [_GAIN.match(line["rest"]) for line in lines]
    return [gain is None or float(gain["gain"]) == 0 for gain in gains]


def _check_files(record_path: str, header: list[str]) -> None:
    """Each signal file is there and as long as the header promises (formats of fixed width)."""
    fields = header[0].split()
    sig_len = int(fields[3]) if len(fields) > 3 and fields[3].isdigit() else 0
    needed: dict[str, float] = {}
    for line in _signal_lines(header):
        file, width = line["file"], _BYTES.get(line["fmt"], 0.0)
        needed[file] = needed.get(file, float(line["offset"] or 0)) + sig_len * int(line["spf"] or 1) * width
    for file, size in needed.items():
        path = os.path.join(os.path.dirname(record_path), file)
        if file == "~":
            continue
        if not os.path.isfile(path):
            raise RecordingError(f"missing file {file}", reason="missing_file", where=f"{record_path}.hea")
        if os.path.getsize(path) < int(size):
            raise _truncated(path, f"{os.path.getsize(path)} of {int(size)} bytes")


def _truncated(where: str, found: str) -> RecordingError:
    return RecordingError(f"fewer samples than the header promises ({found})", reason="truncated", where=where)


def _translated(error: Exception, record_path: str) -> RecordingError:
    if isinstance(error, FileNotFoundError) and error.filename:
        missing = os.path.basename(str(error.filename))
        return RecordingError(f"missing file {missing}", reason="missing_file", where=f"{record_path}.hea")
    if "sampto must be greater" in str(error):
        return RecordingError("a header without samples", reason="empty", where=f"{record_path}.hea")
    text = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return RecordingError(f"not readable ({text})", reason="unreadable", where=record_path)


def _comments(lines: list[str]) -> dict[str, str]:
    pairs = (match.groups() for line in lines if (match := _COMMENT.match(line)))
    return {key.lower(): value for key, value in pairs}
