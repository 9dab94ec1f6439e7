"""Names in a bucket: by prefix, several at a time, so that a million files take minutes and not an hour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from pyarrow import fs

from ecgscan_ray import filesystem
from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem import s3
from ecgscan_ray.filesystem.retry import retried
from ecgscan_ray.filesystem.threads import in_order

Entry = TypeVar("Entry")
Describe = Callable[[str, int, object], Entry]
"""What is kept of a file, given its path, bytes and time of change."""

_THREADS = 16
MAX_DEPTH = 3
"""Levels of folders that are listed one by one, in search of enough prefixes for all threads."""


def keys_below(uri: str) -> Iterator[str]:
    """Paths of all files below ``uri``, from there, without hidden ones.

    Raises:
        StoreError: There is no such bucket, or it cannot be listed.
    """
    return _below(uri, lambda name, size, changed: name)


def versions_below(uri: str) -> Iterator[tuple[str, str]]:
    """Path and version (bytes and time of change) of all files below ``uri``, as ``keys_below``.

    Raises:
        StoreError: There is no such bucket, or it cannot be listed.
    """
    return _below(uri, lambda name, size, changed: (name, f"{size} bytes, {changed}"))


def _below(uri: str, describe: Describe[Entry]) -> Iterator[Entry]:
    lister = _S3(uri, describe) if uri.startswith("s3://") else _Other(uri, describe)
    prefixes, depth = [""], 0
    while prefixes and len(prefixes) < _THREADS and depth < MAX_DEPTH:
        levels = list(in_order(lister.level, prefixes, _THREADS))
        for files, _ in levels:
            yield from files
        prefixes = [prefix for _, inner in levels for prefix in inner if not _hidden(prefix)]
        depth += 1
    for names in in_order(lister.all_below, prefixes, _THREADS):
        yield from names


def files_at(uri: str) -> Iterator[tuple[str, int, str]]:
    """Name, bytes and time of change of the files directly below ``uri``.

    Raises:
        StoreError: There is no such bucket, or it cannot be listed.
    """
    lister = _S3[str] if uri.startswith("s3://") else _Other[str]
    return lister(uri, lambda name, size, changed: name).files()


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


class _S3(Generic[Entry]):
    """Pages of 1,000 keys, each repeated by itself where it fails: boto3 says where a listing goes on."""

    def __init__(self, uri: str, describe: Describe[Entry]) -> None:
        filesystem.open_filesystem(uri)  # a clear line where nobody answers
        self._uri, self._describe, self._client = uri, describe, s3.s3_client()
        self._bucket, _, path = uri.removeprefix("s3://").partition("/")
        self._root = f"{path}/" if path else ""

    def level(self, prefix: str) -> tuple[list[Entry], list[str]]:
        """Files directly under a prefix, and the prefixes in it."""
        files, inner = list[Entry](), list[str]()
        for page in self._pages(prefix, Delimiter="/"):
            files += self._entries(page)
            inner += [entry["Prefix"][len(self._root) :] for entry in page.get("CommonPrefixes", [])]
        return files, inner

    def files(self) -> Iterator[tuple[str, int, str]]:
        """Name, bytes and time of the files directly under the root."""
        for page in self._pages("", Delimiter="/"):
            for entry in page.get("Contents", []):
                yield entry["Key"], entry["Size"], str(entry["LastModified"])

    def all_below(self, prefix: str) -> list[Entry]:
        """All files under a prefix."""
        return [entry for page in self._pages(prefix) for entry in self._entries(page)]

    def _entries(self, page: dict[str, Any]) -> list[Entry]:
        files = ((file["Key"][len(self._root) :], file) for file in page.get("Contents", []))
        return [
            self._describe(key, file["Size"], file["LastModified"])
            for key, file in files
            if key and not key.endswith("/") and not _hidden(key)
        ]

    def _pages(self, prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        options |= {"Bucket": self._bucket, "Prefix": self._root + prefix}
        while True:
            with filesystem.explained(self._uri, "cannot be listed"):
                page = retried("list", lambda _: self._page(options))
            yield page
            if not page.get("IsTruncated"):
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def _page(self, options: dict[str, str]) -> dict[str, Any]:
        try:
            page: dict[str, Any] = self._client.list_objects_v2(**options)
            return page
        except (BotoCoreError, ClientError) as error:
            raise OSError(str(error)) from None


class _Other(Generic[Entry]):
    """Any file system of pyarrow."""

    def __init__(self, uri: str, describe: Describe[Entry]) -> None:
        self._uri, self._describe = uri, describe
        self._files, root = filesystem.open_filesystem(uri)
        self._root = root.rstrip("/")

    def level(self, prefix: str) -> tuple[list[Entry], list[str]]:
        """Files directly under a prefix, and the prefixes in it."""
        infos = self._infos(prefix, recursive=False)
        return self._entries(infos), [f"{path}/" for path, info in infos if not info.is_file]

    def files(self) -> Iterator[tuple[str, int, str]]:
        """Name, bytes and time of the files directly under the root."""
        with filesystem.explained(self._uri, "cannot be listed"):
            infos = self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return ((info.base_name, info.size, str(info.mtime_ns)) for info in infos if info.type == fs.FileType.File)

    def all_below(self, prefix: str) -> list[Entry]:
        """All files under a prefix."""
        return self._entries(self._infos(prefix, recursive=True))

    def _entries(self, infos: list[tuple[str, fs.FileInfo]]) -> list[Entry]:
        return [
            self._describe(path, info.size, info.mtime_ns) for path, info in infos if info.is_file and not _hidden(path)
        ]

    def _infos(self, prefix: str, recursive: bool) -> list[tuple[str, fs.FileInfo]]:
        """What is under a prefix, by its path from the root, sorted."""
        selector = fs.FileSelector(f"{self._root}/{prefix}".rstrip("/"), recursive=recursive)
        with filesystem.explained(self._uri, "cannot be listed"):
            try:
                infos = self._files.get_file_info(selector)
            except FileNotFoundError:
                raise StoreError("no such folder", where=self._uri) from None
        named = [(info.path[len(self._root) :].lstrip("/"), info) for info in infos]
        return sorted(named, key=lambda item: item[0])
