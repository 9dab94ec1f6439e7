"""What is decided before Ray starts: whom to join, where to keep files, which token, how many files."""

from __future__ import annotations

import os
import resource
import socket
import stat
import time
from pathlib import Path

import pytest

from ecgscan_ray.errors import InputError
from ecgscan_ray.runtime import cluster, local_cluster


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:8265", "of a job server"),
        ("https://head.example:443", "of a job server"),
        ("ray://head:10001", "Ray Client"),
        ("junk", "is no address"),
        ("host:port", "is no address"),
        ("host:99999", "is no address"),
        (":6379", "is no address"),
        ("s3://bucket/store:1", "is no address"),
    ],
)
def test_what_is_no_head_is_refused(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        cluster.check_head(address)
    assert f"RAY_ADDRESS={address}" in str(raised.value) and "HOST:PORT" in str(raised.value)


def test_a_dead_head_is_refused_at_once() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(InputError, match="no cluster answers there"):
        cluster.check_head(f"127.0.0.1:{port}")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("address", ["head:6379", "10.0.0.1:6379", "[::1]:6379"])
def test_addresses_of_heads(address: str) -> None:
    host, port = cluster.parse_head(address)
    assert host in ("head", "10.0.0.1", "::1") and port == 6379


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # so that it is put back after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_token_is_made_and_kept_off_the_disk(no_token: Path) -> None:
    local_cluster.need_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert not list(no_token.iterdir())


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN_PATH", "file"])
def test_the_users_own_token_is_kept(no_token: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if name == "file":
        (no_token / ".ray").mkdir()
        (no_token / ".ray" / "auth_token").write_text("f" * 64)
    else:
        monkeypatch.setenv(name, str(no_token / "elsewhere"))
    local_cluster.need_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_the_users_own_mode_is_kept_and_said(
    no_token: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    local_cluster.need_token()
    assert "RAY_AUTH_TOKEN" not in os.environ and os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "any user of this machine can use Ray here" in caplog.text


def test_too_few_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(InputError, match="only 64 files"):
        local_cluster.allow_open_files()


def test_open_files_are_raised_as_far_as_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    local_cluster.allow_open_files()
    assert asked == [(4096, 4096)]


def test_rays_folder_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(os.path.relpath(tmp_path, "/"))
    monkeypatch.setattr(local_cluster, "MAX_LENGTH", 200)
    monkeypatch.setenv("RAY_TMPDIR", f"/{short}")
    closed = Path(local_cluster.ray_folder()).parent
    assert closed.parent == tmp_path
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    closed.chmod(0o777)
    assert Path(local_cluster.ray_folder()).parent == closed
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_a_deep_tmpdir_gives_way_to_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("deep" * 20)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(deep))
    assert Path(local_cluster.ray_folder()) == Path("/tmp") / f"ecgscan-{os.getuid()}" / "ray"
    monkeypatch.setenv("RAY_TMPDIR", str(deep))
    with pytest.raises(InputError, match=r"RAY_TMPDIR: no folder .* too long, at most \d+ bytes"):
        local_cluster.ray_folder()


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cluster, "MAX_LENGTH", 200)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"ecgscan-{os.getuid()}").symlink_to(tmp_path / "theirs")
    with pytest.raises(InputError, match="belongs to another user"):
        local_cluster.ray_folder()


def test_only_old_sessions_of_ended_processes_are_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, mine, young = f"{2**22 + 1}", str(os.getpid()), f"{2**22 + 2}"
    sessions = {pid: tmp_path / f"session_2026-01-01_00-00-00_000000_{pid}" for pid in (gone, mine, young)}
    for pid, session in sessions.items():
        (session / "logs").mkdir(parents=True)
        (session / "logs" / "raylet.out").write_text("")
        if pid != young:
            for path in (session / "logs" / "raylet.out", session / "logs", session):
                os.utime(path, (0, 0))
    local_cluster.clear_old_sessions(tmp_path)
    assert [pid for pid, session in sessions.items() if session.exists()] == [mine, young]
