"""One command at a time works in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ecgscan_ray import filesystem
from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem import lease
from ecgscan_ray.filesystem.lease import LEASE_NAME, confirm, exclusive
from ecgscan_ray.filesystem.versioned_file import open_versioned


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder, local or in a bucket."""
    if request.param == "folder":
        return str(tmp_path / "store")
    return filesystem.join(request.getfixturevalue("s3_server"), "lease", tmp_path.name)


def _write(place: str, **changes: object) -> None:
    """Another command's lease: a copy of ours with changes."""
    with exclusive(place, "ecgscan prepare"):
        content = json.loads(filesystem.read_bytes(filesystem.join(place, LEASE_NAME)))
    filesystem.write_bytes_atomic(
        filesystem.join(place, LEASE_NAME), json.dumps(content | {"owner": "other"} | changes).encode()
    )


def _dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_held_nested_and_deleted(place: str) -> None:
    with exclusive(place, "ecgscan prepare"), exclusive(place + "/", "ecgscan prepare"):
        assert filesystem.list_files(place) == [LEASE_NAME]
    assert filesystem.list_files(place) == []


def test_a_second_command_is_refused_and_told_who(place: str) -> None:
    _write(place)  # a living process: this one
    with pytest.raises(StoreError, match=rf"in use by 'ecgscan prepare' on .+ \(pid {os.getpid()}\) since 20"):
        exclusive(place, "ecgscan pretrain").__enter__()
    assert json.loads(filesystem.read_bytes(filesystem.join(place, LEASE_NAME)))["owner"] == "other"


@pytest.mark.parametrize("changes", [{"pid": None}, {"process_start": "1"}], ids=["dead", "number used again"])
def test_a_dead_process_of_this_machine_is_succeeded_at_once(place: str, changes: dict) -> None:
    _write(place, **(changes if "pid" not in changes else {"pid": _dead()}))
    with exclusive(place, "ecgscan prepare"):
        assert json.loads(filesystem.read_bytes(filesystem.join(place, LEASE_NAME)))["owner"] != "other"


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"machine": "another container"}])
def test_another_machine_is_succeeded_when_its_heartbeat_is_old(
    place: str, changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(place, pid=_dead(), **changes)
    with pytest.raises(StoreError, match=r"if it is dead, try again in 1\d\d s"):
        exclusive(place, "ecgscan prepare").__enter__()
    monkeypatch.setattr(lease, "EXPIRES_S", -1)  # older than that is any
    with exclusive(place, "ecgscan prepare"):
        pass


def test_damaged_lease_counts_as_held(place: str) -> None:
    filesystem.write_bytes_atomic(filesystem.join(place, LEASE_NAME), b"[" * 100_000)
    with pytest.raises(StoreError, match="in use by another command"):
        exclusive(place, "ecgscan prepare").__enter__()


def test_heartbeat_and_a_lost_lease(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.2)
    uri = filesystem.join(place, LEASE_NAME)

    def work() -> None:
        with exclusive(place, "ecgscan prepare"):
            filesystem.delete_file(uri)
            _until(lambda: filesystem.exists(uri))  # the heartbeat puts it back
            content = json.loads(filesystem.read_bytes(uri))
            while content["owner"] != "other":  # a heartbeat may come between
                content = content | {"owner": "other", "purpose": "ecgscan pretrain"}
                filesystem.write_bytes_atomic(uri, json.dumps(content).encode())
                content = json.loads(filesystem.read_bytes(uri))
            _until(lambda: _is_lost(place))
            with pytest.raises(StoreError, match="taken over by 'ecgscan pretrain'"):
                confirm(place)

    with pytest.raises(StoreError, match=r"taken over by 'ecgscan pretrain' .* while this command ran"):
        work()
    assert json.loads(filesystem.read_bytes(uri))["owner"] == "other"


def _is_lost(place: str) -> bool:
    try:
        confirm(place)
    except StoreError:
        return True
    return False


def _until(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_lease_that_vanishes_while_it_is_taken_over(place: str) -> None:
    """AWS answers 404 to If-Match on an object that is gone, others 412, and old servers write it (minio/minio#21526)."""
    _write(place)
    file = open_versioned(filesystem.join(place, LEASE_NAME))
    seen = file.read()
    assert seen is not None
    file.remove()
    assert not file.write(b"new", seen.version) and file.read() is None


def test_of_many_at_once_one_wins(place: str) -> None:
    """Also over a dead holder: nobody removes the lease of the one who was first."""
    _write(place, pid=_dead())
    won, refused, gate = [], [], threading.Barrier(8)

    def one() -> None:
        gate.wait()
        try:
            won.append(lease.acquire(filesystem.absolute(place), "ecgscan prepare"))
        except StoreError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(refused) == 7


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        exclusive(str(tmp_path / "file" / "store"), "ecgscan prepare").__enter__()


def test_bucket_that_is_not_there(s3_server: str) -> None:
    with pytest.raises(StoreError, match="no such bucket"):
        exclusive("s3://no-such-bucket-here/store", "ecgscan prepare").__enter__()
