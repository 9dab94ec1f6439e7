"""The same commands as jobs of a running cluster, with store and runs in a bucket behind a real S3 server."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecgscan_ray.filesystem import join, list_files, read_bytes
from ecgscan_ray.store.manifest import read_manifest
from tests.encoders import exported_encoder, save_pictures
from tests.ports import free_port
from tests.stores import upload

pytestmark = pytest.mark.verify

ROOT = Path(__file__).parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]


class Head:
    """A head that was started for the test, with a token of its own."""

    def __init__(self, address: str, token: str, environment: dict[str, str]) -> None:
        self.address, self._token, self._environment = address, token, environment

    def __call__(self, job: str, *arguments: str) -> tuple[int, str]:
        """``ray job submit``: status and output."""
        command = [*RAY, "job", "submit", "--address", self.address, "--working-dir", str(ROOT), "--"]
        command += [sys.executable, f"jobs/{job}.py", *arguments]
        for _ in range(30):
            done = subprocess.run(
                command, env=self._environment, capture_output=True, text=True, timeout=1500, cwd=ROOT
            )
            if "No available agent" not in done.stderr:  # a head that has just started asks to try again
                break
            time.sleep(2)
        return done.returncode, done.stdout + done.stderr

    def shown(self, path: str) -> Any:
        """What the dashboard shows."""
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self._token}"})
        return json.loads(urllib.request.urlopen(request, timeout=60).read())


@pytest.fixture
def submit(s3_server: str, alone: None) -> Iterator[Head]:
    temporary = Path(tempfile.mkdtemp(prefix="ecgscan-", dir="/tmp"))  # short: Ray's sockets lie below it
    token = secrets.token_hex(32)
    (temporary / "token").write_text(token)
    port, dashboard = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(temporary / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    start = ["start", "--head", "--block", "--num-cpus=4", f"--port={port}", f"--dashboard-port={dashboard}"]
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-agent-listen-port={free_port()}"]
    start += [f"--temp-dir={temporary / 'ray'}", "--object-store-memory=400000000"]
    with (temporary / "head.log").open("w") as log:
        head = subprocess.Popen([*RAY, *start], env=environment, stdout=log, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{dashboard}"

    try:
        wait_for(address, head)
        yield Head(address, token, environment)
    finally:
        head.send_signal(signal.SIGTERM)  # with --block it ends what it started
        head.wait(timeout=60)
        shutil.rmtree(temporary, ignore_errors=True)


def wait_for(address: str, head: subprocess.Popen) -> None:
    """Until the job server answers, with whatever status."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and head.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5)
            return
        except urllib.error.HTTPError:
            return  # it wants a token
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("the head's job server does not answer")


SHORT = {
    "training.steps": 4,
    "training.global_batch_size": 24,
    "stream.unit_rows": 24,
    "training.checkpoint_every": 2,
    "training.validation_rows": 24,
}


def test_prepare_pretrain_and_sweep_as_jobs(submit: Head, s3_server: str, sample_tree: Path, tmp_path: Path) -> None:
    bucket = join(s3_server, "jobs")
    store, run, sweep = (join(bucket, name) for name in ("store", "run", "sweep"))

    status, output = submit("prepare", "--source", "ptbxl", "--from", str(sample_tree), "--to", "store")
    assert status == 1, "Ray passes no other status on"
    assert "error: store: a relative path inside a Ray job" in output

    folds = ["--validation-folds", "8", "--test-folds", "9"]
    status, output = submit("prepare", "--source", "ptbxl", "--from", str(sample_tree), "--to", store, *folds)
    assert status == 0, output[-3000:]
    assert read_manifest(store).rows("train") > 800

    settings = [part for key, value in SHORT.items() for part in ("--set", f"{key}={value}")]
    status, output = submit("pretrain", "--preset", "laptop", "--store", store, "--out", run, *settings)
    assert status == 0, output[-3000:]
    assert json.loads(read_bytes(join(run, "finished.json"))) == {"step": 4}
    files = list_files(join(run, "checkpoints"), recursive=True)
    assert any(name.endswith("/state.json") for name in files)
    assert any(name.startswith("part-") for name in list_files(join(run, "metrics")))
    (listed,) = submit.shown("/api/train/v2/runs/v1")["train_runs"]
    assert listed["status"] == "FINISHED", "the dashboard shows the run"

    space = {"objective.gram_weight": {"low": 0.5, "high": 2.0}}
    content = {"base": "laptop", "base_overrides": SHORT, "space": space, "trials": 2}
    config = tmp_path / "sweep.yaml"
    config.write_text(yaml.safe_dump(content))
    status, output = submit("sweep", "--config", str(config), "--store", store, "--out", sweep)
    assert status == 0, output[-3000:]
    report = json.loads(read_bytes(join(sweep, "report.json")))
    assert report["counts"]["done"] == 2, report
    assert {"best.yaml", "report.html", "trials.csv"} <= set(list_files(sweep))


def test_embed_as_a_job(submit: Head, s3_server: str, tmp_path: Path) -> None:
    bucket = join(s3_server, "embed-job")
    encoder = upload(Path(exported_encoder(tmp_path)), join(bucket, "encoder"))
    pictures = upload(save_pictures(tmp_path / "pictures", 40), join(bucket, "pictures"))
    out = join(bucket, "features.parquet")
    status, output = submit("embed", encoder, pictures, out)
    assert status == 0, output[-3000:]
    assert "40 pages embedded, 1 skipped" in output and "skipped torn.png" in output
    assert list_files(bucket) == ["features.parquet"]
    status, output = submit("embed", encoder, pictures, str(tmp_path / "features.parquet"), "--device", "cuda:9")
    assert status == 1 and "error: resources: embed needs 1 CPUs and 1 GPUs" in output, output[-3000:]
