"""Names in a bucket: by prefix, several at a time, so that a million files take minutes and not an hour."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from pyarrow import fs

from ecgscan_ray import filesystem
from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem.retry import retried
from ecgscan_ray.filesystem.threads import in_order

_THREADS = 16
MAX_DEPTH = 3
"""Levels of folders that are listed one by one, in search of enough prefixes for all threads."""


def keys_below(uri: str) -> Iterator[str]:
    """Paths of all files below ``uri``, from there, without hidden ones.

    Raises:
        StoreError: There is no such bucket, or it cannot be listed.
    """
    lister = _S3(uri) if uri.startswith("s3://") else _Other(uri)
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
    return (_S3(uri) if uri.startswith("s3://") else _Other(uri)).files()


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


class _S3:
    """Pages of 1,000 keys, each repeated by itself where it fails: boto3 says where a listing goes on."""

    def __init__(self, uri: str) -> None:
        filesystem.open_filesystem(uri)  # a clear line where nobody answers
        self._uri, self._client = uri, filesystem.s3_client()
        self._bucket, _, path = uri.removeprefix("s3://").partition("/")
        self._root = f"{path}/" if path else ""

    def level(self, prefix: str) -> tuple[list[str], list[str]]:
        """Files directly under a prefix, and the prefixes in it."""
        files, inner = list[str](), list[str]()
        for page in self._pages(prefix, Delimiter="/"):
            files += self._names(page)
            inner += [entry["Prefix"][len(self._root) :] for entry in page.get("CommonPrefixes", [])]
        return files, inner

    def files(self) -> Iterator[tuple[str, int, str]]:
        """Name, bytes and time of the files directly under the root."""
        for page in self._pages("", Delimiter="/"):
            for entry in page.get("Contents", []):
                yield entry["Key"], entry["Size"], str(entry["LastModified"])

    def all_below(self, prefix: str) -> list[str]:
        """All files under a prefix."""
        return [name for page in self._pages(prefix) for name in self._names(page)]

    def _names(self, page: dict[str, Any]) -> list[str]:
        keys = (entry["Key"][len(self._root) :] for entry in page.get("Contents", []))
        return [key for key in keys if key and not key.endswith("/") and not _hidden(key)]

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


class _Other:
    """Any file system of pyarrow."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._files, root = filesystem.open_filesystem(uri)
        self._root = root.rstrip("/")

    def level(self, prefix: str) -> tuple[list[str], list[str]]:
        """Files directly under a prefix, and the prefixes in it."""
        infos = self._infos(prefix, recursive=False)
        names = {kind: [path for path, is_kind in infos if is_kind == kind] for kind in (True, False)}
        return [path for path in names[True] if not _hidden(path)], [f"{path}/" for path in names[False]]

    def files(self) -> Iterator[tuple[str, int, str]]:
        """Name, bytes and time of the files directly under the root."""
        with filesystem.explained(self._uri, "cannot be listed"):
            infos = self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True))
        return ((info.base_name, info.size, str(info.mtime_ns)) for info in infos if info.type == fs.FileType.File)

    def all_below(self, prefix: str) -> list[str]:
        """All files under a prefix."""
        return [path for path, is_file in self._infos(prefix, recursive=True) if is_file and not _hidden(path)]

    def _infos(self, prefix: str, recursive: bool) -> list[tuple[str, bool]]:
        selector = fs.FileSelector(f"{self._root}/{prefix}".rstrip("/"), recursive=recursive)
        with filesystem.explained(self._uri, "cannot be listed"):
            try:
                infos = self._files.get_file_info(selector)
            except FileNotFoundError:
                raise StoreError("no such folder", where=self._uri) from None
        return sorted((info.path[len(self._root) :].lstrip("/"), info.type == fs.FileType.File) for info in infos)
