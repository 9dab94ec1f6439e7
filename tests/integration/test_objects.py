"""Small files of a bucket: one request each, through faults, with signatures that a server checks, and clear refusals."""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from pyarrow.fs import copy_files

from ecgscan_ray.errors import RecordingError, StoreError
from ecgscan_ray.filesystem import archive as module
from ecgscan_ray.filesystem import open_filesystem, retry
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.filesystem.objects import open_objects
from ecgscan_ray.recording.sources import open_source
from ecgscan_ray.store.work import PrepareJob, PrepareSettings, decode_item, encode_item
from ecgscan_ray.store.writing import read_checked
from tests.failing_server import FailingServer
from tests.ports import free_port
from tests.records import list_items, write_record

NAMES = ["a", "sub/b c+d.hea", "sub/ä~(1)%20=&?#.dat", "empty"]
POLICY = '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}'


def content(name: str) -> bytes:
    return b"" if name == "empty" else name.encode() * 1000


@contextmanager
def served(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def bucket(s3_server: str) -> str:
    root = f"{s3_server}/objects of a test"
    files, path = open_filesystem(root)
    for name in NAMES:
        with files.open_output_stream(f"{path}/{name}") as stream:
            stream.write(content(name))
    return root


@pytest.fixture
def proxy(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingServer]:
    server = FailingServer(free_port(), urlsplit(os.environ["AWS_ENDPOINT_URL"]).port or 0, 0.0, delay_s=0.05)
    with served(server, monkeypatch):
        yield server


def test_a_file_is_one_request(bucket: str, proxy: FailingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = ArchiveFiles(bucket)
    archive.read("a", 1)
    proxy.counts.clear()
    assert list(archive.read_each([*NAMES, "absent"])) == [*map(content, NAMES), None]
    assert proxy.counts.total() == len(NAMES) + 1
    with archive.local([*NAMES, "absent", "../a"]) as folder:
        assert [(folder / name).read_bytes() for name in NAMES] == [*map(content, NAMES)]
        assert not (folder / "absent").exists()
    with archive.open("a", whole=True) as file:
        assert file.read() == content("a")
    assert proxy.counts.total() == 2 * len(NAMES) + 3
    assert [archive.read(name, 5) for name in NAMES] == [content(name)[:5] for name in NAMES]
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 999)
    proxy.counts.clear()
    with pytest.raises(RecordingError, match="more than 999 bytes") as caught, archive.local(["a"]):
        pass
    assert caught.value.reason == "too_large"
    with pytest.raises(FileNotFoundError):
        archive.open("absent", whole=True)
    assert proxy.counts == {"good": 2}


def test_a_recording_is_two_requests(s3_server: str, proxy: FailingServer, tmp_path: Path) -> None:
    """Of a folder's records the header is asked for when they are listed, and not again."""
    for name in ("a", "b", "long"):
        write_record(tmp_path, name)
    with (tmp_path / "a.hea").open("ab") as file:
        file.write("# Diagnose: älter, \x85\n".encode("latin-1"))
    with (tmp_path / "long.hea").open("a") as file:
        file.writelines(f"# {k}\n" for k in range(1000))
    root = f"{s3_server}/records of a test"
    copy_files(str(tmp_path), open_filesystem(root)[1], destination_filesystem=open_filesystem(root)[0])
    items = list_items(open_source("folder"), root)
    job = PrepareJob("folder", root, PrepareSettings(None, None, 0, 1, [], []), "", None, False, 0, {})
    proxy.counts.clear()
    kept = [decode_item(encode_item(item)) for item in items]
    rows = [recording for recording, _ in read_checked(iter(kept), "train", job, [])]
    assert proxy.counts == {"good": 3 + 1}, "the signals, and the header that is too long to be kept"
    assert [row.id for row in rows] == ["a", "b", "long"]
    for row, item in zip(rows, list_items(open_source("folder"), tmp_path), strict=True):
        assert row.notes == open_source("folder").read(item, ArchiveFiles(tmp_path)).notes


def test_a_large_object_is_read_in_pieces(bucket: str, proxy: FailingServer) -> None:
    files, path = open_filesystem(bucket)
    large = bytes(range(250)) * 70_000
    with files.open_output_stream(f"{path}/large") as stream:
        stream.write(large)
    objects = open_objects(bucket)
    proxy.counts.clear()
    assert objects.read("large") == large
    assert proxy.counts.total() == 3, "its size, and two pieces of at most 16 MB"


@pytest.mark.parametrize("name", ["sub//a", "./a", "a\nb"])
def test_a_name_that_obstore_does_not_take_is_a_missing_file(bucket: str, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        open_objects(bucket).read(name)


def test_connections_serve_the_next_shard_too(
    bucket: str, proxy: FailingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        ArchiveFiles(bucket).read("a")
    opened, accept = [], proxy.get_request
    monkeypatch.setattr(proxy, "get_request", lambda: opened.append(1) or accept())
    for _ in range(10):
        assert ArchiveFiles(bucket).read("a") == content("a")
    assert len(opened) < 3
    opened.clear()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    assert ArchiveFiles(bucket).read("a") == content("a")
    assert opened, "made anew, as AWS's variables say now"


def test_every_byte_comes_through_faults(bucket: str, proxy: FailingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.01)
    archive, before = ArchiveFiles(bucket), retry.repeated.get("read", 0)
    archive.read("a", 1)
    proxy.share = 0.3
    names = NAMES[:3] * 30  # the empty one cannot be cut
    assert list(archive.read_each(names)) == [*map(content, names)]
    failed = proxy.counts.total() - proxy.counts["good"] - proxy.counts["late"]
    assert len({*proxy.counts}) == 6 and retry.repeated["read"] - before == failed


def test_signatures_are_checked(bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By moto's server, which is told to: names of all kinds are signed right, and a wrong key is refused in one line."""

    def check_requests(after: str) -> None:
        url = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        urllib.request.urlopen(urllib.request.Request(url, after.encode(), {"Content-Type": "text/plain"}), timeout=30)

    iam = boto3.client("iam")
    iam.create_user(UserName="reader")
    iam.put_user_policy(UserName="reader", PolicyName="all", PolicyDocument=POLICY)
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    check_requests("0")
    try:
        archive = ArchiveFiles(bucket)
        assert [archive.read(name) for name in NAMES] == [*map(content, NAMES)]
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        with pytest.raises(StoreError, match="access denied"):
            ArchiveFiles(bucket).read("a")
    finally:
        check_requests("inf")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "AccessDenied", "access denied"),
        (400, "ExpiredToken", "access denied"),
        (404, "NoSuchBucket", "no such bucket"),
        (301, "PermanentRedirect", "in another region. Set AWS_REGION=eu-central-1"),
    ],
)
def test_refusals_are_not_repeated(status: int, code: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    class Refusing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:  # the first contact
            self.send_response_only(200)
            self.send_header("Content-Length", "0")
            self.send_header("x-amz-bucket-region", "eu-central-1")
            self.end_headers()

        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization"))
            body = f"<Error><Code>{code}</Code></Error>".encode()
            self.send_response_only(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("x-amz-bucket-region", "eu-central-1")
            self.end_headers()
            self.wfile.write(body)

    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    with served(ThreadingHTTPServer(("127.0.0.1", free_port()), Refusing), monkeypatch):
        with pytest.raises(StoreError) as caught:
            ArchiveFiles("s3://refusing/a").read("b")
        assert message in str(caught.value)
    assert asked == [None]
