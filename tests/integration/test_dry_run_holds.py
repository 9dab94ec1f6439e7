"""The memory that a run takes is what ``--dry-run`` said before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ecgscan_ray.runs.metrics import read_metrics

pytestmark = pytest.mark.verify

STEPS = 24
SETTINGS = [
    f"training.steps={STEPS}",
    f"training.checkpoint_every={STEPS}",
    "training.log_every=1",
    "training.validation_rows=0",
    "training.term_gradients_every=0",
    "training.precision=fp32",
    "resources.torch_threads=1",
]


def pretrain(store: str, settings: list[str], *options: object) -> str:
    parts = [part for setting in settings for part in ("--set", setting)]
    command = ["pretrain", "--preset", "laptop", "--store", store, *map(str, options), *parts]
    program = [sys.executable, "-c", "from ecgscan_ray.cli import main; main()"]
    return subprocess.run([*program, *command], check=True, capture_output=True, text=True).stdout


def test_memory_of_a_worker(alone: None, sample_store: str, tmp_path: Path) -> None:
    """The time of a step is printed alone: other processes make either longer."""
    printed = pretrain(sample_store, SETTINGS, "--dry-run")
    lines = [line for line in printed.splitlines() if line.startswith(("memory a worker", "training step"))]
    said = {line[:28].strip(): float(line[28:].split()[0]) for line in lines}
    pretrain(sample_store, SETTINGS, "--out", tmp_path / "run")
    steps = [line for line in read_metrics(str(tmp_path / "run")) if line["kind"] == "train"][STEPS // 3 :]
    memory, seconds = max(line["peak_memory_mb"] for line in steps), min(line["step_s"] for line in steps)
    print(f"said {said['memory a worker']} MB, {said['training step']} s; took {memory:.0f} MB, {seconds:.2f} s")
    assert said["memory a worker"] == pytest.approx(memory, rel=0.15)
