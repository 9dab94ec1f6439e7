"""``cluster/slurm.sbatch`` with two nodes: Slurm's own commands are replaced by ones that run on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDS = ("--validation-folds", "8", "--test-folds", "9")
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm.sbatch"
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
[ "$1 $2" != "ray start" ] || set -- "$@" --object-store-memory 100000000
[[ " $* " != *" --head "* ]] || set -- "$@" --temp-dir "$TEST_TEMP"
exec "$@"
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Short: names of sockets in it have at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ecgscan-") as folder:
        yield Path(folder)


def submit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    commands = folder / "bin"
    commands.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/sh\nprintf '127.0.0.1\\n127.0.0.1\\n'\n")):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    slurm = {
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_CPUS_PER_TASK": "2",
    }
    path = f"{commands}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, **slurm, "PATH": path, "TEST_TEMP": str(folder / "ray")}
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        environment.pop(name, None)
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_job_that_is_not_there_is_named_before_anything_starts(temporary: Path) -> None:
    result = submit(temporary, "pretrian")
    assert result.returncode == 2
    jobs = " ".join(sorted(path.stem for path in (ROOT / "jobs").glob("*.py")))
    assert f"no job named 'pretrian': give one of {jobs}" in result.stderr


@pytest.mark.verify
@pytest.mark.ray
def test_two_nodes_run_a_job_and_end_with_it(temporary: Path, tmp_path: Path, sample_tree: Path) -> None:
    store = tmp_path / "store"
    arguments = ["--source", "ptbxl", "--from", str(sample_tree), "--to", str(store), *FOLDS]
    result = submit(temporary, "prepare", *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (store / "manifest.json").exists()
    left = subprocess.run(["pgrep", "-f", str(temporary / "ray")], capture_output=True, text=True, check=False).stdout
    assert left == ""
