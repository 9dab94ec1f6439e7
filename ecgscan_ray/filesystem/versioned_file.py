"""Small files that are written only over the version that was read: local, in S3, and as well as it goes elsewhere."""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ecgscan_ray import filesystem
from ecgscan_ray.filesystem import s3
from ecgscan_ray.filesystem.retry import retried

T = TypeVar("T")

_NOT_THAT_VERSION = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "404", "409", "412")


@dataclass(frozen=True)
class Seen:
    """What a lease file holds, the version that a conditional write names, and its age by the storage's clock."""

    content: bytes
    version: Any
    age_s: float


class VersionedFile(Protocol):
    """A lease file in one kind of storage."""

    def read(self) -> Seen | None:
        """The file, or ``None``."""

    def write(self, content: bytes, version: Any) -> bool:
        """Replace exactly this version (``None``: there is no file yet); else change nothing and say ``False``."""

    def remove(self) -> None:
        """Delete the file."""


def open_versioned(uri: str) -> VersionedFile:
    """The file at ``uri``, whose folder is made where it is local and absent."""
    if filesystem.is_local(uri):
        return _LocalFile(uri)
    return _S3Object(uri) if uri.startswith("s3://") else _OtherFile(uri)


class _LocalFile:
    """By hard link and rename, behind a lock on the folder where the file system has locks."""

    def __init__(self, uri: str) -> None:
        self._uri, self._path = uri, filesystem.open_filesystem(uri)[1]
        with filesystem.explained(uri, "cannot be written"):
            os.makedirs(os.path.dirname(self._path), exist_ok=True)

    def read(self) -> Seen | None:
        with filesystem.explained(self._uri, "cannot be read"), self._alone():
            try:
                with open(self._path, "rb") as file:
                    written = os.fstat(file.fileno()).st_mtime
                    content = file.read()
            except FileNotFoundError:
                return None
            with self._temporary(b"") as now:
                return Seen(content, content, os.stat(now).st_mtime - written)

    def write(self, content: bytes, version: Any) -> bool:
        with filesystem.explained(self._uri, "cannot be written"), self._alone(), self._temporary(content) as temporary:
            if version is None:
                return self._create(temporary, content)
            try:
                if Path(self._path).read_bytes() != version:
                    return False
            except FileNotFoundError:
                return False
            os.replace(temporary, self._path)
            return True

    def _create(self, temporary: str, content: bytes) -> bool:
        try:
            os.link(temporary, self._path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here
            with suppress(FileExistsError), open(self._path, "xb") as file:
                file.write(content)
                return True
            return False
        return True

    def remove(self) -> None:
        with filesystem.explained(self._uri, "cannot be removed"), suppress(FileNotFoundError):
            os.remove(self._path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY)
        try:
            with suppress(OSError):  # NFS locks no folders
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    @contextmanager
    def _temporary(self, content: bytes) -> Iterator[str]:
        path = f"{self._path}.tmp-{uuid.uuid4().hex}"
        try:
            with open(path, "xb") as file:
                file.write(content)
            yield path
        finally:
            with suppress(FileNotFoundError):
                os.remove(path)


class _S3Object:
    """By conditional PUT (``If-None-Match``, ``If-Match``), which pyarrow does not offer."""

    def __init__(self, uri: str) -> None:
        bucket, _, key = filesystem.open_filesystem(uri)[1].partition("/")
        self._uri, self._at, self._client = uri, {"Bucket": bucket, "Key": key}, s3.s3_client()

    def read(self) -> Seen | None:
        return self._retried("cannot be read", self._read)

    def _read(self) -> Seen | None:
        try:
            answer = self._client.get_object(**self._at)
            content = answer["Body"].read()
        except self._client.exceptions.NoSuchKey:
            return None
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return Seen(content, answer["ETag"], (now - answer["LastModified"]).total_seconds())

    def write(self, content: bytes, version: Any) -> bool:
        return self._retried("cannot be written", lambda: self._write(content, version))

    def _write(self, content: bytes, version: Any) -> bool:
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        try:
            self._client.put_object(**self._at, Body=content, **condition)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _NOT_THAT_VERSION:
                return False
            if code not in ("NotImplemented", "501"):
                raise
            self._client.put_object(**self._at, Body=content)  # reading it back shows who was last
            time.sleep(1)
        return True

    def remove(self) -> None:
        self._retried("cannot be removed", lambda: self._client.delete_object(**self._at))

    def _retried(self, what: str, operation: Callable[[], T]) -> T:
        """boto3 repeats requests by itself, but not the reading of an answer that breaks off."""
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        def attempt(_: int) -> T:
            try:
                return operation()
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                raise OSError(f"{error.response['Error'].get('Code')}, HTTP response code {status}") from None
            except (BotoCoreError, HTTPError) as error:
                raise OSError(f"NETWORK_CONNECTION or credentials: {type(error).__name__}") from None

        with filesystem.explained(self._uri, what):
            return retried("lease", attempt)


class _OtherFile:
    """Storage without conditional writes: written, and read back after a moment. Whoever wrote last holds it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def read(self) -> Seen | None:
        if not filesystem.exists(self._uri):
            return None
        files, path = filesystem.open_filesystem(self._uri)
        content = filesystem.read_bytes(self._uri)
        with filesystem.explained(self._uri, "cannot be read"):
            written = files.get_file_info(path).mtime or datetime.now(UTC)
        return Seen(content, content, (datetime.now(UTC) - written).total_seconds())

    def write(self, content: bytes, version: Any) -> bool:
        filesystem.write_bytes_atomic(self._uri, content)
        time.sleep(1)
        return True

    def remove(self) -> None:
        filesystem.delete_file(self._uri)
