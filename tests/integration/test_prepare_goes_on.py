"""An interrupted ``prepare``: the same command goes on, and the store is that of an undisturbed run, byte for byte."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecgscan_ray import filesystem
from ecgscan_ray.errors import StoreError
from ecgscan_ray.runtime.prepare import prepare
from ecgscan_ray.store.manifest import Manifest, read_manifest
from tests.records import heart_uv, write_record

COUNT = 24
SETTINGS = {"rate": None, "row_group_rows": 1}
_COMMAND = """
import os, signal, sys
from ecgscan_ray.runtime.prepare import prepare
results = []
def stop(done, total):
    results.append(done)
    if len(results) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
prepare("folder", sys.argv[1], sys.argv[2], rate=None, row_group_rows=1, progress=stop)
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of twelve patients, one of them not usable."""
    folder = tmp_path_factory.mktemp("archive") / "in"
    for k in range(COUNT):
        write_record(folder, f"r{k:02d}", heart_uv(seed=k), comments=[f"Patient ID: p{k // 2}"])
    (folder / "r07.dat").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def whole(ray_cluster: None, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """The store of an undisturbed run."""
    store = tmp_path_factory.mktemp("whole") / "store"
    return store, prepare("folder", str(archive), str(store), **SETTINGS)


def files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir() if path.suffix == ".parquet"}


def assert_same(store: Path, whole: tuple[Path, Manifest]) -> None:
    assert read_manifest(str(store)) == whole[1]
    assert files(store) == files(whole[0])
    assert sorted(path.name for path in store.iterdir()) == sorted(path.name for path in whole[0].iterdir())


@pytest.mark.parametrize("after", [1, 5])
def test_killed_and_started_again(
    archive: Path, whole: tuple[Path, Manifest], tmp_path: Path, caplog: pytest.LogCaptureFixture, after: int
) -> None:
    store = tmp_path / "store"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", _COMMAND, str(archive), str(store), str(after)]
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    with pytest.raises(StoreError, match="not a store yet: 'ecgscan prepare' has not finished it"):
        read_manifest(str(store))
    with caplog.at_level("INFO", "ecgscan_ray"):
        prepare("folder", str(archive), str(store), **SETTINGS)
    said = re.search(r"goes on: its listing and (\d+) of (\d+) shards are there", caplog.text)
    assert said is not None and after <= int(said[1]) < int(said[2])
    assert_same(store, whole)
