"""Twenty runs, each of which loses a process at a random moment: every row once, and the losses of an undisturbed run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ecgscan_ray.config import dump_yaml
from ecgscan_ray.runs.metrics import read_metrics
from tests.tiny import tiny_config

pytestmark = pytest.mark.verify

ROUNDS, STEPS = 20, 120
COMMANDS = 4
"""The same command is given again where a run ends before its last step; at most so often."""
LOST = (
    "RayTrainWorker", "MapBatches(Render)", "MapBatches(Read)", "SplitCoordinator", "TrainController", "DatasetManager",
    "raylet/raylet", "gcs_server", "driver",
)  # fmt: skip
"""Part of the command line of each kind of process; the driver is the command itself."""
STREAM = ("MapBatches(Render)", "MapBatches(Read)", "SplitCoordinator", "DatasetManager")
"""Those of the stream, which may end long before the last step, when all rows are on their way."""
PROGRAM = "from ecgscan_ray.cli import main; main()"


def curve(run: Path) -> list[tuple[int, float, float]]:
    """Step, which rows it took, and its loss; of every training line."""
    lines = [line for line in read_metrics(str(run)) if line["kind"] == "train"]
    return [(line["step"], line["batch_fingerprint"], line["loss"]) for line in lines]


def last_step(run: Path) -> int:
    """As the progress file says; 0 before there is one."""
    try:
        return int(json.loads((run / "progress.json").read_bytes()).get("step", 0))
    except FileNotFoundError:
        return 0


def running(driver: psutil.Process, kind: str) -> list[psutil.Process]:
    """The processes of this kind below the driver, or the driver itself."""
    if kind == "driver":
        return [driver]
    found = []
    with suppress(psutil.Error):  # the driver, or one of them, has ended meanwhile
        for process in driver.children(recursive=True):
            with suppress(psutil.Error):
                if kind in " ".join(process.cmdline()):
                    found.append(process)
    return found


def disturbed(command: list[str], run: Path, kind: str, rng: random.Random) -> int:
    """Kill a process at a random step, and give the command again until the run has ended: how often.

    Of the stream's processes one is killed within three seconds of its start.
    """
    at, pause = (0, rng.uniform(0, 3)) if kind in STREAM else (rng.randrange(1, STEPS - 20), 0.0)
    for number in range(1, COMMANDS + 1):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        driver, deadline, lost = psutil.Process(process.pid), time.monotonic() + 300, number > 1
        while not lost and process.poll() is None:
            assert time.monotonic() < deadline, f"{kind}: no step {at}"
            if last_step(run) >= at and running(driver, kind):
                time.sleep(pause)
                with suppress(psutil.Error, IndexError):
                    rng.choice(running(driver, kind)).kill()
                    lost = True
            time.sleep(0.05)
        output, _ = process.communicate(timeout=400)
        assert lost, f"{kind}: the run ended first\n{output[-2000:]}"
        assert "Traceback" not in output, output[-4000:]
        if process.returncode == 0:
            return number
    raise AssertionError(f"{kind}: not ended after {COMMANDS} commands\n{output[-2000:]}")


@pytest.fixture(scope="module")
def command(sample_store: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """``pretrain`` by two workers with a pipeline each; the run folder is still to be added."""
    config = tmp_path_factory.mktemp("random") / "config.yaml"
    settings = tiny_config(
        training__steps=STEPS, training__checkpoint_every=10, training__validation_rows=0, resources__num_workers=2,
        resources__cpus_per_worker=0.3, resources__render_actors=2, resources__max_pipelines=2,
        training__precision="fp32",
    )  # fmt: skip
    config.write_text(dump_yaml(settings))
    return [sys.executable, "-c", PROGRAM, "pretrain", "--config", str(config), "--store", sample_store, "--out"]


@pytest.fixture(scope="module")
def quiet(
    command: list[str], all_alone: None, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[int, float, float]]:
    """The curve of a run that loses nothing."""
    run = tmp_path_factory.mktemp("random") / "quiet"
    subprocess.run([*command, str(run)], check=True, capture_output=True, timeout=400)
    return curve(run)


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_run_that_loses_a_random_process(
    command: list[str], quiet: list[tuple[int, float, float]], tmp_path: Path, number: int
) -> None:
    kind, rng, run = LOST[number % len(LOST)], random.Random(number), tmp_path / "run"
    commands = disturbed([*command, str(run)], run, kind, rng)
    print(f"{number} {kind}: {commands} commands")
    assert [step for step, _, _ in quiet] == list(range(1, STEPS + 1))
    assert curve(run) == quiet
