"""HDF5 files, opened wherever they lie. The package ``h5py`` is an extra and is imported where it is needed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.recording.formats.whole import not_readable

_ERRORS = (OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError, OverflowError)
"""What ``h5py`` raises of a damaged file, or of one with other contents."""


def open_hdf5(file: BinaryIO, where: str) -> Hdf5:
    """An HDF5 file that reads from ``file`` what it is asked for.

    Raises:
        InputError: ``h5py`` is not installed.
        RecordingError: It is no HDF5 file.
        StoreError: ``file`` cannot be read.
    """
    try:
        import h5py
    except ImportError:
        raise InputError("HDF5 files need h5py", where=where, fix="pip install 'ecgscan_ray[formats]'") from None
    return Hdf5(h5py.File, file, where)


class Hdf5:
    """An open file; as a context, it is closed at the end."""

    def __init__(self, opened_by: Any, file: BinaryIO, where: str) -> None:
        self._watched, self._where = _Watched(file), where
        with self._explained():
            self._content = opened_by(self._watched, "r")

    def __enter__(self) -> Hdf5:
        return self

    def __exit__(self, *_: object) -> None:
        self._content.close()

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """Its content, an ``h5py.File``, for a block that reads from it.

        Raises:
            RecordingError: It is damaged, or has other contents than the block expects.
            StoreError: The storage failed.
        """
        with self._explained():
            yield self._content

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (*_ERRORS, StoreError) as error:
            failure, self._watched.failure = self._watched.failure, None
            if failure is None:
                raise not_readable(self._where, "readable as HDF5", error) from None
            if isinstance(failure, StoreError):
                raise failure from None
            raise StoreError(f"cannot be read ({failure})", where=self._where) from None


class _Watched(io.RawIOBase):
    """A file that remembers how its storage failed: HDF5 says that something did, which a damaged file is, too."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | StoreError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            content = self._file.read(len(buffer))
        except (OSError, StoreError) as error:
            self.failure = error
            raise
        buffer[: len(content)] = content
        return len(content)
