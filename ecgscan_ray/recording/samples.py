"""The samples of a record's signal files, validated against the header.

Formats of whole words are read with numpy, in a tenth of the time that the package ``wfdb`` needs for the plain records of
most 12-lead archives. Packed and compressed formats are read by ``wfdb`` with a generated header: its parser drops letters
outside ASCII from the original header and guesses what is absent.
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import wfdb
from numpy.typing import NDArray

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.header import FORMATS, Header, Signal, check_size

_WORDS = {"16": ("<i2", 0), "61": (">i2", 0), "160": ("<u2", 32768), "80": ("u1", 128), "32": ("<i4", 0)}
"""Format -> type of the stored words, and the value to subtract."""
_PACKED_BYTES = {"212": 3, "310": 4, "311": 4}
"""Format -> bytes of a group of packed samples."""
_BITS = {"80": 8, "508": 8, "310": 10, "311": 10, "212": 12, "24": 24, "524": 24, "32": 32}
_MATLAB_TYPES = {"80": 50, "16": 30, "32": 20}
"""Format -> type code in a MATLAB 4 file of little-endian words."""
_OTHER_FILES = {
    b"MATLAB 5": "a MATLAB file of version 5, not 4",
    b"MATLAB 7": "a MATLAB file of version 7.3, not 4",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x1f\x8b\x08": "a file packed with gzip",
    b"PK\x03\x04": "a zip file",
    b"\xfd7zXZ": "a file packed with xz",
    b"BZh9": "a file packed with bzip2",
    b"version https": "a pointer of Git LFS, not the file itself",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
}
"""First bytes of files that hold no samples."""


def read_values(header: Header, shared: Mapping[str, Sequence[int]] | None = None) -> NDArray[np.float64]:
    """All signals in their units, frames averaged and skew removed: (n, T), NaN where missing.

    A signal without gain is in steps.

    Args:
        header: Of one segment.
        shared: Signal file -> offsets at which the record's segments begin in it, where several share a file.

    Raises:
        RecordingError: A file is missing, of another format, or has fewer, more or other samples than the header
            states (``missing_file``, ``format``, ``truncated``, ``surplus``, ``checksum``).
    """
    files = _files(header)
    header = _with_length(header, files)
    values = np.empty((len(header.signals), header.sig_len))
    for file, indices in files.items():
        signals, path = [header.signals[index] for index in indices], _path(header, file)
        _check_file(header, path, signals, (shared or {}).get(file, ()))
        frames = _read_file(header, path, signals)
        _check_sums(header, path, signals, frames)
        values[indices] = _physical(frames, signals)
    return values


def _physical(frames: NDArray[np.integer], signals: Sequence[Signal]) -> NDArray[np.float64]:
    """(T, samples per frame of all signals) as stored -> (n, T) in units."""
    counts = [signal.frame for signal in signals]
    baselines = np.repeat([float(signal.baseline) for signal in signals], counts)
    gains = np.repeat([signal.gain or 1.0 for signal in signals], counts)
    values = (frames.T - baselines[:, None]) / gains[:, None]
    if (missing := _missing(signals[0].format)) is not None:
        values[(frames == missing).T] = np.nan
    if max(counts) > 1:
        values = np.stack([part.mean(axis=0) for part in np.split(values, np.cumsum(counts)[:-1])])
    for row, signal in zip(values, signals, strict=True):
        if signal.skew:
            row[:] = np.append(row[signal.skew :], np.full(min(signal.skew, len(row)), np.nan))
    return values


def _missing(format: str) -> int | None:
    """The stored value of a missing sample; format 8 (differences) has none."""
    return None if format == "8" else -(1 << (_BITS.get(format, 16) - 1))


def _files(header: Header) -> dict[str, list[int]]:
    """Signal file -> indices of its signals, in the order of the header."""
    files: dict[str, list[int]] = {}
    for index, signal in enumerate(header.signals):
        first = header.signals[files.setdefault(signal.file, [index])[0]]
        if (signal.format, signal.offset) != (first.format, first.offset):
            problem = f"the signals in {signal.file} differ in format or offset"
            raise RecordingError(problem, reason="header", where=f"{header.path}.hea")
        if index not in files[signal.file]:
            files[signal.file].append(index)
    if not files or "~" in files:
        raise RecordingError("a header without samples", reason="empty", where=f"{header.path}.hea")
    return files


def _with_length(header: Header, files: dict[str, list[int]]) -> Header:
    """The header with its length; taken from the first file's size where the header gives none."""
    if header.sig_len:
        return header
    file, indices = next(iter(files.items()))
    first = header.signals[indices[0]]
    if not FORMATS[first.format]:
        raise RecordingError("no number of samples", reason="header", where=f"{header.path}.hea")
    frame = sum(header.signals[index].frame for index in indices) * FORMATS[first.format]
    sig_len = int((_size(header, _path(header, file)) - first.offset) / frame)
    if sig_len <= 0:
        raise RecordingError("a record without samples", reason="empty", where=f"{header.path}.hea")
    check_size(header, sig_len)
    return replace(header, sig_len=sig_len)


def _path(header: Header, file: str) -> str:
    return os.path.join(os.path.dirname(header.path), file)


def _size(header: Header, path: str) -> int:
    if not os.path.isfile(path):
        name = os.path.basename(path)
        raise RecordingError(f"missing file {name[:100]}", reason="missing_file", where=f"{header.path}.hea")
    return os.path.getsize(path)


def _check_file(header: Header, path: str, signals: list[Signal], shared: Iterable[int]) -> None:
    """Check that the file has the header's format and length."""
    size, first, width = _size(header, path), signals[0], sum(signal.frame for signal in signals)
    head = _head(path)
    for beginning, kind in _OTHER_FILES.items():
        if head.startswith(beginning):
            raise RecordingError(f"{kind}: no samples of format {first.format}", reason="format", where=path)
    if path.lower().endswith(".mat"):
        _check_matlab(path, head, first, width, header.sig_len)
    if not FORMATS[first.format]:
        _check_flac(path, head, header.sig_len * first.frame)
        return
    frame = width * FORMATS[first.format]
    stop = first.offset + header.sig_len * frame
    if size < int(stop):
        raise _truncated(path, f"{size} of {int(stop)} bytes")
    surplus = size - math.ceil(stop)
    if surplus >= max(frame, _PACKED_BYTES.get(first.format, 0)) and not any(start >= int(stop) for start in shared):
        raise _surplus(path, f"{surplus} bytes are left over")


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(32)
    except OSError as error:
        raise RecordingError(f"not readable ({error.strerror})", reason="unreadable", where=path) from None


def _check_matlab(path: str, head: bytes, first: Signal, width: int, sig_len: int) -> None:
    """A MATLAB 4 file begins with five words: type, rows, columns, imaginary or not, bytes of the variable's name."""
    kind, rows, columns, _, name = struct.unpack("<5i", head[:20].ljust(20, b"\0"))
    expected = (_MATLAB_TYPES.get(first.format), width, sig_len, first.offset)
    if (kind, rows, columns, 20 + name) != expected:
        problem = f"not a MATLAB 4 file of {width} rows and {sig_len} columns in format {first.format}"
        fix = f"Its first words are {kind}, {rows}, {columns}; the header's offset is {first.offset}."
        raise RecordingError(problem, reason="format", where=path, fix=fix)


def _check_flac(path: str, head: bytes, samples: int) -> None:
    """A FLAC file's head states its number of samples in 36 bits; 0 = unknown."""
    if not head.startswith(b"fLaC"):
        raise RecordingError("not a FLAC file", reason="format", where=path)
    stated = int.from_bytes(head[18:26], "big") & ((1 << 36) - 1)
    if stated and stated < samples:
        raise _truncated(path, f"{stated} of {samples}")
    if stated > samples:
        raise _surplus(path, f"{stated} instead of {samples}")


def _read_file(header: Header, path: str, signals: list[Signal]) -> NDArray[np.integer]:
    """All samples of a file: (T, samples per frame of all its signals)."""
    first, width = signals[0], sum(signal.frame for signal in signals)
    if first.format not in _WORDS:
        return _unpacked(header, path, signals)
    kind, zero = _WORDS[first.format]
    try:
        words = np.fromfile(path, kind, count=header.sig_len * width, offset=first.offset)
    except OSError as error:
        raise RecordingError(f"not readable ({error.strerror})", reason="unreadable", where=path) from None
    if len(words) != header.sig_len * width:
        raise _truncated(path, f"{len(words)} of {header.sig_len * width}")
    frames = words.reshape(header.sig_len, width)
    return frames.astype(np.int32) - zero if zero else frames


def _unpacked(header: Header, path: str, signals: list[Signal]) -> NDArray[np.integer]:
    """Packed and compressed samples, by the package ``wfdb``."""
    with tempfile.TemporaryDirectory(prefix="ecgscan-wfdb-") as folder:
        os.symlink(os.path.abspath(path), f"{folder}/s")
        lines = [f"r {len(signals)} 1 {header.sig_len}"]
        for signal in signals:
            offset = f"+{signal.offset}" if signal.offset else ""
            lines.append(f"s {signal.format}x{signal.frame}{offset} 1(0) 0 0 {signal.initial or 0} 0 0 s")
        with open(f"{folder}/r.hea", "w", encoding="ascii") as file:
            file.write("\n".join(lines) + "\n")
        try:
            record = wfdb.rdrecord(f"{folder}/r", physical=False, smooth_frames=False, return_res=32)
        except Exception as error:  # wfdb raises many kinds; all mean that these samples cannot be read
            text = (str(error).splitlines() or [type(error).__name__])[0].replace(folder, "")[:120]
            raise RecordingError(
                f"not readable as format {signals[0].format} ({text})", reason="unreadable", where=path
            ) from None
    channels = [np.asarray(samples) for samples in record.e_d_signal]
    for samples, signal in zip(channels, signals, strict=True):
        if len(samples) != header.sig_len * signal.frame:
            raise _truncated(path, f"{len(samples) // signal.frame} of {header.sig_len}")
    return np.concatenate(
        [samples.reshape(-1, signal.frame) for samples, signal in zip(channels, signals, strict=True)], 1
    )


def _check_sums(header: Header, path: str, signals: list[Signal], frames: NDArray[np.integer]) -> None:
    """Check the header's checksum of each signal; many tools do not fill it in: then all are 0.

    The stated first samples differ in some good records (edited headers), so they are checked only where no checksum is
    stated.
    """
    stated = any(signal.checksum for signal in header.signals)
    starts = np.cumsum([0, *(signal.frame for signal in signals[:-1])])
    sums = np.add.reduceat(frames.sum(axis=0, dtype=np.int64), starts)
    for signal, total, initial in zip(signals, sums.tolist(), frames[0, starts].tolist(), strict=True):
        if stated:
            wrong = signal.checksum is not None and (total - signal.checksum) % 65536 != 0
        else:
            wrong = bool(signal.initial) and signal.format != "8" and initial != signal.initial
        if wrong:
            what = "checksum" if stated else "first sample"
            problem = f"the samples of signal {signal.name} do not agree with the header's {what}"
            fix = "The file is damaged; or the samples were changed on purpose: then write 0 for all checksums."
            raise RecordingError(problem, reason="checksum", where=path, fix=fix)


def _truncated(where: str, detail: str) -> RecordingError:
    return RecordingError(f"fewer samples than the header promises ({detail})", reason="truncated", where=where)


def _surplus(where: str, detail: str) -> RecordingError:
    fix = "Is it the header of another file, or of another sampling rate?"
    return RecordingError(f"more samples than the header promises ({detail})", reason="surplus", where=where, fix=fix)
