"""The files of an archive, read in one way wherever it lies: in a folder, in a bucket, or at an address of the web.

A file of a bucket or of the web is read with bounded, counted retries (``filesystem.retry``), one of S3 by one request; one
that a library must open by its name is copied for as long as it is needed. Nothing is staged as a whole.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import shutil
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from pyarrow import fs

from ecgscan_ray import filesystem
from ecgscan_ray.errors import InputError, RecordingError, printable
from ecgscan_ray.filesystem.listing import files_at, keys_below
from ecgscan_ray.filesystem.retry import TooLarge
from ecgscan_ray.filesystem.threads import in_order

if TYPE_CHECKING:
    from ecgscan_ray.filesystem.objects import Objects

logger = logging.getLogger(__name__)

THREADS = 16
"""Requests in flight where many small files are read."""
MAX_FILE_BYTES = 512 * 2**20
"""Of a file that is read as a whole: twice the samples that one recording may have."""
IN_PARTS = (".h5", ".hdf5")
"""Endings of files that hold many recordings: of these, what is needed is asked for when it is."""
_BUFFER = 256 * 2**10
_WEB = ("http://", "https://")


Contents = Mapping[str, bytes | Exception]
"""Path from the root -> what a file holds, or why it cannot be read."""


class ArchiveFiles:
    """The files below a root. Cheap to make: pass ``root`` to another process, and make another there.

    Attributes:
        root: Its URI.
        is_local: Whether it is a folder of this machine.

    Args:
        root: A folder, ``s3://bucket/prefix``, ``gs://bucket/prefix`` or ``https://server/path``.

    Raises:
        StoreError: The root is not understood.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = filesystem.absolute(os.fspath(root))
        self.is_local = filesystem.is_local(self.root)
        self._opening = threading.Lock()
        self._folders = deque[Path]()
        self._fetched: Contents = {}

    @cached_property
    def _files(self) -> tuple[fs.FileSystem, str]:
        files, path = filesystem.open_filesystem(self.root)
        return files, path.rstrip("/")

    @property
    def _objects(self) -> Objects | None:
        """Of S3; opened once, whichever thread needs it first."""
        with self._opening:
            return self._opened_objects

    @cached_property
    def _opened_objects(self) -> Objects | None:
        if not self.root.startswith("s3://"):
            return None
        from ecgscan_ray.filesystem.objects import open_objects  # boto3 takes long to import

        return open_objects(self.root)

    def uri(self, path: str = "") -> str:
        """A file by its whole name, for messages."""
        return f"{self.root.rstrip('/')}/{path}" if path else self.root

    def stamp(self) -> str:
        """Of names, sizes and times of the files directly in the root: another one where a table there has changed.

        Raises:
            StoreError: The storage cannot be listed.
        """
        if not self.has_folders:
            return ""
        total = 0
        for facts in _facts(self.root) if self.is_local else files_at(self.root):
            digest = hashlib.blake2b(repr(facts).encode("utf-8", "backslashreplace"), digest_size=16).digest()
            total ^= int.from_bytes(digest, "little")  # in any order, without a list of them
        return f"{total:032x}"

    def names(self, suffixes: tuple[str, ...]) -> Iterator[str]:
        """Paths from the root of all files with one of these endings, in an order that is the same each time.

        Hidden files and folders (``._a.hea`` of macOS) are left out. Links to folders are followed last, and no folder is
        read twice.

        Raises:
            InputError: There is no such folder, or it cannot be listed (https).
            StoreError: The bucket cannot be listed.
        """
        self.check_can_be_listed()
        paths = _walk(Path(self.root)) if self.is_local else keys_below(self.root)
        return (path for path in paths if path.endswith(suffixes))

    def names_at_top(self) -> list[str]:
        """Names of the files directly in the root, sorted, without hidden ones; errors as ``names``."""
        self.check_can_be_listed()
        if self.is_local:  # not by pyarrow, which refuses names that are not UTF-8
            if not os.path.isdir(self.root):
                raise InputError("no such folder", where=self.root)
            names = sorted(name for name in os.listdir(self.root) if os.path.isfile(self.uri(name)))
        else:
            names = filesystem.list_files(self.root)
        return [name for name in names if not name.startswith(".")]

    @property
    def has_folders(self) -> bool:
        """Whether folders can be listed and asked for; those of the web cannot."""
        return not self.root.startswith(_WEB)

    def exists(self, path: str) -> bool:
        """Whether there is such a file or, where there are folders, such a folder.

        Raises:
            StoreError: The storage does not say.
        """
        if self.is_local:
            return os.path.exists(self.uri(path))
        files, root = self._files
        with filesystem.explained(self.uri(path), "cannot be read"):
            return files.get_file_info(f"{root}/{path}").type != fs.FileType.NotFound

    def open(self, path: str, whole: bool = False) -> BinaryIO:
        """A file to read from at any position.

        Args:
            path: From the root.
            whole: All of it is needed: an object of S3 is then one request.

        Raises:
            OSError: ``FileNotFoundError`` where there is none; others only of a local file.
            RecordingError: It is needed whole and has more than ``MAX_FILE_BYTES``.
            StoreError: The storage cannot be read.
        """
        if self.is_local:
            return open(self.uri(path), "rb")
        if whole and self._objects:
            return io.BytesIO(self._whole(path))
        return cast(BinaryIO, io.BufferedReader(self._open(path), _BUFFER))

    def _open(self, path: str) -> _File:
        files, root = self._files
        with filesystem.explained(self.uri(path), "cannot be read"):
            try:
                return _File(self.uri(path), files, f"{root}/{path}")
            except FileNotFoundError:
                pass  # outside the block, which would translate it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.uri(path))

    def read(self, path: str, limit: int | None = None) -> bytes:
        """The content of a file, or its first ``limit`` bytes; errors as ``open``."""
        if self._objects:
            return self._objects.read(path, limit)
        with open(self.uri(path), "rb") if self.is_local else self._open(path) as file:
            content = file.read(-1 if limit is None else limit)
        return content or b""

    def read_each(self, paths: Iterator[str] | Sequence[str], limit: int | None = None) -> Iterator[bytes | None]:
        """``read`` of each path in order, several requests at a time; ``None`` where there is no such file."""

        def read(path: str) -> bytes | None:
            try:
                return self.read(path, limit)
            except OSError:
                return None

        if self.is_local:  # threads would only wait for each other
            return map(read, paths)
        return in_order(read, paths, THREADS)

    def fetch(self, paths: Sequence[str]) -> Contents:
        """Files as a whole but those ``IN_PARTS``, for ``fetched``; requests and nothing else, as fits threads.

        Raises:
            StoreError: The storage cannot be read.
        """
        contents: dict[str, bytes | Exception] = {}
        for path in paths:
            if path.lower().endswith(IN_PARTS):
                continue
            try:
                contents[path] = self._requested(path)
            except (FileNotFoundError, RecordingError) as error:
                contents[path] = error
        return contents

    @contextmanager
    def fetched(self, contents: Contents) -> Iterator[None]:
        """Within the block these files are not asked for again."""
        self._fetched = contents
        try:
            yield
        finally:
            self._fetched = {}

    def check_can_be_listed(self) -> None:
        """Refuse an archive of the web, whose files nothing lists.

        Raises:
            InputError: It is one.
        """
        if not self.has_folders:
            fix = "Only archives with a table of their files can be read from the web; copy this one to a folder."
            raise InputError("an address of the web cannot be listed", where=self.root, fix=fix)

    @contextmanager
    def local(self, paths: Sequence[str], below: str = "") -> Iterator[Path]:
        """A folder of this machine in which these files lie under their paths from a folder of the archive.

        It is that folder itself where the archive is local, else a temporary one with copies, which the next call may use
        again. A file that does not exist, or is not below the folder, is absent there too.

        Args:
            paths: From the root.
            below: The folder; by default the root.

        Raises:
            RecordingError: One has more than ``MAX_FILE_BYTES``.
            StoreError: The storage cannot be read.
        """
        if self.is_local:
            yield Path(self.root, below)
            return
        folder = self._free_folder()
        copies = list[Path]()
        try:
            for path in dict.fromkeys(paths):
                copies += self._copy(path, below, folder)
            yield folder
        finally:
            for copy in copies:
                copy.unlink(missing_ok=True)
            self._folders.append(folder)

    def _free_folder(self) -> Path:
        """Making and removing one takes longer than reading from it."""
        try:
            return self._folders.pop()
        except IndexError:
            folder = tempfile.mkdtemp(prefix="ecgscan-files-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            return Path(folder)

    def _whole(self, path: str) -> bytes:
        """The content of a file that is not larger than ``MAX_FILE_BYTES``."""
        content = self._fetched.get(path)
        if isinstance(content, Exception):
            raise content
        return self._requested(path) if content is None else content

    def _requested(self, path: str) -> bytes:
        try:
            if self._objects:
                return self._objects.read(path, most=MAX_FILE_BYTES)
            content = self.read(path, MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise TooLarge(len(content))
        except TooLarge:
            problem = f"more than {MAX_FILE_BYTES} bytes"
            raise RecordingError(problem, reason="too_large", where=self.uri(path)) from None
        return content

    def _copy(self, path: str, below: str, folder: Path) -> list[Path]:
        """The copy of a file; nothing where there is none."""
        name = os.path.relpath(path, below or ".")
        if name.startswith(("..", "/")):
            return []
        try:
            content = self._whole(path)
        except FileNotFoundError:
            return []
        target = folder / name
        if "/" in name:
            target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return [target]


class _File(io.RawIOBase):
    """A file of a pyarrow file system, whose errors are one clear line."""

    def __init__(self, uri: str, files: fs.FileSystem, path: str) -> None:
        self._uri, self._file = uri, files.open_input_file(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        content = self._read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        return self._read(-1)

    def _read(self, size: int) -> bytes:
        with filesystem.explained(self._uri, "cannot be read"):
            return bytes(self._file.read(size) if size >= 0 else self._file.read())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _facts(root: str) -> Iterator[tuple[str, int, int]]:
    """Name, bytes and time of change of the files directly in a local folder; none where there is no folder."""
    if not os.path.isdir(root):
        return
    for name in os.listdir(root):
        path = os.path.join(root, name)
        if os.path.isfile(path):
            status = os.stat(path)
            yield name, status.st_size, status.st_mtime_ns


def _walk(root: Path) -> Iterator[str]:
    """All files of a local folder, a folder's own before those of the folders in it."""
    if not root.is_dir():
        raise InputError("no such folder", where=root)
    seen: set[tuple[int, int]] = set()
    folders, links, unreadable = [str(root)], list[str](), list[str]()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status, entries = os.stat(folder), sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            unreadable.append(f"{folder} ({error.strerror})")
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        inner = list[str]()
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (links if entry.is_symlink() else inner).append(entry.path)
            else:
                yield os.path.relpath(entry.path, root)
        folders += reversed(inner)
    if unreadable:
        plural = "s" * (len(unreadable) != 1)
        logger.warning("%d folder%s not read: %s", len(unreadable), plural, printable(unreadable[0]))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
