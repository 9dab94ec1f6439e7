"""Files of a server of the web, to be read alone: what ``filesystem.retry`` asks of a pyarrow file system, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

import urllib3
from pyarrow import fs

from ecgscan_ray.errors import UnreachableError
from ecgscan_ray.filesystem.retry import UNREACHABLE, retried, with_retries

_CONNECTIONS = 32
FIRST_CONTACT_S = 9.0
_REDIRECTS = urllib3.Retry(connect=0, read=0, status=0, other=0, redirect=5)
"""Repeating what failed is the layer's above."""


class WebFiles:
    """Paths are whole addresses; errors are those of Python's files."""

    type_name = "web"

    def __init__(self) -> None:
        timeout = urllib3.Timeout(connect=5, read=30)
        self._pool = urllib3.PoolManager(maxsize=_CONNECTIONS, timeout=timeout, retries=_REDIRECTS)

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        """Of each address, whether there is something."""
        return [self._info(path) for path in paths]

    def open_input_file(self, path: str) -> WebFile:
        """A file whose size is known."""
        length = self.request("HEAD", path).headers.get("Content-Length")
        if length is None:
            raise OSError("its server states no size")
        return WebFile(self, path, int(length))

    def _info(self, path: str) -> fs.FileInfo:
        try:
            self.request("HEAD", path)
        except FileNotFoundError:
            return fs.FileInfo(path, type=fs.FileType.NotFound)
        return fs.FileInfo(path, type=fs.FileType.File)

    def request(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> urllib3.BaseHTTPResponse:
        """An answer with its whole body.

        Raises:
            OSError: There is none; ``FileNotFoundError`` and ``PermissionError`` are final.
        """
        scheme, _, rest = path.partition("://")
        server, slash, name = rest.partition("/")
        try:
            answer = self._pool.request(
                method,
                f"{scheme}://{server}{slash}{quote(name)}",
                headers={"Accept-Encoding": "identity", **(headers or {})},
            )
        except urllib3.exceptions.HTTPError as error:
            raise OSError(f"NETWORK_CONNECTION: {error}") from None
        if answer.status in (404, 410):
            raise FileNotFoundError(path)
        if answer.status in (401, 403):
            raise PermissionError(path)
        if answer.status >= 400:
            raise OSError(f"HTTP status {answer.status}")
        return answer


class WebFile:
    """A file, read piece by piece."""

    def __init__(self, files: WebFiles, path: str, size: int) -> None:
        self._files, self._path, self._size = files, path, size

    def size(self) -> int:
        """Bytes."""
        return self._size

    def read_at(self, count: int, position: int) -> bytes:
        """A piece; from a server without ranges, cut out of the whole."""
        answer = self._files.request("GET", self._path, {"Range": f"bytes={position}-{position + count - 1}"})
        return answer.data if answer.status == 206 else answer.data[position : position + count]

    def close(self) -> None:
        """Each piece was a request of its own."""


def open_web(uri: str) -> fs.FileSystem:
    """The files of the web, after a first contact that fails soon if no server answers.

    Raises:
        UnreachableError: It does not answer.
    """
    files = WebFiles()

    def look(_: int) -> None:
        try:
            files.get_file_info([uri])
        except OSError as error:
            if UNREACHABLE.search(str(error)):  # a server that refuses has answered
                raise

    try:
        retried("connect", look, FIRST_CONTACT_S)
    except OSError:
        problem = "cannot be reached: its server does not answer"
        raise UnreachableError(problem, where=uri, fix="Check the address and the network.") from None
    return with_retries(files)
