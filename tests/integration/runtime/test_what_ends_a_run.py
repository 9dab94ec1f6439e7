"""What ends a run, what it goes on from, and what is left: on a real store with real Ray."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import pytest
from ray.train import UserCallback

from ecgscan_ray.config import Config, dump_yaml
from ecgscan_ray.errors import EcgscanError, StoreError
from ecgscan_ray.runs.checkpoints import find_checkpoint
from ecgscan_ray.runs.metrics import read_metrics
from ecgscan_ray.runtime.pretrain import pretrain
from ecgscan_ray.store.manifest import read_manifest
from ecgscan_ray.training.scratch import PREFIX
from tests.checkpoints import damage
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[3]
HOLDER = """
import sys
from ecgscan_ray.filesystem.lease import exclusive
with exclusive(sys.argv[1], "ecgscan pretrain"):
    print("held", flush=True)
    sys.stdin.read()
"""


class Attempts(UserCallback):
    """Notes each failure of the group of workers."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def after_exception(self, run_context: object, worker_exceptions: object) -> None:
        with self._log.open("a") as file:
            file.write("failed\n")


def fail(config: Config, store: str, tmp_path: Path, **options: Any) -> tuple[str, int]:
    """The line that a run ends with, and its number of attempts."""
    log = tmp_path / "attempts"
    with pytest.raises(EcgscanError) as found:
        pretrain(config, store, str(tmp_path / "run"), quiet=True, callbacks=[Attempts(log)], **options)
    assert "\n" not in str(found.value)
    assert not scratch_left("run")
    return str(found.value), len(log.read_text().splitlines())


def scratch_left(run: str) -> list[str]:
    return [path.name for path in Path(gettempdir()).glob(f"{PREFIX}{run}-*")]


def curve(run: Path) -> dict[int, tuple[float, float, float]]:
    lines = [line for line in read_metrics(str(run)) if line["kind"] == "train"]
    return {line["step"]: (line["batch_fingerprint"], line["loss"], line["grad_norm"]) for line in lines}


def test_a_second_command_in_the_folder_is_refused(sample_store: str, tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(StoreError, match=f"in use by 'ecgscan pretrain' .*pid {holder.pid}"):
        pretrain(tiny_config(), sample_store, str(tmp_path / "run"), quiet=True)
    holder.communicate("")


@pytest.mark.verify
def test_a_loss_that_is_not_finite_ends_at_once_and_names_recordings(
    ray_cluster: None, sample_store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    line, attempts = fail(tiny_config(training__learning_rate=1e37, training__warmup_steps=1), sample_store, tmp_path)
    assert attempts == 1
    assert "a batch of 12 recordings (" in line and "No checkpoint was saved before" in line
    with caplog.at_level(logging.INFO, "ecgscan_ray"):
        pretrain(tiny_config(training__steps=2), sample_store, str(tmp_path / "run"), quiet=True)
    assert "the run here saved no step" in caplog.text, "and the corrected command begins"


@pytest.mark.verify
def test_a_shard_that_goes_missing_ends_at_once(ray_cluster: None, sample_store: str, tmp_path: Path) -> None:
    store = shutil.copytree(sample_store, tmp_path / "store")
    missing = [shard.path for shard in read_manifest(str(store)).shards_of("train")]
    loss = partial(lose, store, missing)
    line, attempts = fail(tiny_config(training__steps=600), str(store), tmp_path, stop_rule=loss)
    assert any(shard in line for shard in missing) and attempts == 1


def lose(store: Path, shards: list[str], step: int, metrics: dict[str, float]) -> bool:
    for shard in shards:
        (store / shard).unlink(missing_ok=True)
    return False


@pytest.mark.verify
def test_a_damaged_last_checkpoint_costs_the_steps_since_the_one_before(
    ray_cluster: None, sample_store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, harmed = tmp_path / "whole", tmp_path / "harmed"
    pretrain(tiny_config(training__steps=8), sample_store, str(whole), quiet=True)
    pretrain(tiny_config(training__steps=8), sample_store, str(harmed), quiet=True, stop_rule=stop_at_four)
    (harmed / "finished.json").unlink()  # as if the driver had been lost there
    damage(harmed / "checkpoints" / "checkpoint_000000004" / "model.safetensors")
    with caplog.at_level(logging.INFO):
        pretrain(tiny_config(training__steps=8), sample_store, str(harmed), quiet=True)
    assert "model.safetensors is missing or damaged" in caplog.text and "going on from step 2 of 8" in caplog.text
    assert curve(harmed) == curve(whole)
    assert find_checkpoint(str(harmed), "last").endswith("checkpoint_000000008")


def stop_at_four(step: int, metrics: dict[str, float]) -> bool:
    return step >= 4


@pytest.mark.verify
def test_a_finished_run_is_lengthened(ray_cluster: None, sample_store: str, tmp_path: Path) -> None:
    out, longer = tmp_path / "run", tmp_path / "longer"
    pretrain(tiny_config(training__steps=4), sample_store, str(out), quiet=True)
    before = curve(out)
    pretrain(tiny_config(training__steps=8), sample_store, str(out), quiet=True)
    pretrain(tiny_config(training__steps=8), sample_store, str(longer), quiet=True)
    found, rows = curve(out), curve(longer)
    assert {step: found[step] for step in before} == before
    assert {step: line[0] for step, line in found.items()} == {step: line[0] for step, line in rows.items()}
    assert found[8] != rows[8], "the first half had another learning rate"


@pytest.mark.verify
def test_nothing_is_left_of_a_killed_command_after_the_next(alone: None, sample_store: str, tmp_path: Path) -> None:
    """SIGKILL of driver and workers in the middle; TMPDIR is theirs alone."""
    scratch = Path(gettempdir(), f"ecg{os.getpid()}")
    scratch.mkdir()
    try:
        config, out = tmp_path / "config.yaml", tmp_path / "run"
        config.write_text(dump_yaml(tiny_config(training__steps=40)))
        program = "from ecgscan_ray.cli import main; main()"
        command = [sys.executable, "-c", program, "pretrain", "--config", str(config), "--store", sample_store]
        command += ["--out", str(out)]
        environment = {**os.environ, "TMPDIR": str(scratch), "RAY_TMPDIR": gettempdir()}
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not (out / "checkpoints" / "checkpoint_000000002" / "state.json").exists():
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        subprocess.run(command, cwd=ROOT, env=environment, timeout=400, check=True)
        assert [path.name for path in scratch.iterdir() if path.name.startswith(("ecgscan", ".ecgscan"))] == []
        assert sorted(curve(out)) == list(range(1, 41))
    finally:
        shutil.rmtree(scratch)
