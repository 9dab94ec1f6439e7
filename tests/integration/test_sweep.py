"""The sweep around a trial that costs nothing: what is kept, what goes on, what is told. Real Ray Tune and Optuna."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecgscan_ray.config import Config, SweepConfig, build, load
from ecgscan_ray.errors import ConfigError, RunError, StoreError
from ecgscan_ray.filesystem.lease import LEASE_NAME, acquire, exclusive
from ecgscan_ray.runtime.sweep import sweep
from ecgscan_ray.store.manifest import Manifest, Shard, write_manifest

ROOT = Path(__file__).parents[2]

SPACE = {
    "objective.gram_weight": {"low": 0.1, "high": 4.0, "log": True},
    "objective.temperature": {"low": 0.03, "high": 0.2},
}


def make_sweep(**changes: Any) -> SweepConfig:
    content = {"base": "laptop", "base_overrides": {"training.steps": 20}, "space": SPACE, "trials": 2, "seed": 5}
    return build(SweepConfig, content | changes, where="test")


@pytest.fixture
def store(tmp_path: Path) -> str:
    shard = Shard(path="train-00000.parquet", split="train", rows=64, row_groups=[64], bytes=1, sha256="0" * 64)
    write_manifest(str(tmp_path / "store"), Manifest(source="test", shards=[shard]))
    return str(tmp_path / "store")


def trainer(
    log: Path, fail_on: int = 0, die_on: int = 0, leased: bool = False, unmeasured: int = 0
) -> Callable[..., None]:
    """Stands in for ``pretrain``: best at gram_weight 1; notes each call; goes on from what its folder holds.

    Args:
        log: Gets the name of the trial at each call.
        fail_on: The call that raises.
        die_on: The call in which the process dies.
        leased: That call leaves a lease, of another machine.
        unmeasured: The call whose scores are not finite.
    """

    def train(config: Config, store: str, out: str, *, stop_rule: Any, quiet: bool) -> None:
        with log.open("a") as file:
            file.write(f"{Path(out).name}\n")
        calls = len(log.read_text().splitlines())
        weight = config.objective.gram_weight
        with exclusive(out, "a trial"):
            pass
        folder = Path(out, "metrics")
        folder.mkdir(parents=True, exist_ok=True)
        for step in (10, 20):
            score = math.nan if calls == unmeasured else (1 - abs(math.log(weight)) / 4) * step / 20
            part = folder / f"part-{step:05d}.jsonl"
            part.write_text(json.dumps({"step": step, "kind": "validation", "validation.score": score}) + "\n")
            if calls == die_on:
                if leased:
                    held = acquire(out, "a trial").lease
                    elsewhere = held.model_copy(update={"host": "elsewhere", "machine": "elsewhere"})
                    Path(out, LEASE_NAME).write_text(elsewhere.model_dump_json())
                os._exit(1)  # as by a lost node: no line is written, no error raised
            if stop_rule(step, {"validation.score": score}):
                return
        if calls == fail_on:
            raise ValueError(f"call {calls} is refused\nfor a reason")

    return train


def test_a_sweep_ranks_goes_on_and_ends(ray_cluster: None, store: str, tmp_path: Path) -> None:
    out, log = tmp_path / "sweep", tmp_path / "calls"
    train = trainer(log)
    late = sweep(make_sweep(deadline_s=0.001), store, str(out), train=train)
    assert late["trials"] == [], "nothing starts after the deadline"
    assert late["best"] is None
    assert not (out / "finished.json").exists(), "the next command may go on"

    report = sweep(make_sweep(), store, str(out), train=train)
    assert report["counts"]["done"] == 2
    scores = [entry["score"] for entry in report["trials"]]
    assert scores == sorted(scores, reverse=True)
    assert report["best"]["score"] == scores[0]
    assert (out / "report.html").stat().st_size > 10_000
    assert len((out / "trials.csv").read_text().splitlines()) == 3
    best = load(Config, str(out / "best.yaml"))
    assert best.objective.gram_weight == report["best"]["config"]["objective.gram_weight"]
    assert best.training.steps == load(Config, "laptop").training.steps, "the trials' shortening is left out"

    assert sweep(make_sweep(), store, str(out), train=train) == report
    assert len(log.read_text().splitlines()) == 2, "the same command on a finished sweep runs nothing"

    # what a killed driver leaves: one trial done, one marked as running; and the next command asks for one more
    _, second = log.read_text().splitlines()
    entry = json.loads((out / "trials" / f"{second}.json").read_text())
    (out / "trials" / f"{second}.json").write_text(json.dumps(entry | {"state": "running"}))
    (out / "finished.json").unlink()
    longer = sweep(make_sweep(trials=3), store, str(out), train=train)
    calls = log.read_text().splitlines()
    assert calls[2] == second, "what was running goes on before anything new"
    assert len(calls) == 4
    assert len(set(calls)) == 3, "no point is drawn twice"
    assert longer["counts"]["done"] == 3

    changed = make_sweep(space={**SPACE, "objective.temperature": {"low": 0.03, "high": 0.3}})
    with pytest.raises(RunError, match=r"other settings: sweep\.space\.objective\.temperature\.high"):
        sweep(changed, store, str(out), train=train)
    with pytest.raises(RunError, match="--fresh"):
        sweep(make_sweep(), store, str(out), fresh=True, train=train)


def test_the_best_two_run_again_with_further_seeds(ray_cluster: None, store: str, tmp_path: Path) -> None:
    out, log = tmp_path / "sweep", tmp_path / "calls"
    train = trainer(log)
    first = sweep(make_sweep(trials=3), store, str(out), train=train)
    assert first["seeds"] == []
    config = make_sweep(trials=3, final_seeds=2)
    report = sweep(config, store, str(out), train=train)
    assert len(log.read_text().splitlines()) == 3 + 4, "a finished sweep takes further seeds"
    best = {entry["id"] for entry in first["trials"][:2]}
    assert {entry["id"] for entry in report["seeds"]} == best
    assert all(set(entry["scores"]) == {"1", "2"} for entry in report["seeds"])
    assert report["counts"]["done"] == 3
    assert sweep(config, store, str(out), train=train) == report
    longer = sweep(make_sweep(trials=4, final_seeds=2), store, str(out), train=train)
    calls = len(log.read_text().splitlines())
    assert longer["counts"]["done"] == 4 and calls in (8, 10), "one of the search, and a new second's seeds"


def test_failed_and_lost_trials_are_told_and_the_sweep_goes_on(ray_cluster: None, store: str, tmp_path: Path) -> None:
    out, log = tmp_path / "sweep", tmp_path / "calls"
    once = {"training.steps": 20, "resources.max_failures": 0}
    train = trainer(log, fail_on=1, die_on=2)
    report = sweep(make_sweep(base_overrides=once), store, str(out), train=train)
    failed, lost = log.read_text().splitlines()
    entries = {entry["id"]: entry for entry in report["trials"]}
    assert report["counts"] == {"done": 0, "stopped": 0, "failed": 2, "running": 0}
    assert "call 1 is refused" in entries[failed]["error"]
    assert entries[lost]["error"]
    assert all("\n" not in entries[name]["error"] for name in (failed, lost))
    assert report["best"] is None
    assert "call 1 is refused" in (out / "report.html").read_text()


def test_a_trial_whose_process_is_lost_goes_on(ray_cluster: None, store: str, tmp_path: Path) -> None:
    """Its lease names a process on another machine, as after the loss of a node; an error of its own ends it at once."""
    out, log = tmp_path / "sweep", tmp_path / "calls"
    report = sweep(make_sweep(trials=3), store, str(out), train=trainer(log, fail_on=4, die_on=1, leased=True))
    lost, again, done, failed = log.read_text().splitlines()
    assert again == lost and len({lost, done, failed}) == 3
    assert report["counts"] == {"done": 2, "stopped": 0, "failed": 1, "running": 0}
    assert next(entry["error"] for entry in report["trials"] if entry["id"] == failed)


def test_a_trial_that_measured_nothing_ends_no_other(ray_cluster: None, store: str, tmp_path: Path) -> None:
    report = sweep(make_sweep(), store, str(tmp_path / "sweep"), train=trainer(tmp_path / "calls", unmeasured=1))
    assert report["counts"] == {"done": 2, "stopped": 0, "failed": 0, "running": 0}
    assert [entry["score"] is None for entry in report["trials"]] == [False, True]


def test_a_sweep_of_real_pretrainings(sample_store: str, tmp_path: Path) -> None:
    """A trial of a few steps, streamed, trained and validated by Ray inside Ray Tune."""
    short = {
        "page.height": 96,
        "page.width": 128,
        "training.steps": 2,
        "training.global_batch_size": 12,
        "training.checkpoint_every": 1,
        "training.validation_rows": 12,
        "training.warmup_steps": 1,
        "training.sinks": [],
    }
    content = {"base": "laptop", "base_overrides": short, "space": SPACE, "trials": 1}
    report = sweep(build(SweepConfig, content, where="test"), sample_store, str(tmp_path / "sweep"))
    assert report["counts"]["done"] == 1, report["trials"]
    for entry in report["trials"]:
        assert [step for step, _ in entry["curve"]] == [1, 2]
        assert 0 < entry["score"] < 1
        resolved = load(Config, str(tmp_path / "sweep" / "trials" / entry["id"] / "config.yaml"))
        assert resolved.objective.gram_weight == entry["config"]["objective.gram_weight"]
    load(Config, str(tmp_path / "sweep" / "best.yaml"))


DRIVER = """
import json, signal, sys, time
from pathlib import Path
from ecgscan_ray.config import SweepConfig, build
from ecgscan_ray.runtime.sweep import sweep

store, out, log, space = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored

def train(config, store, out, *, stop_rule, quiet):
    with open(log, "a") as file:
        file.write(Path(out).name + chr(10))
    Path(out, "metrics").mkdir(parents=True, exist_ok=True)
    line = {"step": 10, "kind": "validation", "validation.score": config.objective.temperature}
    Path(out, "metrics", "part-00000.jsonl").write_text(json.dumps(line) + chr(10))
    if len(Path(log).read_text().splitlines()) == 2:
        time.sleep(600)  # until the driver is killed

content = {"base": "laptop", "space": json.loads(space), "trials": 2}
print(sweep(build(SweepConfig, content, where="test"), store, out, train=train)["counts"])
"""

HUNDRED = """
import json, sys
from pathlib import Path
from ecgscan_ray.config import SweepConfig, build
from ecgscan_ray.runtime.sweep import sweep

store, out, log, space = sys.argv[1:]

def train(config, store, out, *, stop_rule, quiet):
    with open(log, "a") as file:
        file.write(Path(out).name + chr(10))
    Path(out, "metrics").mkdir(parents=True, exist_ok=True)
    lines = []
    for step in range(10, 100, 10):
        score = config.objective.temperature * step / 100
        lines.append(json.dumps({"step": step, "kind": "validation", "validation.score": score}))
        Path(out, "metrics", "part-00000.jsonl").write_text(chr(10).join(lines) + chr(10))
        if stop_rule(step, {"validation.score": score}):
            break

base = {"training.steps": 90, "resources.local_cpus": 8}
content = {"base": "laptop", "base_overrides": base, "space": json.loads(space), "trials": 100}
content |= {"max_concurrent": 4, "reduction_factor": 3, "final_seeds": 2}
print(json.dumps(sweep(build(SweepConfig, content, where="test"), store, out, train=train)["counts"]))
"""


@pytest.mark.verify
def test_a_hundred_trials_go_on_after_the_driver_dies(alone: None, store: str, tmp_path: Path) -> None:
    """Four at a time, with successive halving; the driver is killed twice."""
    log, out = tmp_path / "calls", tmp_path / "sweep"
    command = [sys.executable, "-c", HUNDRED, store, str(out), str(log), json.dumps(SPACE)]
    for ended in (20, 60):
        driver = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + 600
        while not log.exists() or len(log.read_text().splitlines()) < ended:
            assert driver.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        driver.kill()
        driver.wait(timeout=60)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=True)
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["done"] + counts["stopped"] == 100 and counts["failed"] == counts["running"] == 0
    assert counts["stopped"] > 40
    calls = log.read_text().splitlines()
    assert len(set(calls)) == 104, "a hundred, and two further seeds of the best two"
    assert len(calls) <= 104 + 2 * 4, "only what was running when the driver died runs again"
    report = json.loads((out / "report.json").read_bytes())
    assert next(iter(report["importance"]["shares"])) == "objective.temperature", "the only one that matters"
    assert len(report["seeds"]) == 2


@pytest.mark.verify
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_sweep_goes_on_where_it_stopped(alone: None, store: str, tmp_path: Path, stop: signal.Signals) -> None:
    """The driver, which takes its Ray cluster with it, is killed or interrupted in the middle of the second trial."""
    log = tmp_path / "calls"
    command = [sys.executable, "-c", DRIVER, store, str(tmp_path / "sweep"), str(log), json.dumps(SPACE)]
    driver = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 400
    while not (log.exists() and len(log.read_text().splitlines()) == 2):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    driver.send_signal(stop)
    driver.wait(timeout=120)
    assert not (tmp_path / "sweep" / "finished.json").exists(), "it is not over"
    first, second = log.read_text().splitlines()

    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=True)
    assert "{'done': 2, 'stopped': 0, 'failed': 0, 'running': 0}" in again.stdout
    assert log.read_text().splitlines() == [first, second, second]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space": {"objective.gram_wait": {"low": 0.1, "high": 1.0}}},
            r"gram_wait.*Did you mean 'objective.gram_weight'",
        ),
        ({"space": {"objective.temperature": {"low": -1.0, "high": 1.0}}}, r"objective\.temperature.*greater than 0"),
        ({"space": {"training.steps": {"low": 10, "high": 50}}}, r"training\.steps.*integer"),
        ({"base_overrides": {"training.validation_rows": 0}}, "validation_rows is 0"),
        ({"max_concurrent": 50}, "50 trials at a time need"),
        (
            {"metric": "validation.r_show"},
            r"metric: no trial measures 'validation.r_show'. Did you mean 'validation.r_shown'",
        ),
        ({"base": "lap-top"}, "Did you mean 'laptop'"),
    ],
)
def test_bad_searches_are_refused_before_a_trial(
    ray_cluster: None, store: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(make_sweep(**changes), store, str(tmp_path / "sweep"), train=trainer(tmp_path / "calls"))
    assert not (tmp_path / "calls").exists()


def test_bad_places_are_refused(store: str, tmp_path: Path) -> None:
    train = trainer(tmp_path / "calls")
    with pytest.raises(StoreError, match="not a store"):
        sweep(make_sweep(), str(tmp_path), str(tmp_path / "sweep"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text(yaml.safe_dump({}))
    with pytest.raises(RunError, match="holds other things"):
        sweep(make_sweep(), store, str(tmp_path / "full"), train=train)
    (tmp_path / "archive" / "records").mkdir(parents=True)
    with pytest.raises(RunError, match=r"holds other things \(records"):
        sweep(make_sweep(), store, str(tmp_path / "archive"), train=train)
