"""DICOM waveforms (12-lead ECG, general ECG), by the package ``pydicom``, an extra."""

from __future__ import annotations

import io
import math
from typing import Any, BinaryIO

import numpy as np

from ecgscan_ray.errors import InputError, RecordingError
from ecgscan_ray.recording.channels import Channels
from ecgscan_ray.recording.formats.whole import not_readable, read_whole
from ecgscan_ray.recording.header import MAX_SAMPLES
from ecgscan_ray.recording.leads import lead_names

_PATIENT_ID = 0x00100020
_AGE_UNITS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def read_dicom(file: BinaryIO, where: str) -> Channels:
    """The multiplex group with the most leads, of several the longest: the rhythm, not the median beat.

    Raises:
        InputError: ``pydicom`` is not installed.
        RecordingError: It is no such file, or has no waveform.
    """
    try:
        import pydicom
    except ImportError:
        raise InputError("DICOM files need pydicom", where=where, fix="pip install 'ecgscan_ray[formats]'") from None
    content = read_whole(file, where)
    try:
        return _channels(pydicom.dcmread(io.BytesIO(content)), where)
    except RecordingError:
        raise
    except Exception as error:  # pydicom raises many kinds; all mean that this file cannot be read
        raise not_readable(where, "readable as DICOM", error) from None


def patient_of_dicom(head: bytes) -> str | None:
    """The patient's id in a file's first bytes; ``None`` where there is none, or reading the file will say why not."""
    try:
        from pydicom.filereader import read_partial

        content = read_partial(io.BytesIO(head), stop_when=lambda tag, *_: tag > _PATIENT_ID)
        return str(content.get("PatientID", "")).strip() or None
    except Exception:
        return None


def _channels(content: Any, where: str) -> Channels:
    from pydicom.waveforms import multiplex_array

    groups = list(content.get("WaveformSequence") or [])
    if not groups:
        raise RecordingError("a DICOM file without waveform", reason="empty", where=where)
    names = [_names(group) for group in groups]
    counts = [len({lead for lead in lead_names(group) if lead}) for group in names]
    index = max(range(len(groups)), key=lambda k: (counts[k], int(groups[k].NumberOfWaveformSamples)))
    group, samples = groups[index], int(groups[index].NumberOfWaveformSamples)
    if samples * len(names[index]) > MAX_SAMPLES:
        raise RecordingError(f"more than {MAX_SAMPLES} samples", reason="too_large", where=where)
    raw = np.asarray(multiplex_array(content, index, as_raw=True)).T.astype(np.float64)
    padding = group.get("WaveformPaddingValue")
    if padding is not None:
        kind = np.dtype(
            f"{'<' if content.file_meta.TransferSyntaxUID.is_little_endian else '>'}i{int(group.WaveformBitsAllocated) // 8}"
        )
        value = np.frombuffer(bytes(padding), kind)[0] if isinstance(padding, bytes) else padding
        raw[raw == float(value)] = np.nan
    scales = [_scale(channel) for channel in group.ChannelDefinitionSequence]
    values = np.stack([row * (scale or 1.0) + offset for row, (scale, offset, _) in zip(raw, scales, strict=True)])
    return Channels(
        values=values,
        fs=float(group.SamplingFrequency),
        names=list(names[index]),
        units=[units for _, _, units in scales],
        gains=[None if not scale else 1 / scale for scale, _, _ in scales],
        comments=_person(content),
    )


def _names(group: Any) -> list[str]:
    sources = [channel.ChannelSourceSequence[0] for channel in group.ChannelDefinitionSequence]
    return [str(source.get("CodeMeaning") or source.get("CodeValue", "")) for source in sources]


def _scale(channel: Any) -> tuple[float | None, float, str]:
    """Units per step (``None`` = not calibrated), units at step 0, and the units."""
    sensitivity = channel.get("ChannelSensitivity")
    if sensitivity is None:
        return None, 0.0, "mV"
    scale = float(sensitivity) * float(channel.get("ChannelSensitivityCorrectionFactor") or 1.0)
    units = channel.ChannelSensitivityUnitsSequence[0]
    baseline = float(channel.get("ChannelBaseline") or 0.0)
    return (scale if math.isfinite(scale) and scale else None), baseline, str(units.CodeValue)


def _person(content: Any) -> dict[str, str]:
    age, sex = str(content.get("PatientAge") or ""), str(content.get("PatientSex") or "")
    person = {"sex": sex, "patient id": str(content.get("PatientID") or "").strip()}
    if age[:-1].isdigit() and age[-1:] in _AGE_UNITS:
        person["age"] = f"{int(age[:-1]) * _AGE_UNITS[age[-1]]:.3g}"
    return {name: text for name, text in person.items() if text}
