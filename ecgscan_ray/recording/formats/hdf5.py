"""HDF5 files, opened wherever they lie. The package ``h5py`` is an extra and is imported where it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ecgscan_ray.errors import InputError, RecordingError


def open_hdf5(file: BinaryIO, where: str) -> Any:
    """An ``h5py.File`` that reads from ``file`` what it is asked for.

    Raises:
        InputError: ``h5py`` is not installed.
        RecordingError: It is no HDF5 file.
    """
    try:
        import h5py
    except ImportError:
        raise InputError("HDF5 files need h5py", where=where, fix="pip install 'ecgscan_ray[formats]'") from None
    with readable(where):
        return h5py.File(file, "r")


@contextmanager
def readable(where: str) -> Iterator[None]:
    """What ``h5py`` raises of a damaged file, or of one with other contents, as a ``RecordingError``."""
    try:
        yield
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError, OverflowError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise RecordingError(f"not readable as HDF5 ({text})", reason="format", where=where) from None
