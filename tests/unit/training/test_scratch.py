"""Temporary folders: gone with their process, or with the next command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ecgscan_ray.training.scratch import clear_scratch, scratch

HOLDER = """
import sys, time
from ecgscan_ray.training.scratch import scratch
with scratch(sys.argv[1]) as folder:
    (folder / "model.safetensors").write_bytes(b"weights")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def held(run: str) -> tuple[subprocess.Popen, Path]:
    """A process that holds a scratch folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, run], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_private_named_by_the_run_and_gone_at_the_end(tmp_path: Path) -> None:
    with scratch("s3://bucket/runs/first try/") as folder:
        assert folder.parent == tmp_path and "first-try" in folder.name
        assert folder.stat().st_mode & 0o77 == 0
        clear_scratch()
        assert folder.is_dir(), "it is held"
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_goes_with_the_next_command(tmp_path: Path) -> None:
    dead, left = held("/runs/a")
    living, kept = held("/runs/b")
    assert left.is_dir() and kept.is_dir()
    os.kill(dead.pid, signal.SIGKILL)
    dead.wait()
    assert left.is_dir()
    with scratch("/runs/c"):
        assert not left.exists() and kept.is_dir()
    clear_scratch("/runs/a")
    assert kept.is_dir(), "of another run"
    clear_scratch("/runs/b")
    assert not kept.exists(), "its run has ended"
    living.kill()
    living.wait()


def test_folders_of_the_user_and_links_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "ecgscan-run"
    mine.mkdir()
    (tmp_path / "ecgscan-scratch-link").symlink_to(mine)
    clear_scratch()
    assert mine.is_dir() and (tmp_path / "ecgscan-scratch-link").is_symlink()
