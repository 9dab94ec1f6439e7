"""EDF, EDF+, BDF and BDF+ files, by the package ``edfio``, an extra."""

from __future__ import annotations

import io
import re
from typing import Any, BinaryIO

import numpy as np

from ecgscan_ray.errors import InputError, RecordingError
from ecgscan_ray.recording.channels import Channels
from ecgscan_ray.recording.formats.whole import not_readable, read_whole
from ecgscan_ray.recording.header import MAX_SAMPLES
from ecgscan_ray.recording.leads import lead_names

_PATIENT = re.compile(r"(?P<code>\S+) [MFX] (?:\d\d-[A-Za-z]{3}-\d{4}|X) \S")


def read_edf(file: BinaryIO, where: str) -> Channels:
    """The signals that are leads by their labels, in the units that the file states.

    Raises:
        InputError: ``edfio`` is not installed.
        RecordingError: It is no such file, is interrupted, or its leads have several rates.
    """
    try:
        import edfio
    except ImportError:
        raise InputError("EDF files need edfio", where=where, fix="pip install 'ecgscan_ray[formats]'") from None
    content = read_whole(file, where)
    try:
        _check_size(content, where)
        read = edfio.read_bdf if content[:1] == b"\xff" else edfio.read_edf
        return _channels(read(io.BytesIO(content)), where)
    except RecordingError:
        raise
    except Exception as error:  # edfio raises many kinds; all mean that this file cannot be read
        raise not_readable(where, "readable as EDF", error) from None


def patient_of_edf(head: bytes) -> str | None:
    """The patient's code where a file has it as EDF+ wants it: code (``X`` = unknown), sex, date of birth, name."""
    match = _PATIENT.match(head[8:88].decode("latin-1"))
    return match["code"] if match and match["code"] != "X" else None


def _check_size(content: bytes, where: str) -> None:
    """Refuse a file that is not as long as its header says: edfio cuts the recording short."""
    head, records, signals = int(content[184:192]), int(content[236:244]), int(content[252:256])
    start, width = 256 + 216 * signals, 3 if content[:1] == b"\xff" else 2
    counts = [int(content[at : at + 8]) for at in range(start, start + 8 * signals, 8)]
    expected = head + records * width * sum(counts)
    if records < 0 or len(content) < expected:
        problem = f"fewer samples than the header promises ({len(content)} of {expected} bytes)"
        raise RecordingError(problem, reason="truncated", where=where)
    if len(content) > expected:
        problem = f"more samples than the header promises ({len(content)} bytes, not {expected})"
        raise RecordingError(problem, reason="surplus", where=where)


def _channels(content: Any, where: str) -> Channels:
    if content.reserved.endswith("+D"):
        raise RecordingError("an interrupted recording (EDF+D)", reason="segments", where=where)
    labels = [signal.label.strip().removeprefix("ECG ").removeprefix("EKG ") for signal in content.signals]
    signals = [signal for signal, lead in zip(content.signals, lead_names(labels), strict=True) if lead]
    if not signals:
        names = ", ".join(labels)[:200]
        raise RecordingError(f"not a 12-lead ECG: its signals are called {names}", reason="not_12_lead", where=where)
    rates = {signal.sampling_frequency for signal in signals}
    if len(rates) > 1:
        stated = ", ".join(f"{rate:g}" for rate in sorted(rates))
        raise RecordingError(f"leads of several rates: {stated} Hz", reason="sampling_rate", where=where)
    if sum(len(signal.digital) for signal in signals) > MAX_SAMPLES:
        raise RecordingError(f"more than {MAX_SAMPLES} samples", reason="too_large", where=where)
    steps = [signal.digital_max - signal.digital_min for signal in signals]
    ranges = [signal.physical_max - signal.physical_min for signal in signals]
    return Channels(
        values=np.stack([np.asarray(signal.data, np.float64) for signal in signals]),
        fs=float(rates.pop()),
        names=[signal.label for signal in signals],
        units=[signal.physical_dimension for signal in signals],
        gains=[step / width if width else None for step, width in zip(steps, ranges, strict=True)],
        comments=_person(content),
    )


def _person(content: Any) -> dict[str, str]:
    """What an EDF+ header says of the patient; edfio raises where a field is not as EDF+ wants it."""
    try:
        sex = content.patient.sex
    except Exception:
        return {}
    return {"sex": sex} if sex in ("M", "F") else {}
