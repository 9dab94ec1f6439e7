"""WFDB headers: a record's ``.hea`` file is parsed completely or refused, and its size is bounded before reading samples.

The format is that of https://physionet.org/physiotools/wag/header-5.htm. Defaults that would be guesses are not
applied: WFDB's 250 Hz where there is no rate, and its 200 steps where there is no gain.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ecgscan_ray.errors import RecordingError

MAX_BYTES = 1 << 20
MAX_SIGNALS = 256
MAX_SEGMENTS = 1000
MAX_SAMPLES = (256 << 20) // 8
"""Of all signals together: 256 MB as float64, 93 minutes of twelve leads at 500 Hz."""
_MAX_LINE = 4096
_MIN_GAIN, _MAX_GAIN = 1e-6, 1e12  # steps per unit, from nV to V

_WIDTHS = {"8": 1, "80": 1, "16": 2, "61": 2, "160": 2, "212": 1.5, "310": 4 / 3, "311": 4 / 3, "24": 3, "32": 4}
FORMATS: dict[str, float] = _WIDTHS | {"508": 0, "516": 0, "524": 0}
"""Format -> bytes per sample; 0 = FLAC, where that is not fixed."""

_NUMBER = r"[-+]?(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:[eE][-+]?\d{1,3})?"
_INTEGER = r"[-+]?\d{1,12}"
_RECORD = re.compile(
    r"(?P<name>[-\w]+)(?:/(?P<segments>\d{1,9}))?\s+(?P<count>\d{1,9})"
    r"(?:\s+(?P<rate>\S+)(?:\s+(?P<length>\d{1,12})(?:\s.*)?)?)?",
    re.ASCII,
)
_RATE = re.compile(rf"({_NUMBER})(?:/{_NUMBER}(?:\({_NUMBER}\))?)?")
_SIGNAL = re.compile(
    r"(?P<file>\S+)\s+(?P<format>\d{1,4})(?:x(?P<frame>\d{1,6}))?(?::(?P<skew>\d{1,9}))?(?:\+(?P<offset>\d{1,12}))?"
    rf"(?:\s+(?P<gain>{_NUMBER})(?:\((?P<baseline>{_INTEGER})\))?(?:/(?P<units>\S+))?(?=\s|$)"
    rf"(?:\s+{_INTEGER}(?=\s|$)(?:\s+(?P<zero>{_INTEGER})(?=\s|$)(?:\s+(?P<initial>{_INTEGER})(?=\s|$)"
    rf"(?:\s+(?P<checksum>{_INTEGER})(?=\s|$)(?:\s+(?P<block>{_INTEGER})(?=\s|$))?)?)?)?)?)?"
    r"(?:\s+(?P<name>\S.*))?"
)
_SEGMENT = re.compile(r"(?P<name>[-\w]+|~)\s+(?P<length>\d{1,12})", re.ASCII)
_KEY = re.compile(r"[A-Za-z][A-Za-z _]*")


@dataclass(frozen=True)
class Signal:
    """One signal's line.

    Attributes:
        file: Name of its signal file, in the header's folder; ``~`` = none.
        format: Of the samples, a key of ``FORMATS``.
        frame: Samples per frame.
        skew: Lag in frames.
        offset: Bytes before the first sample.
        gain: Steps per unit; ``None`` = none given, or 0 (not calibrated).
        baseline: Sample value of 0 units.
        units: As written (``mV`` where absent, as WFDB defines).
        initial: Stated first sample.
        checksum: Stated sum of the samples, modulo 65536.
        name: As written, ``None`` where absent.
    """

    file: str
    format: str
    frame: int
    skew: int
    offset: int
    gain: float | None
    baseline: int
    units: str
    initial: int | None
    checksum: int | None
    name: str | None


@dataclass(frozen=True)
class Header:
    """A whole header.

    Attributes:
        path: Of the record, without ending.
        fs: Frames per second, Hz; ``None`` where absent.
        sig_len: Frames; 0 where absent.
        signals: Empty for a record of segments.
        segments: Name (``~`` = a gap) and frames of each.
        num_signals: Of a record of segments, from its first line.
        comments: Key (lower case) -> value of ``key: value`` comments.
    """

    path: str
    fs: float | None
    sig_len: int
    signals: list[Signal]
    segments: list[tuple[str, int]]
    num_signals: int
    comments: dict[str, str]


def read_header(record_path: str) -> Header:
    """Read a record's header.

    Args:
        record_path: Of the record, without ``.hea``.

    Raises:
        RecordingError: It is missing (reason ``missing_file``), malformed (``header``), has an invalid rate
            (``sampling_rate``), an unknown format (``format``) or too many samples (``too_large``).
    """
    where = f"{record_path}.hea"
    lines = [stripped for line in _content(where).splitlines() if (stripped := _decoded(line).strip())]
    comments = _comments([line.lstrip("#") for line in lines if line.startswith("#")])
    first, *rest = [line for line in lines if not line.startswith("#")] or [""]
    if long := [line for line in (first, *rest) if len(line) > _MAX_LINE]:
        raise _error(where, f"a line of {len(long[0])} characters")
    if not first:
        raise _error(where, "empty header")
    match = _RECORD.fullmatch(first)
    if match is None:
        fix = "A record's name has letters, digits, - and _ only: no folder and no file ending."
        raise _error(where, f"header line not understood: '{first[:60]}'", fix)
    segments, signals, count = [], [], int(match["count"])
    if match["segments"] is not None:
        segments = _segments(where, first, int(match["segments"]), rest)
    else:
        signals = _signals(where, count, rest)
    header = Header(
        path=record_path,
        fs=_rate(where, match["rate"]),
        sig_len=int(match["length"] or 0),
        signals=signals,
        segments=segments,
        num_signals=count,
        comments=comments,
    )
    check_size(header, header.sig_len)
    return header


def check_size(header: Header, sig_len: int) -> None:
    """Refuse a record of more than ``MAX_SAMPLES`` before memory of that size is allocated.

    Raises:
        RecordingError: With the reason ``too_large``.
    """
    width = sum(signal.frame for signal in header.signals) if header.signals else header.num_signals
    length = max(sig_len, sum(length for _, length in header.segments))
    if width * length > MAX_SAMPLES:
        problem = f"{width} x {length} samples are more than the {MAX_SAMPLES} that one record may have"
        raise RecordingError(
            problem, reason="too_large", where=f"{header.path}.hea", fix="Cut it into shorter records."
        )


def _content(where: str) -> bytes:
    try:
        with open(where, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or error
        raise RecordingError(f"missing file ({text})", reason="missing_file", where=where) from None
    if len(content) > MAX_BYTES:
        raise _error(where, f"more than {MAX_BYTES} bytes: no header")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _error(where, "a header in UTF-16", "Save it as UTF-8.")
    if b"\0" in content:
        raise _error(where, "NUL characters: no header, or one in UTF-16", "Save it as UTF-8.")
    return content.removeprefix(b"\xef\xbb\xbf")


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _rate(where: str, text: str | None) -> float | None:
    """Parse ``360`` and ``360/24.5(0)``: the second number is the counter's rate, not the signals'."""
    if text is None:
        return None
    match = _RATE.fullmatch(text)
    if match is None or not math.isfinite(rate := float(match[1])) or rate <= 0:
        raise RecordingError(
            f"the sampling rate '{text[:30]}' is not a positive number", reason="sampling_rate", where=where
        )
    return rate


def _segments(where: str, first: str, count: int, lines: list[str]) -> list[tuple[str, int]]:
    segments = [match for line in lines if (match := _SEGMENT.fullmatch(line))]
    if len(segments) != len(lines) or len(lines) != count or not 0 < count <= MAX_SEGMENTS:
        problem = f"'{first[:60]}' promises {count} segments, which the other lines are not"
        fix = f"NAME/N means a record of N segments (at most {MAX_SEGMENTS}); a record's name has no folder."
        raise _error(where, problem, fix)
    return [(match["name"], int(match["length"])) for match in segments]


def _signals(where: str, count: int, lines: list[str]) -> list[Signal]:
    if count > MAX_SIGNALS:
        raise _error(where, f"{count} signals, more than {MAX_SIGNALS}")
    if len(lines) != count:
        raise _error(where, f"{count} signals are promised, {len(lines)} have a line")
    return [_signal(where, line) for line in lines]


def _signal(where: str, line: str) -> Signal:
    match = _SIGNAL.fullmatch(line)
    if match is None or _numbers_in_name(match) or not int(match["frame"] or 1):
        raise _error(where, f"signal line not understood: '{line[:60]}'")
    gain = float(match["gain"] or 0)
    if gain and not _MIN_GAIN <= abs(gain) <= _MAX_GAIN:
        raise RecordingError(f"no gain can be {gain:g}", reason="implausible_gain", where=where)
    if match["format"] not in FORMATS and match["file"] != "~":
        raise RecordingError(f"format {match['format']} is not known", reason="format", where=where)
    if "/" in match["file"] or "\\" in match["file"]:
        raise _error(where, f"signal file '{match['file'][:60]}' is not in its header's folder")
    return Signal(
        file=match["file"],
        format=match["format"],
        frame=int(match["frame"] or 1),
        skew=int(match["skew"] or 0),
        offset=int(match["offset"] or 0),
        gain=gain or None,
        baseline=int(match["baseline"] or match["zero"] or 0),
        units=match["units"] or "mV",
        initial=None if match["initial"] is None else int(match["initial"]),
        checksum=None if match["checksum"] is None else int(match["checksum"]),
        name=match["name"],
    )


def _numbers_in_name(match: re.Match[str]) -> bool:
    """Numbers after a text: one of the fields before the name is damaged."""
    return match["block"] is None and any(word.lstrip("+-").isdigit() for word in (match["name"] or "").split())


def _comments(lines: list[str]) -> dict[str, str]:
    pairs = [line.partition(":")[::2] for line in lines if ":" in line]
    return {key.strip().lower(): value.strip() for key, value in pairs if _KEY.fullmatch(key.strip())}


def _error(where: str, problem: str, fix: str | None = None) -> RecordingError:
    return RecordingError(problem, reason="header", where=where, fix=fix)
