"""Twenty runs, each of which loses a process at a random moment: every row once, and the losses of an undisturbed run."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ecgscan_ray.config import dump_yaml
from ecgscan_ray.runs.metrics import read_metrics
from tests.tiny import tiny_config

pytestmark = pytest.mark.verify

ROUNDS, STEPS = 20, 60
COMMANDS = 4
"""The same command is given again where a run ends before its last step; at most so often."""
LOST = (
    "RayTrainWorker", "MapBatches(Render)", "MapBatches(Read)", "SplitCoordinator", "TrainController", "DatasetManager",
    "raylet/raylet", "gcs_server", "driver",
)  # fmt: skip
"""Part of the command line of each kind of process; the driver is the command itself."""
PROGRAM = "from ecgscan_ray.cli import main; main()"


def curve(run: Path) -> list[tuple[int, float, float]]:
    """Step, which rows it took, and its loss; of every training line."""
    lines = [line for line in read_metrics(str(run)) if line["kind"] == "train"]
    return [(line["step"], line["batch_fingerprint"], line["loss"]) for line in lines]


def last_step(run: Path) -> int:
    """Logged; 0 before there is one."""
    return max((step for step, _, _ in curve(run)), default=0)


def lose(driver: psutil.Process, kind: str, rng: random.Random) -> bool:
    """SIGKILL one process of this kind; false where there is none."""
    if kind == "driver":
        driver.kill()
        return True
    running = [process for process in driver.children(recursive=True) if kind in " ".join(process.cmdline())]
    if running:
        rng.choice(running).kill()
    return bool(running)


def disturbed(command: list[str], run: Path, kind: str, rng: random.Random) -> int:
    """Lose a process once a random step is logged, and give the command again until the run has ended: how often."""
    at = rng.randrange(1, STEPS - 5)
    for number in range(1, COMMANDS + 1):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline, lost = time.monotonic() + 300, number > 1
        while not lost and process.poll() is None:
            assert time.monotonic() < deadline, f"{kind}: no step {at}"
            lost = last_step(run) >= at and lose(psutil.Process(process.pid), kind, rng)
            time.sleep(0.05)
        output, _ = process.communicate(timeout=400)
        assert lost, f"{kind}: the run ended first\n{output[-2000:]}"
        assert "Traceback" not in output, output[-4000:]
        if process.returncode == 0:
            return number
    raise AssertionError(f"{kind}: not ended after {COMMANDS} commands\n{output[-2000:]}")


def test_twenty_runs_that_lose_a_process(alone: None, sample_store: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    settings = tiny_config(
        training__steps=STEPS, training__checkpoint_every=10, training__validation_rows=0, resources__num_workers=2,
        resources__cpus_per_worker=0.3, resources__render_actors=2, resources__max_pipelines=2,
    )  # fmt: skip
    config.write_text(dump_yaml(settings))
    command = [sys.executable, "-c", PROGRAM, "pretrain", "--config", str(config), "--store", sample_store, "--out"]
    subprocess.run([*command, str(tmp_path / "quiet")], check=True, capture_output=True, timeout=400)
    quiet = curve(tmp_path / "quiet")
    assert [step for step, _, _ in quiet] == list(range(1, STEPS + 1))
    for number in range(ROUNDS):
        kind, rng, run = LOST[number % len(LOST)], random.Random(number), tmp_path / f"run-{number}"
        commands = disturbed([*command, str(run)], run, kind, rng)
        print(f"{number} {kind}: {commands} commands")
        assert curve(run) == quiet, f"{number} {kind}"
