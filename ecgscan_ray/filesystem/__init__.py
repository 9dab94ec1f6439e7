"""Where stores and runs live: a local folder, ``s3://bucket/prefix``, or any other URI that pyarrow knows.

Settings and credentials of S3: ``filesystem.s3``.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from pyarrow import ArrowException, fs

from ecgscan_ray.errors import StoreError, UnreachableError
from ecgscan_ray.filesystem import s3
from ecgscan_ray.filesystem.retry import (
    DENIED,
    NO_BUCKET,
    NOBODY_THERE,
    OTHER_REGION,
    OVERLOADED,
    UNREACHABLE,
    is_permanent,
    retried,
    with_retries,
)
from ecgscan_ray.uris import absolute, is_local

__all__ = ["absolute", "is_local"]  # re-exported

_PROBE_ERRORS = (OSError, ArrowException)
FIRST_CONTACT_S = 9.0
"""No attempt to reach a server for the first time begins later than this after the first one."""
_reached: set[tuple[str, str]] = set()
"""Servers and buckets that have answered this process."""


def open_filesystem(uri: str, create: bool = False) -> tuple[fs.FileSystem, str]:
    """The file system behind ``uri`` and the path on it.

    Operations on what is not local are repeated where they fail (``filesystem.retry``).

    Args:
        uri: A local path, ``file://``, ``s3://bucket/prefix``, or another URI that pyarrow knows.
        create: Make the folder and show by a small object that it can be written.

    Raises:
        StoreError: The URI is not understood, its server does not answer, its bucket is not there, or (with ``create``)
            it cannot be written.
    """
    uri = absolute(uri)
    if is_local(uri):
        filesystem, path = fs.LocalFileSystem(), uri
    elif uri.startswith("s3://"):
        filesystem, path = _bucket(uri), uri.removeprefix("s3://")
    elif uri.startswith(("http://", "https://")) and not create:
        from ecgscan_ray.filesystem.web import open_web

        filesystem, path = open_web(uri), uri
    else:
        filesystem, path = _other(uri)
    if create:
        _create(uri, filesystem, path)
    return filesystem, path


def _other(uri: str) -> tuple[fs.FileSystem, str]:
    """Other storage, after a first contact."""
    filesystem, path = other_filesystem(uri)
    server = uri.partition("://")[2].partition("/")[0]
    contact = (filesystem.type_name, server)
    if contact not in _reached:
        with explained(uri, "cannot be reached"):
            retried("connect", lambda _: _look(filesystem, path), FIRST_CONTACT_S)
        _reached.add(contact)
    return with_retries(filesystem), path


def other_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """pyarrow's file system for a URI that is neither local nor S3, without our retries.

    Raises:
        StoreError: The URI is not understood.
    """
    scheme, _, rest = uri.partition("://")
    server, slash, path = rest.partition("/")
    options = (
        "?retry_limit_seconds=10" if scheme in ("gs", "gcs") else ""
    )  # the default is 15 minutes without a message
    with explained(uri, "not usable as storage"):
        try:
            filesystem, path = fs.FileSystem.from_uri(f"{scheme}://{server}{slash}{quote(path)}{options}")
        except ValueError as error:
            raise StoreError(f"not understood ({_short(error)})", where=uri, fix="Use a path or s3://...") from None
    return filesystem, path


def _look(filesystem: fs.FileSystem, path: str) -> None:
    try:
        filesystem.get_file_info(path)
    except OSError as error:
        if not is_permanent(error):  # a server that refuses has answered
            raise


def _bucket(uri: str) -> fs.FileSystem:
    """S3, after a first contact that fails soon if no server answers."""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    contact = (str(s3.endpoint_and_region()), bucket)
    if contact not in _reached:
        _first_contact(uri, bucket)
        _reached.add(contact)
    twice = fs.AwsStandardS3RetryStrategy(max_attempts=2)  # the rest is ours, whose pauses are shorter and are counted
    return with_retries(s3.s3_filesystem(connect_timeout=10, request_timeout=30, retry_strategy=twice))


def _first_contact(uri: str, bucket: str) -> None:
    once = s3.s3_filesystem(
        connect_timeout=5, request_timeout=6, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1)
    )

    def look(attempt: int) -> bool:
        try:
            return once.get_file_info(bucket).type != fs.FileType.NotFound
        except OSError as error:
            if is_permanent(error):  # a server that refuses has answered
                return True
            if NOBODY_THERE.search(str(error)):
                raise ConnectionRefusedError(str(error)) from None
            raise

    with explained(uri, "cannot be reached"):
        if not retried("connect", look, FIRST_CONTACT_S):
            raise StoreError("no such bucket", where=uri, fix="Make the bucket first.")


def _create(uri: str, filesystem: fs.FileSystem, path: str) -> None:
    probe = f"{path}/.probe-{uuid.uuid4().hex}"
    with explained(uri, "cannot be written"):
        if is_local(uri):  # a bucket has no folders, and is not ours to make
            filesystem.create_dir(path, recursive=True)
        with filesystem.open_output_stream(probe) as stream:
            stream.write(b"ecgscan")
        filesystem.delete_file(probe)


@contextmanager
def explained(uri: str, what: str) -> Iterator[None]:
    """Turn the errors of file systems inside the block into one-line ``StoreError``.

    Args:
        uri: Named as the location of the error.
        what: What could not be done, e.g. ``cannot be written``.
    """
    try:
        yield
    except _PROBE_ERRORS as error:
        text = str(error)
        if isinstance(error, PermissionError) or DENIED.search(text):
            fix = "Check its permissions and your credentials (for a public bucket: AWS_NO_SIGN_REQUEST=YES)."
            raise StoreError(f"{what}: access denied", where=uri, fix=fix) from None
        if NO_BUCKET.search(text):
            raise StoreError(f"{what}: no such bucket", where=uri, fix="Make the bucket first.") from None
        region = OTHER_REGION.search(text)
        if region:
            fix = f"Set AWS_REGION={region.group(1)}."
            raise StoreError(f"{what}: its bucket is in another region", where=uri, fix=fix) from None
        if UNREACHABLE.search(text):
            fix = "Check AWS_ENDPOINT_URL and the network." if uri.startswith("s3") else "Check the network."
            raise UnreachableError(f"{what}: its server does not answer", where=uri, fix=fix) from None
        kind = UnreachableError if OVERLOADED.search(text) and not is_local(uri) else StoreError
        raise kind(f"{what} ({_short(error)})", where=uri) from None


def _short(error: BaseException) -> str:
    """The first line of an error, without what a server added to it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def join(uri: str, *parts: str) -> str:
    """``uri``, made absolute, with the names ``parts`` appended, one slash between each."""
    return "/".join([absolute(uri).rstrip("/"), *(part.strip("/") for part in parts)])


def exists(uri: str) -> bool:
    """Whether a file or folder (for S3: an object, or a prefix with objects) exists."""
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be read"):
        return filesystem.get_file_info(path).type != fs.FileType.NotFound


def list_files(uri: str, recursive: bool = False) -> list[str]:
    """Names of the files under ``uri``, relative to it and sorted; empty where there is no such folder."""
    return sorted(list_sizes(uri, recursive))


def list_sizes(uri: str, recursive: bool = False) -> dict[str, int]:
    """Name -> bytes of the files under ``uri``; as ``list_files``."""
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be listed"):
        infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=recursive))
    return {info.path[len(path) :].lstrip("/"): info.size for info in infos if info.type == fs.FileType.File}


def list_names(uri: str) -> list[str]:
    """Names of the files and folders directly under ``uri``, sorted; empty where there is no such folder."""
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be listed"):
        infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in infos)


def read_bytes(uri: str) -> bytes:
    """The content of one file.

    Raises:
        StoreError: It is absent or cannot be read.
    """
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be read"), filesystem.open_input_file(path) as stream:
        return stream.read()


def write_bytes_atomic(uri: str, data: bytes) -> None:
    """Write one file so that it appears whole or not at all.

    A local file is written under a temporary name in the same folder, flushed to disk and moved. An object in a bucket
    becomes visible with the end of its upload by itself.
    """
    filesystem, path = open_filesystem(uri)
    if not isinstance(filesystem, fs.LocalFileSystem):
        with explained(uri, "cannot be written"), filesystem.open_output_stream(path) as stream:
            stream.write(data)
        return
    temporary = f"{path}.tmp-{uuid.uuid4().hex}"
    with explained(uri, "cannot be written"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.remove(temporary)
            raise


def delete_file(uri: str) -> None:
    """Remove one file; none there is no error."""
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be removed"):
        if filesystem.get_file_info(path).type == fs.FileType.File:
            filesystem.delete_file(path)


def delete_folder(uri: str) -> None:
    """Remove a folder and all in it; none there is no error. A bucket has objects alone."""
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be removed"):
        if filesystem.get_file_info(path).type == fs.FileType.Directory:
            filesystem.delete_dir(path)


@contextmanager
def local_folder(uri: str) -> Iterator[Path]:
    """A folder on this machine to write into: ``uri`` itself, or a temporary one whose files go there at the end.

    Raises:
        StoreError: The URI cannot be written; for one in a bucket this is checked before the block begins.
    """
    if is_local(uri):
        yield Path(absolute(uri))
        return
    open_filesystem(uri, create=True)
    with tempfile.TemporaryDirectory(prefix="ecgscan-upload-") as folder:
        yield Path(folder)
        for name in list_files(folder, recursive=True):
            write_bytes_atomic(join(uri, name), (Path(folder) / name).read_bytes())
