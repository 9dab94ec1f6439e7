"""Records of segments (``NAME/N`` in the header's first line), joined by the signal names in each segment's header.

The package ``wfdb`` takes order, names and gains of all segments from the first. A gap (``~``) and a signal that a segment lacks
are missing samples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.header import Header, Signal, read_header
from ecgscan_ray.recording.leads import lead_names
from ecgscan_ray.recording.samples import read_values
from ecgscan_ray.recording.units import units_per_mv

_Key = tuple[str, int]


def read_segments(header: Header) -> tuple[NDArray[np.float64], list[Signal]]:
    """Values (n, T) of all signals, and the signals in the order in which they appear.

    Args:
        header: Of a record that lists segments.

    Raises:
        RecordingError: A segment cannot be read, or does not fit the record (``segments``).
    """
    parts = [_segment(header, name, length) for name, length in header.segments]
    starts = _starts(part for part in parts if part)
    stops = list(accumulate(length for _, length in header.segments))
    if header.sig_len not in (0, stops[-1]):
        raise _error(header, f"its segments have {stops[-1]} frames, not {header.sig_len}")
    values: dict[_Key, NDArray[np.float64]] = {}
    signals: dict[_Key, Signal] = {}
    for part, stop in zip(parts, stops, strict=True):
        if part is None:
            continue
        for key, signal, row in zip(_keys(part.signals), part.signals, read_values(part, starts), strict=True):
            factor = _factor(header, signals.get(key, signal), signal)
            signals[key] = _merged(signals.get(key, signal), signal, factor)
            if len(signals) > header.num_signals:
                raise _error(header, f"its segments have more signals than the {header.num_signals} promised")
            whole = values.setdefault(key, np.full(stops[-1], np.nan))
            whole[stop - part.sig_len : stop] = row * factor
    if not values:
        raise RecordingError("a record without samples", reason="empty", where=f"{header.path}.hea")
    return np.stack(list(values.values())), list(signals.values())


def _segment(header: Header, name: str, length: int) -> Header | None:
    """The segment's header; ``None`` for a gap and for the layout header, which has no samples."""
    if name == "~" or not length:
        return None
    part = read_header(str(Path(header.path).with_name(name)))
    if part.segments:
        raise _error(header, f"segment {name} has segments itself")
    if part.sig_len not in (0, length):
        raise _error(header, f"segment {name} has {part.sig_len} frames, not {length}")
    if part.fs not in (None, header.fs):
        raise _error(header, f"segment {name} has {part.fs} Hz, not {header.fs}")
    return replace(part, sig_len=length)


def _starts(parts: Iterable[Header]) -> dict[str, list[int]]:
    """Signal file -> offsets at which segments begin in it."""
    starts: dict[str, list[int]] = defaultdict(list)
    for part in parts:
        for signal in part.signals:
            starts[signal.file].append(signal.offset)
    return starts


def _keys(signals: Sequence[Signal]) -> list[_Key]:
    """Keys that join signals over segments: the lead or the name, and a number for each name's repetitions."""
    seen: Counter[str] = Counter()
    keys = []
    for signal, lead in zip(signals, lead_names([signal.name for signal in signals]), strict=True):
        name = lead or signal.name or ""
        keys.append((name, seen[name]))
        seen[name] += 1
    return keys


def _factor(header: Header, first: Signal, signal: Signal) -> float:
    """Factor from a segment's units to those of the first segment that has the signal."""
    if first.units == signal.units:
        return 1.0
    first_per_mv, per_mv = units_per_mv(first.units), units_per_mv(signal.units)
    if first_per_mv is None or per_mv is None:
        raise _error(header, f"signal {signal.name} is in {first.units[:20]} and in {signal.units[:20]}")
    return first_per_mv / per_mv


def _merged(first: Signal, signal: Signal, factor: float) -> Signal:
    """The first segment's signal with the finest steps of all; not calibrated where one is not."""
    if first.gain is None or signal.gain is None:
        return replace(first, gain=None)
    return replace(first, gain=max(abs(first.gain), abs(signal.gain / factor)))


def _error(header: Header, problem: str) -> RecordingError:
    return RecordingError(problem, reason="segments", where=f"{header.path}.hea")
