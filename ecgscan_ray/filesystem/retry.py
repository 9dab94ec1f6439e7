"""Repeats operations on storage that fail, with growing pauses and up to a bound.

pyarrow repeats each request a few times by itself, but gives up after seconds, and its retry strategy is lost whenever a
file system travels to another process (apache/arrow#47348). So this layer lies above it, in every
file system of ``open_filesystem``, Ray's upload of checkpoints included. Files are read in pieces that are repeated one
by one, and written as a whole: an upload whose answer was lost is safe to repeat. What cannot change is not repeated: access
denied, wrong credentials, no such file or bucket.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

logger = logging.getLogger(__name__)

ATTEMPTS = 10
BOUND_S = 180.0
"""No attempt begins later than this after the first one."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 15.0
PATIENCE_S = 600.0
"""A run that is under way waits for so long for storage that fails; then it stops."""
_IN_MEMORY = 32 * 2**20
_CHUNK = 8 * 2**20

DENIED = re.compile(
    "ACCESS_DENIED|AccessDenied|Forbidden|INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|SIGNATURE_DOES_NOT_MATCH|"
    "SignatureDoesNotMatch|INVALID_CLIENT_TOKEN_ID|ExpiredToken|EXPIRED_TOKEN|UNRECOGNIZED_CLIENT|"
    "PERMISSION_DENIED|UNAUTHENTICATED|AuthenticationFailed|AuthorizationFailure|HTTP (?:response code|status) 40[13]"
)
NO_BUCKET = re.compile("NO_SUCH_BUCKET|NoSuchBucket|[Bb]ucket does not exist")
OTHER_REGION = re.compile(r"bucket is located in '([a-z0-9-]+)'")
UNREACHABLE = re.compile(
    "NETWORK_CONNECTION|curlCode|CURL error|UNAVAILABLE|Couldn't connect|resolve host", re.IGNORECASE
)
OVERLOADED = re.compile(
    "SLOW_?DOWN|SERVICE_?UNAVAILABLE|INTERNAL_?(?:FAILURE|ERROR)|REQUEST_?TIMEOUT|THROTTLING|"
    r"HTTP (?:response code|status) (?:429|5\d\d)|of \d+ bytes came|timed out",
    re.IGNORECASE,
)
"""A server that answers, but for the time being not with what was asked for."""
NOBODY_THERE = re.compile(r"Couldn't connect|Could not connect|resolve host|curlCode: [67]\b", re.IGNORECASE)


class Replaced(OSError):
    """A file became another one while it was read."""


class TooLarge(Exception):
    """A file has more bytes than are wanted."""


_PERMANENT_TYPES = (
    FileNotFoundError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
    FileExistsError,
    ConnectionRefusedError,
    Replaced,
)

T = TypeVar("T")
repeated: dict[str, int] = {}
"""Operation -> how often this process has repeated it."""
_count = threading.Lock()


def is_permanent(error: Exception) -> bool:
    """Whether the same request would fail again for the same reason."""
    text = str(error)
    if re.search(
        "NO_SUCH_UPLOAD|NoSuchUpload", text
    ):  # of an upload that may have succeeded: the file is written again
        return False
    if not isinstance(error, OSError) or isinstance(error, _PERMANENT_TYPES):
        return True
    return any(pattern.search(text) for pattern in (DENIED, NO_BUCKET, OTHER_REGION))


patience_s = 0.0
"""Of this process: an operation is repeated for at least so long, however often that is."""


def be_patient(seconds: float = PATIENCE_S) -> None:
    """From now on this process repeats what fails for so long: it is part of a run, whose work would be lost with it."""
    global patience_s
    patience_s = seconds


def retried(name: str, operation: Callable[[int], T], bound_s: float = BOUND_S) -> T:
    """``operation(attempt)`` until it succeeds; its last error where it does not.

    Args:
        name: Of the operation, for the summary in the log.
        operation: Safe to repeat; is given the number of the attempt, 0 at first.
        bound_s: No attempt begins later than this after the first.
    """
    start, bound_s = time.monotonic(), max(bound_s, patience_s)
    for attempt in itertools.count():
        try:
            return operation(attempt)
        except Exception as error:
            pause = random.uniform(0.5, 1.0) * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt, 20))
            late = time.monotonic() + pause - start > bound_s
            often = attempt >= ATTEMPTS - 1 and not patience_s
            if is_permanent(error) or often or late:
                raise
        _note(name)
        time.sleep(pause)
    raise AssertionError  # an attempt returns or raises


def _note(name: str) -> None:
    with _count:
        if not repeated:
            atexit.register(log_repeated)
        repeated[name] = repeated.get(name, 0) + 1


def log_repeated() -> None:
    """One line in the log that sums up what was repeated; at the end of the process."""
    parts = ", ".join(f"{name} {count}" for name, count in sorted(repeated.items()))
    logger.warning("storage: requests that failed and were repeated: %d (%s)", sum(repeated.values()), parts)


def with_retries(filesystem: fs.FileSystem) -> fs.FileSystem:
    """The same file system with every operation repeated."""
    return fs.PyFileSystem(Retrying(filesystem))


class Retrying(fs.FileSystemHandler):
    """Hands every operation on, and repeats it."""

    def __init__(self, inner: fs.FileSystem) -> None:
        self.inner = inner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Retrying) and self.inner == other.inner

    def __hash__(self) -> int:
        return hash(type(self))

    def get_type_name(self) -> str:
        return f"retrying-{self.inner.type_name}"

    def normalize_path(self, path: str) -> str:
        return self.inner.normalize_path(path)

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return retried("look up", lambda _: self.inner.get_file_info(paths))

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        return retried("list", lambda _: self.inner.get_file_info(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        retried("create", lambda _: self.inner.create_dir(path, recursive=recursive))

    def delete_dir(self, path: str) -> None:
        self._delete(lambda: self.inner.delete_dir(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._delete(lambda: self.inner.delete_dir_contents(path, missing_dir_ok=missing_dir_ok))

    def delete_root_dir_contents(self) -> None:
        self._delete(lambda: self.inner.delete_dir_contents("", accept_root_dir=True))

    def delete_file(self, path: str) -> None:
        self._delete(lambda: self.inner.delete_file(path))

    def _delete(self, operation: Callable[[], None]) -> None:
        def delete(attempt: int) -> None:
            try:
                operation()
            except FileNotFoundError:
                if attempt == 0:  # later on it is gone because the answer was lost
                    raise

        retried("delete", delete)

    def move(self, source: str, target: str) -> None:
        self.inner.move(source, target)  # not safe to repeat: the source may be gone

    def copy_file(self, source: str, target: str) -> None:
        retried("copy", lambda _: self.inner.copy_file(source, target))

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(_Reader(self.inner, path), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return pa.PythonFile(_Writer(self.inner, path, metadata), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        return self.inner.open_append_stream(path, metadata=metadata)  # not repeated: a piece could be there twice


class _Reader:
    """A file whose pieces are read again where reading failed."""

    def __init__(self, inner: fs.FileSystem, path: str) -> None:
        self._inner, self._path, self._position, self.closed = inner, path, 0, False
        self._file = retried("open", self._open)
        self._size = self._file.size()

    def _open(self, _: int) -> pa.NativeFile:
        return self._inner.open_input_file(self._path)

    def read(self, size: int = -1) -> bytes:
        remaining = self._size - self._position
        count = remaining if size is None or size < 0 else min(size, remaining)
        piece = retried("read", lambda attempt: self._read(attempt, count)) if count > 0 else b""
        self._position += len(piece)
        return piece

    def _read(self, attempt: int, count: int) -> bytes:
        if attempt:
            self._file = self._open(attempt)
            if self._file.size() != self._size:
                raise Replaced(f"{self._path} was replaced while it was read")
        piece = self._file.read_at(count, self._position)
        if len(piece) != count:
            raise OSError(f"{len(piece)} of {count} bytes came")
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True
        self._file.close()


class _Writer:
    """A file that is gathered, in memory or in a temporary file, and uploaded whole when it is closed."""

    def __init__(self, inner: fs.FileSystem, path: str, metadata: Any) -> None:
        self._inner, self._path, self._metadata = inner, path, metadata
        self._content = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed by close
        self._whole, self.closed = True, False

    def write(self, piece: Any) -> int:
        self._whole = False  # until this piece is there
        count = self._content.write(bytes(piece))
        self._whole = True
        return count

    def flush(self) -> None:
        """Nothing is visible before the end."""

    def tell(self) -> int:
        return self._content.tell()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            try:
                if self._whole:
                    retried("write", self._upload)
            finally:
                self._content.close()

    def _upload(self, _: int) -> None:
        self._content.seek(0)
        with self._inner.open_output_stream(self._path, metadata=self._metadata) as stream:
            while piece := self._content.read(_CHUNK):
                stream.write(piece)
