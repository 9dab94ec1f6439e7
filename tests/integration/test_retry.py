"""Storage that fails now and then: operations come through; what cannot change is said at once."""

from __future__ import annotations

import logging
import os
import pickle
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pyarrow import fs

from ecgscan_ray import filesystem
from ecgscan_ray.errors import StoreError, UnreachableError
from ecgscan_ray.filesystem import retry, s3
from ecgscan_ray.filesystem.lease import exclusive
from tests.failing_server import FailingServer


@pytest.fixture(autouse=True)
def _own_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """No summary at the end of the suite."""
    monkeypatch.setattr(retry, "repeated", {})
    monkeypatch.setattr("atexit.register", lambda _: None)


@pytest.fixture
def failing(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingServer]:
    """The S3 server behind a proxy through which 30 % of requests fail."""
    server = FailingServer(0, urlsplit(os.environ["AWS_ENDPOINT_URL"]).port or 0, share=0.3, delay_s=0.02)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()


def test_200_operations_all_succeed(failing: FailingServer, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own layer by itself: pyarrow's, whose pauses are longer, is left out."""
    real, never = s3.s3_filesystem, {"retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=1)}
    monkeypatch.setattr(s3, "s3_filesystem", lambda **options: real(**options | never))
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(retry, "ATTEMPTS", 40)
    folder = filesystem.join(s3_server, "failing")
    for k in range(40):
        uri = filesystem.join(folder, f"file-{k}")
        filesystem.write_bytes_atomic(uri, b"%d" % k * 1000)
        assert filesystem.exists(uri)
        assert filesystem.read_bytes(uri) == b"%d" % k * 1000
        assert filesystem.list_files(folder) == [f"file-{k}"]
        filesystem.delete_file(uri)
    assert sum(failing.counts.values()) - failing.counts["good"] > 50


def test_a_lease_survives_answers_that_are_lost(failing: FailingServer, s3_server: str) -> None:
    """A conditional write that took effect is refused when it is repeated, and still counts (aws-sdk-java-v2#6580)."""
    folder = filesystem.join(s3_server, "failing-lease")
    for _ in range(2):
        with exclusive(folder, "ecgscan prepare"):
            pass
    assert filesystem.list_files(folder) == []


def test_a_lease_survives_answers_that_are_cut(failing: FailingServer, s3_server: str) -> None:
    """boto3 repeats requests, and not the reading of what came: the lease stayed behind."""
    failing.kinds, failing.share = ("cut",), 0.4
    folder = filesystem.join(s3_server, "cut-lease")
    for _ in range(4):
        with exclusive(folder, "ecgscan prepare"):
            pass
        assert filesystem.list_files(folder) == []


def test_retries_travel_to_other_processes(s3_server: str) -> None:
    """pyarrow loses its own on the way (apache/arrow#47348); Ray's workers get ours."""
    files = filesystem.open_filesystem(s3_server)[0]
    there = pickle.loads(pickle.dumps(files))
    assert there == files
    assert isinstance(there, fs.PyFileSystem) and isinstance(there.handler, retry.Retrying)


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (OSError("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 28, Timeout was reached"), False),
        (OSError("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate."), False),
        (OSError("AWS Error UNKNOWN (HTTP status 404) during UploadPart operation: NoSuchUpload"), False),
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."), True),
        (OSError("AWS Error INVALID_ACCESS_KEY_ID during PutObject operation"), True),
        (OSError("AWS Error NO_SUCH_BUCKET during PutObject operation"), True),
        (OSError("HTTP status 301: the configured region is 'a-1' while the bucket is located in 'eu-west-1'."), True),
        (FileNotFoundError("Path does not exist 'bucket/x'"), True),
        (ValueError("not an error of the storage"), True),
    ],
)
def test_what_cannot_change_is_not_repeated(error: Exception, permanent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.0)
    attempts: list[int] = []

    def fail(attempt: int) -> None:
        attempts.append(attempt)
        raise error

    with pytest.raises(type(error)):
        retry.retried("read", fail)
    assert len(attempts) == (1 if permanent else retry.ATTEMPTS)


def test_a_process_of_a_run_waits_for_storage_that_fails_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(retry, "patience_s", 0.0)
    monkeypatch.setattr(retry, "repeated", {"read": 1})

    def fails_for(seconds: float) -> float:
        def read(_: int) -> float:
            if clock[0] < seconds:
                raise OSError("503")
            return clock[0]

        clock[0] = 0.0
        return retry.retried("read", read)

    with pytest.raises(OSError, match="503"):
        fails_for(300)
    retry.be_patient()
    assert fails_for(300) < 300 + retry.LONGEST_PAUSE_S
    with pytest.raises(OSError, match="503"):
        fails_for(retry.PATIENCE_S + 60)
    assert retry.PATIENCE_S - retry.LONGEST_PAUSE_S < clock[0] <= retry.PATIENCE_S


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("AWS Error ACCESS_DENIED during PutObject operation: User: arn:aws:iam::1:user/x", "access denied"),
        ("AWS Error INVALID_ACCESS_KEY_ID during PutObject operation: AKIAHUSH does not exist", "access denied"),
        ("AWS Error SIGNATURE_DOES_NOT_MATCH during PutObject operation: HUSH", "access denied"),
        ("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation", "no such bucket"),
        (
            "HTTP status 301 ... while the bucket is located in 'eu-west-1'.",
            r"another region\. Set AWS_REGION=eu-west-1",
        ),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7", "does not answer"),
    ],
)
def test_what_cannot_change_is_one_line(text: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught, filesystem.explained("s3://b/x", "cannot be written"):
        raise OSError(text)
    assert "HUSH" not in str(caught.value) and "arn" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "AWS Error SLOW_DOWN during PutObject operation: Reduce your request rate.",
        "AWS Error INTERNAL_FAILURE during GetObject operation: We encountered an internal error.",
        "AWS Error UNKNOWN (HTTP status 503) during GetObject operation: No response body.",
        "7 of 12 bytes came",
    ],
)
def test_a_server_that_is_overloaded_is_no_fault_of_the_file(text: str) -> None:
    with (
        pytest.raises(UnreachableError, match=re.escape(text[:40])),
        filesystem.explained("s3://b/x", "cannot be read"),
    ):
        raise OSError(text)


def test_one_line_sums_the_repeated_requests_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.0)

    def fail_twice(attempt: int) -> None:
        if attempt < 2:
            raise OSError("SLOW_DOWN")

    with caplog.at_level(logging.WARNING):
        retry.retried("read", fail_twice)
        retry.retried("list", fail_twice)
        assert not caplog.records
        retry.log_repeated()
    assert [record.message for record in caplog.records] == [
        "storage: requests that failed and were repeated: 4 (list 2, read 2)"
    ]


def test_a_server_that_accepts_and_stays_silent_is_named_within_30_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortened here; the real bounds are 6 s an answer and no attempt after 9 s."""
    real = s3.s3_filesystem
    monkeypatch.setattr(s3, "s3_filesystem", lambda **options: real(**options | {"request_timeout": 1}))
    monkeypatch.setattr(filesystem, "FIRST_CONTACT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(StoreError, match="its server does not answer"):
            filesystem.exists("s3://bucket/store")
        assert time.monotonic() - start < 5


def test_a_bucket_that_is_not_there_is_named(s3_server: str) -> None:
    for use in (filesystem.exists, filesystem.list_files, filesystem.read_bytes):
        with pytest.raises(StoreError, match="no such bucket"):
            use("s3://no-such-bucket-at-all/store")


def test_large_files_and_files_of_nothing(s3_server: str) -> None:
    for size in (0, 12 * 2**20):
        uri = filesystem.join(s3_server, "sizes", str(size))
        filesystem.write_bytes_atomic(uri, bytes(size))
        assert len(filesystem.read_bytes(uri)) == size


def test_many_files_are_copied_at_once(s3_server: str, tmp_path: Path) -> None:
    """As Ray uploads and fetches a checkpoint; with uploads in the background this stood still (apache/arrow#32372)."""
    for k in range(40):
        (tmp_path / f"file-{k}").write_bytes(b"%d" % k * 100_000)
    files, path = filesystem.open_filesystem(filesystem.join(s3_server, "checkpoint"))
    fs.copy_files(str(tmp_path), path, destination_filesystem=files)
    (tmp_path / "back").mkdir()
    fs.copy_files(path, str(tmp_path / "back"), source_filesystem=files)
    assert all((tmp_path / "back" / f"file-{k}").read_bytes() == b"%d" % k * 100_000 for k in range(40))


def test_an_interrupted_write_uploads_nothing(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = filesystem.open_filesystem(filesystem.join(s3_server, "interrupted"))
    stream = files.open_output_stream(path)
    stream.write(b"first")
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stream.write(b"second")
    stream.close()
    assert files.get_file_info(path).type == fs.FileType.NotFound
