"""``cluster/local.yaml`` on three nodes of one machine: ``ray up``, jobs, a node and the head taken away and brought back.

``scripts/three_nodes.py`` makes the nodes; where it cannot (no root, no SSH server), nothing here runs.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from ecgscan_ray.runs.metrics import read_metrics
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SCRIPT = [sys.executable, str(ROOT / "scripts" / "three_nodes.py")]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
TOOLS = ("ip", "unshare", "ssh", "rsync", "/usr/sbin/sshd")

pytestmark = [
    pytest.mark.verify,
    pytest.mark.ray,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, TOOLS)), reason="needs root, iproute2, rsync and an SSH server"
    ),
]

RUN = {
    "training.steps": 60,
    "training.global_batch_size": 24,
    "stream.unit_rows": 12,
    "training.log_every": 1,
    "training.checkpoint_every": 10,
    "training.validation_rows": 0,
    "training.precision": "fp32",
    "resources.num_workers": 2,
    "resources.cpus_per_worker": 1.5,
    "resources.max_failures": -1,
    "resources.train_label": "{role: train}",
    "resources.render_label": "{role: render}",
}
"""One worker on a node of two CPUs, since two need three."""


@dataclass
class Cluster:
    work: Path
    environment: dict[str, str]

    def script(self, what: str, *arguments: str) -> None:
        subprocess.run([*SCRIPT, what, str(self.work), *arguments], check=True, timeout=120)

    def up(self) -> None:
        command = [*RAY, "up", "--yes", "--no-config-cache", str(self.work / "cluster.yaml")]
        done = subprocess.run(command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        self._tunnel()

    def _tunnel(self) -> None:
        """To the job server, which listens on the head's loopback."""
        port = free_port()
        key = ["-i", str(self.work / "key"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        subprocess.Popen(
            ["ssh", *key, "-N", "-L", f"{port}:127.0.0.1:8265", "root@10.77.0.10"], stderr=subprocess.DEVNULL
        )
        self.address = f"http://127.0.0.1:{port}"

    def submit(self, job: str, *arguments: str) -> subprocess.Popen[str]:
        command = [*RAY, "job", "submit", "--address", self.address, "--working-dir", str(ROOT), "--"]
        command += ["python", f"jobs/{job}.py", *arguments]
        return subprocess.Popen(
            command, env=self.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def done(self, job: str, *arguments: str) -> str:
        return self.ended(self.submit(job, *arguments))

    @staticmethod
    def ended(process: subprocess.Popen[str]) -> str:
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output[-4000:]
        return output

    def on_head(self, program: str) -> str:
        """Run Python on the head, with Ray joined."""
        key = ["-i", str(self.work / "key"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        script = f"import ray; ray.init('10.77.0.10:6379', logging_level='ERROR'); {program}"
        command = f"RAY_AUTH_MODE=token PATH={Path(sys.executable).parent}:$PATH python -c {shlex.quote(script)}"
        done = subprocess.run(["ssh", *key, "root@10.77.0.10", command], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip()

    def drain(self, node: int, deadline_s: int) -> None:
        """Announce the end of a node, as a cloud does before it takes a spot machine away."""
        of_node = f"n['Alive'] and n['NodeManagerAddress'] == '10.77.0.{10 + node}'"
        name = self.on_head(f"print(next(n['NodeID'] for n in ray.nodes() if {of_node}))")
        drain = f"ray drain-node --address 10.77.0.10:6379 --node-id {name} --reason DRAIN_NODE_REASON_PREEMPTION"
        drain += f" --reason-message test --deadline-remaining-seconds {deadline_s}"
        self.on_head(f"import subprocess; subprocess.run({drain!r}.split(), check=True)")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    work = Path(tempfile.mkdtemp(prefix="ecgscan-nodes-", dir="/var/tmp"))
    client = work.with_name(f"{work.name}-client")  # its home: 'ray up' copies the token from there
    (client / ".ray").mkdir(parents=True)
    (client / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    (client / ".ray" / "auth_token").chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(client), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
    made = Cluster(work, environment)
    try:
        made.script("up", "--roles")
        made.up()
        yield made
    finally:
        made.script("down")
        shutil.rmtree(client, ignore_errors=True)


@pytest.fixture(scope="module")
def store(cluster: Cluster, sample_tree: Path) -> Path:
    """Made by a job; on a path that all nodes see, which ``/tmp`` is not."""
    tree, store = cluster.work / "tree", cluster.work / "store"
    shutil.copytree(sample_tree, tree)
    folds = ("--validation-folds", "8", "--test-folds", "9")
    cluster.done("prepare", "--source", "ptbxl", "--from", str(tree), "--to", str(store), *folds)
    return store


def settings(**changes: object) -> list[str]:
    return [part for key, value in (RUN | changes).items() for part in ("--set", f"{key}={value}")]


def logged(run: Path) -> list[tuple[int, int, float]]:
    """Step, which rows it took, and its loss; of every training line."""
    lines = [line for line in read_metrics(str(run)) if line["kind"] == "train"]
    return [(line["step"], line["batch_fingerprint"], line["loss"]) for line in lines]


def wait_for_step(run: Path, step: int, workers: int | None = None) -> None:
    """Until the step is logged, by a group of so many workers."""
    deadline = time.monotonic() + 600
    while not any(
        line["step"] >= step and workers in (None, line["world_size"])
        for line in read_metrics(str(run))
        if line["kind"] == "train"
    ):
        assert time.monotonic() < deadline, f"no step {step} by {workers or 'any number of'} workers"
        time.sleep(0.5)


def wait_for_checkpoint(run: Path, step: int) -> None:
    deadline = time.monotonic() + 600
    while not (run / "checkpoints" / f"checkpoint_{step:09d}" / "state.json").exists():
        assert time.monotonic() < deadline, f"no checkpoint of step {step}"
        time.sleep(0.5)


def test_a_node_and_the_head_are_taken_away_and_brought_back(cluster: Cluster, store: Path) -> None:
    quiet, run = cluster.work / "quiet", cluster.work / "run"
    common = ["--preset", "laptop", "--store", str(store), *settings()]
    cluster.done("pretrain", *common, "--out", str(quiet))
    process = cluster.submit("pretrain", *common, "--out", str(run))
    wait_for_checkpoint(run, 10)
    cluster.script("kill", "2")
    time.sleep(10)
    cluster.script("start", "2")
    wait_for_checkpoint(run, 30)
    cluster.script("kill", "0")
    process.kill()
    time.sleep(5)
    cluster.script("start", "0")
    cluster.up()
    output = cluster.submit("pretrain", *common, "--out", str(run)).communicate(timeout=900)[0]
    if "if it is dead, try again in" in output:  # on the new head another process may have the number of the lost one
        time.sleep(90)
        cluster.done("pretrain", *common, "--out", str(run))
    assert json.loads((run / "finished.json").read_bytes()) == {"step": 60}
    assert logged(run) == logged(quiet), "every row once, in the same batches, with the same losses"
    assert [step for step, _, _ in logged(run)] == list(range(1, 61))


@pytest.mark.parametrize("number", range(6))
def test_a_run_that_loses_a_node_at_random(cluster: Cluster, store: Path, number: int) -> None:
    """A node is killed, drained and then killed, or its worker is given up for a while: at a random step."""
    rng, kind = random.Random(number), ("killed", "drained", "resized")[number % 3]
    quiet, run = cluster.work / "quiet-random", cluster.work / f"random-{number}"
    common = ["--preset", "laptop", "--store", str(store), *settings(**{"training.checkpoint_every": 5})]
    if not (quiet / "finished.json").exists():
        cluster.done("pretrain", *common, "--out", str(quiet))
    elastic = ["--set", "resources.min_workers=1"] if kind == "resized" else []
    process = cluster.submit("pretrain", *common, *elastic, "--out", str(run))
    node, step = 1 if kind == "resized" else rng.choice([1, 2]), rng.randrange(6, 40)
    wait_for_step(run, step)
    if kind == "drained":
        cluster.drain(node, deadline_s=10)
        time.sleep(10)
    cluster.script("kill", str(node))
    if kind == "resized":
        wait_for_step(run, step + 1, workers=1)
    time.sleep(rng.uniform(0, 10))
    cluster.script("start", str(node))
    cluster.ended(process)
    here, there = logged(run), logged(quiet)
    assert [line[:2] for line in here] == [line[:2] for line in there], "every row once, in the same batches"
    assert [step for step, _, _ in here] == list(range(1, 61))
    if kind != "resized":
        assert here == there, "and the same losses, bit for bit"


def test_a_sweep_runs_as_a_job(cluster: Cluster, store: Path, tmp_path: Path) -> None:
    """A trial's own process is lost, as with its node."""
    base = RUN | {"training.steps": 4, "training.checkpoint_every": 2, "training.validation_rows": 24}
    base |= {"resources.train_label": {"role": "train"}, "resources.render_label": {"role": "render"}}
    space = {"objective.gram_weight": {"low": 0.5, "high": 2.0}}
    config = cluster.work / "sweep.yaml"
    config.write_text(yaml.safe_dump({"base": "laptop", "base_overrides": base, "space": space, "trials": 2}))
    out = cluster.work / "sweep"
    process = cluster.submit("sweep", "--config", str(config), "--store", str(store), "--out", str(out))
    deadline = time.monotonic() + 600
    while not list(out.glob("trials/*/checkpoints/checkpoint_*/state.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.5)
    lost = [other for other in psutil.process_iter(["cmdline"]) if "ray::ImplicitFunc" in " ".join(other.cmdline())]
    assert len(lost) == 1
    lost[0].kill()
    output = cluster.ended(process)
    assert json.loads((out / "report.json").read_bytes())["counts"]["done"] == 2, output[-4000:]
