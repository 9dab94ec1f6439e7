"""Arrays of samples: ``.npy``, ``.npz``, ``.csv`` and HDF5. They say neither rate nor units nor leads: the user does."""

from __future__ import annotations

import csv
import io
import math
import zipfile
import zlib
from tokenize import TokenError
from typing import IO, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.channels import Channels
from ecgscan_ray.recording.formats.hdf5 import open_hdf5
from ecgscan_ray.recording.formats.whole import not_readable, read_whole
from ecgscan_ray.recording.header import MAX_SAMPLES
from ecgscan_ray.recording.leads import lead_names
from ecgscan_ray.recording.units import units_per_mv

_MAX_CSV_BYTES = 32 << 20


class Arrays(BaseModel):
    """What the user states of all arrays of a folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fs: float = Field(gt=0, le=100_000)
    """Sampling rate, Hz."""
    units: str
    """Of a sample, after ``steps_per_unit``: mV, uV, V."""
    steps_per_unit: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Steps per unit, where samples are counts of a converter: 200 for 5 uV a step and ``units: mV``."""
    leads: tuple[str, ...] = ()
    """Names in the array's order. A CSV file has them in its first row instead."""
    first_axis: Literal["leads", "samples"] = "samples"
    """What the first index of an array counts."""
    dataset: str | None = None
    """Name of the array in ``.npz`` and HDF5 files that hold several."""
    missing: float | None = None
    """A value that means a missing sample; NaN always does."""

    @field_validator("units")
    @classmethod
    def _is_voltage(cls, units: str) -> str:
        if units_per_mv(units) is None:
            raise ValueError(f"'{units[:20]}' is no unit of voltage; write mV, uV or V")
        return units

    @field_validator("leads")
    @classmethod
    def _are_leads(cls, leads: tuple[str, ...]) -> tuple[str, ...]:
        known = [name for name in lead_names(leads) if name]
        if len(set(known)) != len(known):
            raise ValueError("a lead is named twice")
        return leads


def read_npy(file: BinaryIO, where: str, stated: Arrays) -> Channels:
    """A file of ``numpy.save``.

    Raises:
        RecordingError: It is no such file, is not complete, or does not hold what is stated.
    """
    return _channels(_npy(file, where), where, stated)


def read_npz(file: BinaryIO, where: str, stated: Arrays) -> Channels:
    """A file of ``numpy.savez``; errors as ``read_npy``."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            name = _chosen(names, where, stated)
            with archive.open(f"{name}.npy") as member:
                return _channels(_npy(member, where), where, stated)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise not_readable(where, "a file of numpy.savez", error) from None


def read_hdf5(file: BinaryIO, where: str, stated: Arrays) -> Channels:
    """A dataset of two dimensions; errors as ``read_npy``."""
    with open_hdf5(file, where) as hdf5, hdf5.reading() as content:
        names = [stated.dataset] if stated.dataset else [key for key in content if hasattr(content[key], "shape")]
        dataset = content[_chosen(names, where, stated)]
        _check_shape(dataset.shape, dataset.dtype, where)
        return _channels(np.asarray(dataset[()]), where, stated)


def read_csv(file: BinaryIO, where: str, stated: Arrays) -> Channels:
    """A table of samples: a row of lead names, then a row for each sample. Columns that are no leads are dropped;
    errors as ``read_npy``.
    """
    data = read_whole(file, where, _MAX_CSV_BYTES)
    try:
        text = data.decode("utf-8-sig")
        first = text.partition("\n")[0]
        separator = max(",;\t", key=first.count)
        names, *rows = csv.reader(io.StringIO(text), delimiter=separator)
        columns = [index for index, lead in enumerate(lead_names(names)) if lead]
        decimal = "," if separator != "," and "." not in text.partition("\n")[2][:10_000] else "."
        values = np.array(
            [[_number(row[index], decimal) for index in columns] for row in rows if any(row)], dtype=np.float64
        ).reshape(-1, len(columns))
    except (UnicodeDecodeError, csv.Error, ValueError, IndexError) as error:
        raise not_readable(where, "a table of numbers under names of leads", error) from None
    return _calibrated(values.T, [names[index] for index in columns], where, stated, floating=True)


def _number(text: str, decimal: str) -> float:
    text = text.strip()
    return float(text.replace(decimal, ".")) if text else math.nan


def _npy(file: IO[bytes], where: str) -> NDArray[Any]:
    """An array whose size is checked before memory for it is taken."""
    reads = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, by_columns, dtype = reads[np.lib.format.read_magic(file)](file)
        _check_shape(shape, dtype, where)
        size = math.prod(shape) * dtype.itemsize
        data = file.read(size + 1)
        if len(data) != size:
            problem = f"{len(data)} bytes of samples, not {size}"
            raise RecordingError(problem, reason="truncated" if len(data) < size else "surplus", where=where)
        return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")
    except (ValueError, TypeError, KeyError, EOFError, SyntaxError, OverflowError, TokenError) as error:
        raise not_readable(where, "a file of numpy.save", error) from None


def _check_shape(shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> None:
    if dtype.kind not in "iuf" or len(shape) != 2:
        problem = f"an array of shape {shape} and type {dtype}, not of two dimensions of numbers"
        raise RecordingError(problem, reason="format", where=where)
    if math.prod(shape) > MAX_SAMPLES:
        problem = f"{shape[0]} x {shape[1]} samples are more than the {MAX_SAMPLES} that one recording may have"
        raise RecordingError(problem, reason="too_large", where=where)


def _chosen(names: list[str], where: str, stated: Arrays) -> str:
    """The dataset that is stated, or the only one."""
    if stated.dataset is not None:
        return stated.dataset
    if len(names) != 1:
        fix = f"State 'dataset' in recordings.yaml: {', '.join(names)[:200]}."
        raise RecordingError(f"{len(names)} arrays in one file", reason="format", where=where, fix=fix)
    return names[0]


def _channels(array: NDArray[Any], where: str, stated: Arrays) -> Channels:
    values = (array.T if stated.first_axis == "samples" else array).astype(np.float64)
    if len(values) != len(stated.leads):
        problem = f"{len(values)} leads in an array of shape {array.shape}, {len(stated.leads)} are stated"
        raise RecordingError(
            problem, reason="missing_lead", where=where, fix="Correct leads or first_axis in recordings.yaml."
        )
    return _calibrated(values, list(stated.leads), where, stated, floating=array.dtype.kind == "f")


def _calibrated(values: NDArray[np.float64], names: list[str], where: str, stated: Arrays, floating: bool) -> Channels:
    gain = math.inf if floating else stated.steps_per_unit
    if not values.size:
        raise RecordingError("no samples of a lead", reason="empty", where=where)
    if stated.missing is not None:
        values = np.where(values == stated.missing, np.nan, values)
    return Channels(
        values=values / stated.steps_per_unit,
        fs=stated.fs,
        names=[*names],
        units=[stated.units] * len(names),
        gains=[gain for _ in names],
    )
