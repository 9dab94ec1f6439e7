"""A proxy that makes a share of requests to an HTTP server fail, as storage does on bad days.

``python -m tests.failing_server PORT UPSTREAM_PORT SHARE [SEED]``. Kinds of failure: refused for now (503), connection
reset before anything happened, answer lost after the request took effect, body cut in the middle, answer late by
``DELAY_S``. ``GET /-/counts`` answers with the numbers of requests and failures.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KINDS = ("busy", "reset", "lost", "cut", "late")
DELAY_S = 2.0
_NOT_HANDED_ON = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length"}


class FailingServer(ThreadingHTTPServer):
    """Listens on 127.0.0.1; ``share`` can be changed while it runs."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, upstream: int, share: float, seed: int = 0, delay_s: float = DELAY_S) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.upstream, self.share, self.delay_s = upstream, share, delay_s
        self.counts: Counter[str] = Counter()
        self._random, self._lock = random.Random(seed), threading.Lock()

    def fate(self) -> str:
        """What becomes of the next request."""
        with self._lock:
            kind = self._random.choice(KINDS) if self._random.random() < self.share else "good"
            self.counts[kind] += 1
            return kind

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FailingServer

    def log_message(self, *_: object) -> None:
        """Silent."""

    def _any(self) -> None:
        body = self._body()
        if self.path == "/-/counts":
            return self._answer(200, [], json.dumps(self.server.counts).encode())
        fate = self.server.fate()
        if fate == "busy":
            text = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
            return self._answer(503, [("Content-Type", "application/xml")], text)
        if fate == "reset":
            return self._hang_up()
        if fate == "late":
            time.sleep(self.server.delay_s)
        status, headers, answer = self._upstream(body)
        if fate == "lost":
            return self._hang_up()
        self._answer(status, headers, answer, cut=fate == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return body

    def _upstream(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=120)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_HANDED_ON}
            connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, cut: bool = False) -> None:
        size = next((value for name, value in headers if name.lower() == "content-length"), str(len(body)))
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _NOT_HANDED_ON:
                self.send_header(name, value)
        self.send_header("Content-Length", size)
        self.end_headers()
        if cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            return self._hang_up()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST, no FIN
        self.connection.close()


if __name__ == "__main__":
    FailingServer(
        int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int((sys.argv[4:] or ["0"])[0])
    ).serve_forever()
