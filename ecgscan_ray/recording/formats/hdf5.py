"""HDF5 files, opened wherever they lie. The package ``h5py`` is an extra and is imported where it is needed."""

from __future__ import annotations

import io
import traceback
import weakref
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
    """An open file; as a context, it is closed at the end, else with the process: HDF5 would crash after Python's end."""

    def __init__(self, opened_by: Any, file: BinaryIO, where: str) -> None:
        self._watched, self._where = _Watched(file), where
        with self._explained():
            self._content = opened_by(self._watched, "r")
            self._close = weakref.finalize(self, self._content.close)

    def __enter__(self) -> Hdf5:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """Its content, an ``h5py.File``, for a block that reads from it.

        Raises:
            RecordingError: It is damaged, or has other contents than the block expects.
            StoreError: The storage failed, now or before: what was read since is not the file's.
        """
        with self._explained():
            yield self._content

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they hold objects with which HDF5 crashes after Python's end
            self._refuse_failed()
            if isinstance(error, _ERRORS):
                raise not_readable(self._where, "readable as HDF5", error) from None
            raise
        self._refuse_failed()

    def _refuse_failed(self) -> None:
        failure = self._watched.failure
        if isinstance(failure, StoreError):
            raise failure from None
        if failure is not None:
            raise StoreError(f"cannot be read ({failure})", where=self._where) from None


class _Watched(io.RawIOBase):
    """A file that gives zeros once its storage has failed, and remembers how.

    HDF5 says of an exception only that there was one, which may as well be a damaged file's.
    """

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
        content = self._read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _read(self, size: int) -> bytes:
        if self.failure is None:
            try:
                return self._file.read(size)
            except (OSError, StoreError) as error:
                self.failure = error
        return bytes(size)
