"""Validation beside training: the scores of validation between steps, and what becomes of one that fails or is interrupted."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from ecgscan_ray.config import dump_yaml
from ecgscan_ray.runs.checkpoints import find_checkpoint, list_checkpoints
from ecgscan_ray.runs.metrics import read_metrics
from ecgscan_ray.runtime.pretrain import pretrain
from tests.tiny import tiny_config

pytestmark = pytest.mark.verify

ROOT = Path(__file__).parents[3]
BESIDE: dict[str, Any] = {"training__validate_beside": True, "resources__cpus_per_worker": 0.5}
AVERAGED: dict[str, Any] = {"training__steps": 6, "training__ema_decay": 0.9}


def scores(run: Path) -> dict[int, dict[str, float]]:
    lines = [line for line in read_metrics(str(run)) if line["kind"] == "validation" and "validation.score" in line]
    return {line["step"]: {name: line[name] for name in line if name.startswith("validation.")} for line in lines}


def measuring() -> list[psutil.Process]:
    """Processes that measure a checkpoint."""
    return [p for p in psutil.process_iter(["cmdline"]) if "::measure_checkpoint" in " ".join(p.info["cmdline"] or [])]


def test_the_scores_are_those_of_validation_between_steps(ray_cluster: None, sample_store: str, tmp_path: Path) -> None:
    between, beside = tmp_path / "between", tmp_path / "beside"
    pretrain(tiny_config(**AVERAGED), sample_store, str(between), quiet=True)
    pretrain(tiny_config(**AVERAGED, **BESIDE), sample_store, str(beside), quiet=True)
    expected, found = scores(between), scores(beside)
    assert sorted(expected) == [2, 4, 6] and 6 in found, "the last one is always measured"
    for step, measured in found.items():
        assert measured == pytest.approx(expected[step], abs=1e-6)
    kept = {state.step: state.score for state in list_checkpoints(str(beside)).values()}
    assert kept[6] == found[6]["validation.score"]
    best = max((score, step) for step, score in kept.items() if score is not None)[1]
    assert find_checkpoint(str(beside), "best").endswith(f"checkpoint_{best:09d}")
    listed = json.loads((beside / "checkpoints" / "checkpoint_manager_snapshot.json").read_text())
    assert listed["latest_checkpoint_result"]["metrics"]["validation.score"] == kept[6]


def test_one_whose_process_dies_ends_nothing(
    ray_cluster: None, sample_store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()

    def kill_them() -> None:
        while not over.wait(0.1):
            for process in measuring():
                process.kill()

    killer = threading.Thread(target=kill_them, daemon=True)
    killer.start()
    try:
        with caplog.at_level(logging.WARNING, "ecgscan_ray"):
            pretrain(tiny_config(training__steps=2, **BESIDE), sample_store, str(tmp_path / "run"), quiet=True)
    finally:
        over.set()
        killer.join()
    assert "the checkpoint of step 2 was not validated: " in caplog.text
    assert scores(tmp_path / "run") == {} and (tmp_path / "run" / "finished.json").exists()
    assert find_checkpoint(str(tmp_path / "run"), "best").endswith("checkpoint_000000002")


def test_an_interrupted_one_is_begun_again(alone: None, sample_store: str, tmp_path: Path) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(dump_yaml(tiny_config(training__steps=2, **BESIDE)))
    program = "from ecgscan_ray.cli import main; main()"
    command = [sys.executable, "-c", program, "pretrain", "--config", str(config), "--store", sample_store]
    command += ["--out", str(out)]
    driver = subprocess.Popen(command, cwd=ROOT, env=os.environ.copy(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not measuring():
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert scores(out) == {} and not (out / "finished.json").exists()
    subprocess.run(command, cwd=ROOT, timeout=400, check=True)
    assert sorted(scores(out)) == [2] and (out / "finished.json").exists()
