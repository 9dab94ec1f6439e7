"""An interrupted ``prepare``: the same command goes on, and the store is that of an undisturbed run, byte for byte."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecgscan_ray.errors import InputError, StoreError, WorkError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources import Item
from ecgscan_ray.recording.sources.folder import Folder
from ecgscan_ray.runtime.prepare import prepare
from ecgscan_ray.store.inspect import inspect
from ecgscan_ray.store.manifest import SPLITS, Manifest, read_manifest
from ecgscan_ray.store.shards import iterate_rows, read_quarantine
from ecgscan_ray.store.work import WorkArea, find_job
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


@pytest.mark.parametrize("after", [pytest.param(1, marks=pytest.mark.verify), 5])
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


def interrupt(archive: Path, store: Path, **settings: object) -> None:
    """A command that ends after its second shard."""

    class Stopped(Exception):
        """Instead of a kill, which takes seconds to arrange."""

    def stop(done: int, total: int) -> None:
        if done >= 2:
            raise Stopped

    with pytest.raises(WorkError, match=r"Stopped.*The same command goes on"):
        prepare("folder", str(archive), str(store), **SETTINGS | settings, progress=stop)  # type: ignore[arg-type]


def test_the_listing_is_kept_unless_something_changed(
    archive: Path,
    whole: tuple[Path, Manifest],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO", "ecgscan_ray")
    listed = []
    original = Folder.list_records

    def list_records(self: Folder, files: ArchiveFiles) -> Iterator[Item]:
        listed.append(files.root)
        return original(self, files)

    monkeypatch.setattr(Folder, "list_records", list_records)
    store = tmp_path / "store"
    interrupt(archive, store)
    prepare("folder", str(archive), str(store), **SETTINGS)
    assert len(listed) == 1, "the second command lists nothing"
    assert_same(store, whole)

    other = tmp_path / "other"
    interrupt(archive, other, seed=1)
    prepare("folder", str(archive), str(other), **SETTINGS)
    assert "interrupted with other settings or another archive: it starts afresh" in caplog.text
    assert_same(other, whole)

    changed, copy = tmp_path / "changed", tmp_path / "in"
    shutil.copytree(archive, copy)
    interrupt(copy, changed)
    caplog.clear()
    (copy / "recordings.csv").write_text("record,report\nr00,normales ekg\n")
    manifest = prepare("folder", str(copy), str(changed), **SETTINGS)
    assert "it starts afresh" in caplog.text
    reports = {row.id: row.report for split in SPLITS for row in iterate_rows(str(changed), manifest, split)}
    assert reports["r00"] == "normales ekg"


def test_a_store_that_is_replaced_goes_on_too(archive: Path, whole: tuple[Path, Manifest], tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = prepare("folder", str(archive), str(store), **SETTINGS | {"seed": 1})
    interrupt(archive, store, overwrite=True)
    assert read_manifest(str(store)) == first, "valid until the new one is whole"
    again = prepare("folder", str(archive), str(store), **SETTINGS, overwrite=True)
    assert again.digest() == whole[1].digest()


def test_added_recordings(ray_cluster: None, archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """New recordings of known patients go to the patients' split, ids are never doubled, the old rows stay as they are."""
    caplog.set_level("INFO", "ecgscan_ray")
    early, store = tmp_path / "early", tmp_path / "store"
    shutil.copytree(archive, early)
    for k in range(1, COUNT, 2):  # half of the recordings of each patient
        (early / f"r{k:02d}.hea").unlink()
    first = prepare("folder", str(early), str(store), **SETTINGS)
    before = rows(store, first)
    interrupt(archive, store, add=True)
    assert read_manifest(str(store)) == first
    manifest = prepare("folder", str(archive), str(store), **SETTINGS, add=True)
    assert "goes on: its listing and" in caplog.text
    assert f"{COUNT // 2} recordings are in the store already" in caplog.text
    after = rows(store, manifest)
    assert {id: after[id] for id in before} == before
    assert sorted(after) == [f"r{k:02d}" for k in range(COUNT) if k != 7]
    assert all(after[f"r{k:02d}"][0] == after[f"r{k + 1:02d}"][0] for k in range(0, COUNT, 2) if k != 6)
    report = inspect(str(store))
    assert report["patients_in_two_splits"] == 0
    for split in SPLITS:
        assert report["splits"][split]["patients"] == manifest.counts[split]["patients"]["known"]
    assert manifest.quarantined == {"truncated": 1} and len(read_quarantine(str(store))) == 1
    assert [addition.source for addition in manifest.additions] == ["folder"]
    with pytest.raises(InputError, match="truncated 1"):  # nothing else is new
        prepare("folder", str(archive), str(store), **SETTINGS, add=True)
    assert read_manifest(str(store)) == manifest


def test_another_source_is_added(ray_cluster: None, archive: Path, sample_tree: Path, tmp_path: Path) -> None:
    """Ids and patients of two sources are not the same, whatever they are called; counts are by source."""
    store = tmp_path / "store"
    with pytest.raises(StoreError, match="no store to add to"):
        prepare("ptbxl", str(sample_tree), str(store), add=True)
    prepare("folder", str(archive), str(store), **SETTINGS)
    manifest = prepare("ptbxl", str(sample_tree), str(store), limit=20, validation_folds=[8], test_folds=[9], add=True)
    counts = Counter[str]()
    for split in SPLITS:
        counts.update(manifest.counts[split]["source"])
    assert counts == {"folder": COUNT - 1, "ptbxl": 20}
    assert (manifest.sources, manifest.licences) == (["folder", "ptbxl"], ["CC-BY-4.0"])
    assert sum(manifest.rows(split) for split in SPLITS) == COUNT - 1 + 20 == len(rows(store, manifest))
    assert inspect(str(store))["damaged"] == []


def rows(store: Path, manifest: Manifest) -> dict[str, tuple[str, bytes]]:
    """Id -> split and signal."""
    found = [
        (recording.id, (split, recording.signal_mv.tobytes()))
        for split in SPLITS
        for recording in iterate_rows(str(store), manifest, split)
    ]
    assert len(dict(found)) == len(found), "an id stands twice"
    return dict(found)


def num_done(store: Path) -> int:
    """Shards that an unfinished command has done."""
    job = find_job(str(store))
    return sum(name.startswith("done/") for name in WorkArea(str(store), job).names()) if job else 0


@pytest.mark.verify
def test_killed_at_ten_moments(archive: Path, whole: tuple[Path, Manifest], tmp_path: Path) -> None:
    """SIGKILL at any time from the start on, and, every other time, when some of the shards are done."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", _COMMAND, str(archive)]
    start = time.monotonic()
    subprocess.run([*command, str(tmp_path / "timed"), "-1"], env=environment, check=True, timeout=300)
    whole_s, rng = time.monotonic() - start, random.Random(0)
    reused = []
    store = tmp_path / "store"
    for number in range(10):
        process = subprocess.Popen([*command, str(store), "-1"], env=environment)
        if number % 2:
            wanted = num_done(store) + rng.randint(1, 5)
            while process.poll() is None and num_done(store) < wanted:
                time.sleep(0.02)
        else:
            time.sleep(whole_s * rng.uniform(0.2, 1.0))
        process.kill()
        process.wait()
        reused.append(num_done(store))
        print(f"{number}: killed, {reused[-1]} shards done before the next command")
        if (store / "manifest.json").exists() or number % 3 == 2:
            subprocess.run([*command, str(store), "-1"], env=environment, check=True, timeout=300)
            assert_same(store, whole)
            store = tmp_path / f"store-{number}"
    assert max(reused) > 0
