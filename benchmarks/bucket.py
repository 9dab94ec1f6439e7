"""A bucket to measure with: files of a folder over S3's protocol, read-only, each answer later by some milliseconds.

``python -m benchmarks.bucket FOLDER PORT LATENCY_MS``. It answers what reading needs (HEAD, GET with ranges, list-type=2), in
a process of its own with one thread: moto's server, and one with a thread for each connection, need so much processor time that
they would be what is measured.
"""

from __future__ import annotations

import asyncio
import os
import sys
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000
_REASONS = {200: "OK", 206: "Partial Content", 404: "Not Found"}


class Bucket:
    """Serves ``folder`` as any bucket."""

    def __init__(self, folder: Path, latency_s: float) -> None:
        self.folder, self.latency_s = folder, latency_s
        self.keys = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def answer(self, method: str, target: str, headers: dict[str, str]) -> bytes:
        """Head and body."""
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if method == "GET" and "list-type" in query:
            return self._list(query)
        return self._object(unquote(parts.path).lstrip("/").partition("/")[2], method == "GET", headers.get("range"))

    def _object(self, key: str, with_body: bool, asked: str | None) -> bytes:
        path = self.folder / key
        if not key:
            return _answer(200, b"")
        if not path.is_file():
            return _answer(404, b"")
        content = path.read_bytes() if with_body else b""
        size = len(content) if with_body else os.path.getsize(path)
        headers, status = {"ETag": '"0"', "Last-Modified": formatdate(0, usegmt=True), "Accept-Ranges": "bytes"}, 200
        if with_body and asked:
            first, last = asked.removeprefix("bytes=").split("-")
            stop = min(size, int(last or size - 1) + 1)
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{size}"
            content, status = content[int(first) : stop], 206
        return _answer(status, content, headers | {"Content-Length": str(len(content) if with_body else size)})

    def _list(self, query: dict[str, str]) -> bytes:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        names: list[str] = []
        for key in (key for key in self.keys if key.startswith(prefix)):
            rest = key[len(prefix) :]
            name = prefix + rest.split("/")[0] + "/" if delimiter and "/" in rest else key
            if not names or names[-1] != name:
                names.append(name)
        start = int(query.get("continuation-token", 0))
        page = names[start : start + int(query.get("max-keys", PAGE))]
        entries = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            if name.endswith("/")
            else f"<Contents><Key>{escape(name)}</Key><Size>{os.path.getsize(self.folder / name)}</Size>"
            "<LastModified>1970-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in page
        )
        more = start + len(page) < len(names)
        following = f"<NextContinuationToken>{start + len(page)}</NextContinuationToken>" if more else ""
        body = (
            f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>{following}{entries}"
            "</ListBucketResult>"
        )
        return _answer(200, body.encode(), {"Content-Type": "application/xml"})


def _answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    fields = {"Content-Length": str(len(body))} | (headers or {})
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


class _Connection(asyncio.Protocol):
    """Requests without bodies, one after the other."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket, self._received = bucket, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            first, *fields = head.decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            answer = self._bucket.answer(method, target, headers)
            asyncio.get_running_loop().call_later(self._bucket.latency_s, self._transport.write, answer)


async def serve(folder: Path, port: int, latency_s: float) -> None:
    """Until the process ends."""
    bucket = Bucket(folder, latency_s)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(bucket), "127.0.0.1", port, backlog=128)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
