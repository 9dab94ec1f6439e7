"""Twelve-lead recordings made up for tests, and WFDB records written word by word, so that they can be odd."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.leads import LEADS, derive_limb_leads
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources import Item, Source

_WAVES = ((0.16, 0.03, 0.12), (0.26, 0.010, -0.1), (0.28, 0.012, 1.0), (0.31, 0.010, -0.25), (0.5, 0.05, 0.25))
"""P, Q, R, S and T of one beat: seconds after its start, width in s, height in mV."""
R_PEAK_S = 0.28
_GAINS = {"I": 0.6, "II": 1.0, "V1": -0.7, "V2": -0.9, "V3": 0.4, "V4": 1.2, "V5": 1.1, "V6": 0.9}


def beat_mv(since_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """One beat at seconds since its start; its R wave has 1 mV at ``R_PEAK_S``."""
    return np.sum([height * np.exp(-(((since_s - at) / width) ** 2)) for at, width, height in _WAVES], axis=0)


def heart_uv(seconds: float = 10.0, fs: float = 100.0, seed: int = 0) -> NDArray[np.int16]:
    """Beats, wander and noise in steps of 1 uV: (12, T). The lead laws hold but for rounding.

    The seed decides rhythm and heights, so that recordings of other seeds differ in both.
    """
    rng, gains = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    t = np.arange(round(seconds * fs)) / fs
    beat = beat_mv((t + rng.uniform(0, 1)) % rng.uniform(0.7, 1.1))
    measured = {
        lead: np.rint(
            1000 * (gain * gains.uniform(0.3, 1.7) * beat + 0.05 * np.sin(t + k) + rng.normal(0, 0.005, len(t)))
        )
        for k, (lead, gain) in enumerate(_GAINS.items())
    }
    leads = measured | {name: np.floor(lead) for name, lead in derive_limb_leads(measured["I"], measured["II"]).items()}
    return np.stack([leads[lead] for lead in LEADS]).astype(np.int16)


def recording(id: str = "1", seconds: float = 10.0, fs: float = 100.0, seed: int = 0, **changes: object) -> Recording:
    """A made-up recording; ``changes`` replace its fields."""
    fields: dict[str, object] = {
        "id": id,
        "source": "made-up",
        "patient_id": f"patient-{id}",
        "signal_mv": (heart_uv(seconds, fs, seed) / 1000).astype(np.float32),
        "fs": fs,
        "report": "sinusrhythmus normales ekg",
        "labels": {"NORM": 100.0, "SR": 0.0},
        "age": 56.0,
        "sex": "female",
        "fold": 3,
    }
    return Recording(**fields | changes)  # type: ignore[arg-type]


def list_items(source: Source, folder: str | Path) -> list[Item]:
    """All recordings of an archive."""
    return list(source.list_records(ArchiveFiles(folder)))


def write_record(
    folder: Path,
    name: str,
    counts: NDArray[np.int16] | None = None,
    *,
    names: Sequence[str] = LEADS,
    gain: str = "1000(0)/mV",
    fs: float = 100,
    comments: Sequence[str] = (),
    signal_line: str = "{name}.dat 16 {gain} 16 0 {first} 0 0 {lead}",
    record_name: str | None = None,
    newline: str = "\n",
) -> Path:
    """Write a format-16 record; gives the path without ending.

    Args:
        counts: (n, T), one row for each of ``names``; by default a made-up heart's.
        signal_line: Pattern of the header's signal lines, with ``{name}``, ``{gain}``, ``{first}``, ``{checksum}`` and
            ``{lead}``.
        record_name: In the header's first line, if not ``name``.
    """
    counts = heart_uv(fs=fs) if counts is None else counts
    lines = [f"{record_name or name} {len(names)} {fs:g} {counts.shape[1]}"]
    lines += [
        signal_line.format(name=name, gain=gain, first=samples[0], checksum=int(samples.sum()) & 0xFFFF, lead=lead)
        for lead, samples in zip(names, counts, strict=True)
    ]
    lines += [f"#{comment}" for comment in comments]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.hea").write_bytes((newline.join(lines) + newline).encode())
    (folder / f"{name}.dat").write_bytes(np.ascontiguousarray(counts.T.astype("<i2")).tobytes())
    return folder / name


def packed(counts: NDArray[np.int16], format: str) -> bytes:
    """The samples (n, T) in a WFDB format of integers, frame after frame, written by the letter of its definition."""
    flat = counts.T.astype(np.int64).ravel()
    if format in ("16", "61", "32", "160", "80"):
        zero, kind = {"16": (0, "<i2"), "61": (0, ">i2"), "32": (0, "<i4"), "160": (32768, "<u2"), "80": (128, "u1")}[
            format
        ]
        return (flat + zero).astype(kind).tobytes()
    if format == "24":
        return flat.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    if format == "212":
        a, b = np.append(flat, np.zeros(len(flat) % 2, np.int64)).reshape(-1, 2).T & 0xFFF
        return np.stack([a & 255, a >> 8 | (b >> 8) << 4, b & 255], axis=1).astype(np.uint8).tobytes()
    a, b, c = np.append(flat, np.zeros(-len(flat) % 3, np.int64)).reshape(-1, 3).T & 0x3FF
    if format == "310":
        return np.stack([a << 1 | (c & 31) << 11, b << 1 | (c >> 5) << 11], axis=1).astype("<u2").tobytes()
    return (a | b << 10 | c << 20).astype("<u4").tobytes()  # 311
