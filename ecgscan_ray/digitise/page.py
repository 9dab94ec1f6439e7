"""One page: read, and what is written of it as the content of files."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecgscan_ray.digitise.options import Options, PageReader
from ecgscan_ray.digitise.overlay import draw_overlay
from ecgscan_ray.errors import EcgscanError, InputError, printable
from ecgscan_ray.paper.write import encode
from ecgscan_ray.reading.leads import PageReading
from ecgscan_ray.recording.leads import LEADS

_MAX_REASON = 200


def digitise_page(
    image: np.ndarray, reader: PageReader, options: Options, name: str, comments: Sequence[str]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read one page.

    Args:
        image: uint8 (H, W, 3).
        reader: Of pages.
        options: See there.
        name: Of the record.
        comments: Where the page comes from, for the record's header.

    Returns:
        Row of the table, and name -> content of the files to write. Whatever a page does to the reader is its row's
        reason.
    """
    reading = None
    try:
        reading = reader(image, options)
        row = _row(reading)
        files = {}
        if reading.quality < options.min_quality:
            row |= {"status": "refused", "record": ""}
            row["reasons"] = _reasons(f"quality {reading.quality:.2f} is below {options.min_quality:g}", row["reasons"])
        else:
            row |= {"status": "read", "record": name}
            files = _record(reading, options, name, comments)
        if options.overlay:
            files[f"{name}_overlay.jpg"] = encode(draw_overlay(image, reading), "jpg")
        return row, files
    except Exception as error:  # one odd page never ends the others
        return failure(error), {}


def failure(error: Exception) -> dict[str, Any]:
    """Status and reason of a page that could not be read."""
    if isinstance(error, InputError):
        return {"status": "refused", "reasons": _reasons(error.what)}
    if isinstance(error, MemoryError):
        return {"status": "failed", "reasons": "too large for the memory"}
    what = error.what if isinstance(error, EcgscanError) else f"{type(error).__name__}: {error}"
    return {"status": "failed", "reasons": _reasons(f"the reading failed ({what})")}


def _row(reading: PageReading) -> dict[str, Any]:
    signal_mv, _ = reading.signal_mv()
    seconds = np.isfinite(signal_mv).sum(1) / reading.fs
    row: dict[str, Any] = {}
    for name, value in (("layout", reading.layout), ("speed", reading.speed), ("gain", reading.gain)):
        column = {"layout": "layout", "speed": "speed_mm_per_s", "gain": "gain_mm_per_mv"}[name]
        row |= {column: value.text, f"{name}_by": value.by, f"{name}_confidence": round(float(value.confidence), 3)}
    across, down = reading.px_per_mm
    row |= {"turns": int(reading.turns), "px_per_mm_x": round(float(across), 3), "px_per_mm_y": round(float(down), 3)}
    row |= {"quality": round(float(reading.quality), 3)}
    row |= {f"{lead}_s": round(float(value), 3) for lead, value in zip(LEADS, seconds, strict=True)}
    return row | {"reasons": _reasons(*reading.reasons)}


def _reasons(*reasons: str) -> str:
    return "; ".join(printable(reason)[:_MAX_REASON] for reason in reasons if reason)


def _record(reading: PageReading, options: Options, name: str, comments: Sequence[str]) -> dict[str, bytes]:
    if options.format == "csv":
        text = reading.to_dataframe().to_csv(float_format="%.4f", lineterminator="\n")
        return {f"{name}.csv": text.encode()}
    if options.format == "npz":
        signal_mv, belief = reading.signal_mv()
        data = io.BytesIO()
        lines = np.array([*comments, *reading.describe()])
        np.savez_compressed(
            data, signal_mv=signal_mv, belief=belief, fs=reading.fs, leads=np.array(LEADS), comments=lines
        )
        return {f"{name}.npz": data.getvalue()}
    with tempfile.TemporaryDirectory(prefix="ecgscan-digitise-") as folder:
        header = reading.to_wfdb(Path(folder) / name, comments)
        return {path.name: path.read_bytes() for path in (header.with_suffix(".dat"), header)}
