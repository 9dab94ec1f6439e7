"""The plainest WFDB records, read without a detour: format 16, one signal file, one sample a frame.

This is what PTB-XL and most 12-lead archives consist of. The package ``wfdb`` reads them too, but needs 15 ms a header,
which would be most of the time of preparing a store; here it is a fiftieth. Everything else is left to ``wfdb``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NUMBER = r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?"
_RECORD = re.compile(rf"^[-\w]+\s+(?P<n>\d+)\s+(?P<fs>{_NUMBER})\s+(?P<sig_len>\d+)(?:\s.*)?$")
_SIGNAL = re.compile(
    rf"^(?P<file>[-\w.]+)\s+16(?:\+(?P<offset>\d+))?\s+(?P<gain>{_NUMBER})(?:\((?P<baseline>-?\d+)\))?"
    r"(?:/(?P<units>\S+))?\s+\d+\s+(?P<zero>-?\d+)\s+-?\d+\s+-?\d+\s+0\s+(?P<name>\S.*?)$"
)
_MISSING = -32768


@dataclass(frozen=True)
class PlainRecord:
    """A record of this kind: ``values`` (n, T) float64 in ``units``, NaN where missing."""

    values: NDArray[np.float64]
    fs: float
    names: list[str]
    units: list[str]
    gains: list[float]


def read_plain(record_path: str, header: list[str]) -> PlainRecord | None:
    """Read the record if it is of this kind, else ``None``. The file's length must have been checked before.

    Args:
        record_path: Of the header, without ``.hea``.
        header: Its lines without comments.
    """
    record = _RECORD.match(header[0])
    if record is None:
        return None
    count, sig_len = int(record["n"]), int(record["sig_len"])
    signals = [signal for line in header[1:] if (signal := _SIGNAL.match(line))]
    places = {(signal["file"], int(signal["offset"] or 0)) for signal in signals}
    gains = [float(signal["gain"]) for signal in signals]
    if len(header) != 1 + count or len(signals) != count or len(places) != 1 or not all(gains) or not sig_len:
        return None
    ((file, offset),) = places
    path = os.path.join(os.path.dirname(record_path), file)
    counts = np.fromfile(path, "<i2", count=count * sig_len, offset=offset).reshape(sig_len, count).T
    baselines = np.array([int(signal["baseline"] or signal["zero"]) for signal in signals])
    values = (counts - baselines[:, None].astype(np.float64)) / np.array(gains)[:, None]
    values[counts == _MISSING] = np.nan
    names = [signal["name"] for signal in signals]
    return PlainRecord(values, float(record["fs"]), names, [signal["units"] or "mV" for signal in signals], gains)
