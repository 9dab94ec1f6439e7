"""Where stores and runs live: a local folder, ``s3://bucket/prefix``, or any other URI that pyarrow knows.

S3 takes its settings from the usual places alone: ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``, ``AWS_REGION`` or
``AWS_DEFAULT_REGION``, and AWS's own chain of credentials (environment, profile, role of the machine). Nothing here
prints or keeps a credential.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pyarrow import ArrowException, fs

from ecgscan_ray.errors import StoreError

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
_PROBE_ERRORS = (OSError, ArrowException)


def is_local(uri: str) -> bool:
    """Whether ``uri`` is a path on this machine."""
    scheme = _SCHEME.match(uri)
    return scheme is None or scheme.group(1).lower() == "file"


def absolute(uri: str) -> str:
    """``uri`` such that it means the same in every process: Ray's workers run in folders of their own."""
    return os.path.abspath(os.path.expanduser(uri)) if _SCHEME.match(uri) is None else uri.rstrip("/")


def open_filesystem(uri: str, create: bool = False) -> tuple[fs.FileSystem, str]:
    """The file system behind ``uri`` and the path on it.

    Args:
        uri: A local path, ``s3://bucket/prefix``, or another URI that pyarrow knows.
        create: Make the folder and show by a small object that it can be written.

    Raises:
        StoreError: The URI is not understood, or (with ``create``) cannot be reached or written.
    """
    scheme = _SCHEME.match(uri)
    if is_local(uri):
        filesystem: fs.FileSystem = fs.LocalFileSystem()
        path = os.path.abspath(os.path.expanduser(uri[len(scheme.group(0)) :] if scheme else uri))
    elif scheme and scheme.group(1).lower() == "s3":
        filesystem, path = _s3(), uri[len("s3://") :].strip("/")
        if not path:
            raise StoreError("names no bucket", where=uri, fix="Write s3://bucket/prefix.")
    else:
        with explained(uri, "not usable as a place to store"):
            try:
                filesystem, path = fs.FileSystem.from_uri(uri)
            except ValueError as error:
                raise StoreError(f"not understood ({_short(error)})", where=uri, fix="Use a path or s3://...") from None
    if create:
        _create(uri, filesystem, path)
    return filesystem, path


def _s3() -> fs.S3FileSystem:
    endpoint, region = _s3_settings()
    options: dict[str, object] = {"connect_timeout": 10, "request_timeout": 60}
    if endpoint:
        options |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    if region:  # without one, pyarrow asks AWS for the bucket's region
        options["region"] = region
    return fs.S3FileSystem(**options)


def _s3_settings() -> tuple[SplitResult | None, str | None]:
    """The server that AWS's variables name, without a password that may stand there, and the region."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not endpoint:
        return None, region
    parts = urlsplit(endpoint if "//" in endpoint else f"https://{endpoint}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]), region or "us-east-1"


def s3_client() -> Any:
    """A boto3 client with the settings of ``open_filesystem``, for what pyarrow does not offer."""
    from boto3.session import Session
    from botocore.config import Config

    endpoint, region = _s3_settings()
    retries = {"mode": "standard", "total_max_attempts": 10}
    options = Config(
        connect_timeout=10,
        read_timeout=30,
        retries=retries,
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    return Session().client("s3", endpoint_url=endpoint and endpoint.geturl(), region_name=region, config=options)


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
        uri: Named as the place of the error.
        what: What could not be done, e.g. ``cannot be written``.
    """
    try:
        yield
    except _PROBE_ERRORS as error:
        text = str(error)
        if isinstance(error, PermissionError) or re.search("ACCESS_DENIED|Forbidden|HTTP response code 403", text):
            raise StoreError(f"{what}: access denied", where=uri, fix="Check its permissions.") from None
        if re.search("NETWORK_CONNECTION|curlCode|Couldn't connect|resolve host", text):
            fix = "Check AWS_ENDPOINT_URL and the network."
            raise StoreError(f"{what}: its server cannot be reached", where=uri, fix=fix) from None
        if re.search("NO_SUCH_BUCKET|NoSuchBucket", text) or "bucket does not exist" in text:
            raise StoreError(f"{what}: no such bucket", where=uri, fix="Make the bucket first.") from None
        raise StoreError(f"{what} ({_short(error)})", where=uri) from None


def _short(error: BaseException) -> str:
    """The first line of an error, without what a server added to it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def join(uri: str, *parts: str) -> str:
    """``uri`` with ``parts`` appended, one slash between each."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(uri: str) -> bool:
    """Whether a file or folder (for S3: an object or a prefix that has some) is there."""
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be read"):
        return filesystem.get_file_info(path).type != fs.FileType.NotFound


def list_files(uri: str, recursive: bool = False) -> list[str]:
    """Names of the files under ``uri``, relative to it and sorted; empty where there is no such folder."""
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be listed"):
        found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=recursive))
    names = (info.path[len(path) :].lstrip("/") for info in found if info.type == fs.FileType.File)
    return sorted(names)


def list_names(uri: str) -> list[str]:
    """Names of the files and folders directly under ``uri``, sorted; empty where there is no such folder."""
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be listed"):
        found = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in found)


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
