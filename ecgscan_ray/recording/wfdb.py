"""WFDB records (PhysioNet's ``.hea`` with ``.dat`` or ``.mat``) as recordings.

Nothing is guessed: gain, rate and units come from the header, leads are identified by name and never by position, and each
segment of a record is read with its own header.
"""

from __future__ import annotations

import os
from pathlib import Path

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.channels import Channels, to_recording
from ecgscan_ray.recording.header import read_header
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.samples import read_values
from ecgscan_ray.recording.segments import read_segments


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
    """Read a 12-lead record; see ``to_recording``. ``Age``, ``Sex``, ``Dx`` and ``Patient ID`` are taken from comments.

    Args:
        path: Of the header, with or without ``.hea``.
        id: Of the recording; by default the file's name.
        source: Name of the archive.
        patient_id: Overrides the header's.

    Raises:
        RecordingError: The record cannot be read, is not calibrated in volts, or lacks a lead.
    """
    name = str(path).removesuffix(".hea")
    id = id or os.path.basename(name)
    return to_recording(read_channels(path), where=name, id=id, source=source, patient_id=patient_id)
