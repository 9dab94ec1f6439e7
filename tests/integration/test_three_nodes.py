"""``cluster/local.yaml`` on three nodes of one machine: ``ray up``, jobs, a node and the head taken away and brought back.

``scripts/three_nodes.py`` makes the nodes; where it cannot (no root, no SSH server), nothing here runs.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
        process = self.submit(job, *arguments)
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output[-4000:]
        return output


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
    cluster.done("pretrain", *common, "--out", str(run))
    assert json.loads((run / "finished.json").read_bytes()) == {"step": 60}
    assert logged(run) == logged(quiet), "every row once, in the same batches, with the same losses"
    assert [step for step, _, _ in logged(run)] == list(range(1, 61))


def test_a_sweep_runs_as_a_job(cluster: Cluster, store: Path, tmp_path: Path) -> None:
    base = RUN | {"training.steps": 4, "training.checkpoint_every": 2, "training.validation_rows": 24}
    base |= {"resources.train_label": {"role": "train"}, "resources.render_label": {"role": "render"}}
    space = {"objective.gram_weight": {"low": 0.5, "high": 2.0}}
    config = cluster.work / "sweep.yaml"
    config.write_text(yaml.safe_dump({"base": "laptop", "base_overrides": base, "space": space, "trials": 2}))
    out = cluster.work / "sweep"
    cluster.done("sweep", "--config", str(config), "--store", str(store), "--out", str(out))
    assert json.loads((out / "report.json").read_bytes())["counts"]["done"] == 2
