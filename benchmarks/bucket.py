"""A bucket to measure with: files of a folder over S3's protocol, read-only, each answer later by some milliseconds.

``python -m benchmarks.bucket FOLDER PORT LATENCY_MS``. It answers what reading needs (HEAD, GET with ranges, list-type=2), in
a process of its own, and costs far less processor time than moto's server, which would be what is measured.
"""

from __future__ import annotations

import os
import sys
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000


class Bucket(ThreadingHTTPServer):
    """Serves ``folder`` as any bucket."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder: Path, port: int, latency_s: float) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.folder, self.latency_s = folder, latency_s
        self.keys = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket
    wbufsize = 2**16

    def log_message(self, *_: object) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self._object(with_body=False)

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list({name: values[0] for name, values in query.items()})
        else:
            self._object(with_body=True)

    def _object(self, with_body: bool) -> None:
        key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
        path = self.server.folder / key
        if not key:
            return self._answer(200, b"")
        if not path.is_file():
            return self._answer(404, b"", {"Content-Length": "0"})
        content = path.read_bytes() if with_body else b""
        size = len(content) if with_body else os.path.getsize(path)
        headers, status = {"ETag": '"0"', "Last-Modified": formatdate(0, usegmt=True), "Accept-Ranges": "bytes"}, 200
        if with_body and (asked := self.headers.get("Range")):
            first, last = asked.removeprefix("bytes=").split("-")
            stop = min(size, int(last or size - 1) + 1)
            headers["Content-Range"] = f"bytes {first}-{stop - 1}/{size}"
            content, status = content[int(first) : stop], 206
        self._answer(status, content, headers | {"Content-Length": str(len(content) if with_body else size)})

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        names: list[str] = []
        for key in (key for key in self.server.keys if key.startswith(prefix)):
            rest = key[len(prefix) :]
            name = prefix + rest.split("/")[0] + "/" if delimiter and "/" in rest else key
            if not names or names[-1] != name:
                names.append(name)
        start = int(query.get("continuation-token", 0))
        page = names[start : start + int(query.get("max-keys", PAGE))]
        entries = "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            if name.endswith("/")
            else f"<Contents><Key>{escape(name)}</Key><Size>{os.path.getsize(self.server.folder / name)}</Size>"
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
        self._answer(200, body.encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        time.sleep(self.server.latency_s)
        self.send_response_only(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


if __name__ == "__main__":
    Bucket(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000).serve_forever()
