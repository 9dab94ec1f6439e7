"""All commands on a bucket whose server fails at 30 % of requests: each finishes, with the rows of a good day."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from ecgscan_ray.filesystem import exists, join, list_files, read_bytes
from ecgscan_ray.runs.metrics import read_metrics
from ecgscan_ray.store.manifest import read_manifest
from tests.ports import free_port
from tests.stores import upload
from tests.tiny import TINY

pytestmark = pytest.mark.verify

ROUNDS = 5
STEPS = 6
SHARE = 0.3
MORE_AT_THE_START_S = 60.0
ROOT = Path(__file__).parents[2]


@pytest.fixture
def failing_endpoint(s3_server: str) -> Iterator[str]:
    """A second address of the S3 server, through a proxy in a process of its own."""
    port, upstream = free_port(), urlsplit(os.environ["AWS_ENDPOINT_URL"]).port
    command = [sys.executable, "-m", "tests.failing_server", str(port), str(upstream), str(SHARE)]
    proxy = subprocess.Popen(command, cwd=ROOT)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        proxy.terminate()
        proxy.wait(timeout=20)


@dataclass
class Done:
    """A command that ended: what it printed, how long it took, and after how many seconds its sign appeared."""

    output: str
    seconds: float
    started_s: float | None


def run(endpoint: str, *arguments: str, sign: str | None = None) -> Done:
    """``ecgscan`` with its storage at ``endpoint``; ``sign`` is a URI that appears when its work has started."""
    start, started = time.monotonic(), [float("inf")]
    process = subprocess.Popen(
        [sys.executable, "-c", "from ecgscan_ray.cli import main; main()", *arguments],
        env=os.environ | {"AWS_ENDPOINT_URL": endpoint},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def watch() -> None:
        while process.poll() is None:
            if sign is not None and exists(sign):
                started[0] = time.monotonic() - start
                return
            time.sleep(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    output, _ = process.communicate(timeout=900)
    watcher.join()
    seconds = time.monotonic() - start
    assert process.returncode == 0, f"{arguments}: status {process.returncode}\n{output[-4000:]}"
    return Done(output, seconds, None if sign is None else min(started[0], seconds))


def rows_by_step(out: str) -> dict[int, int]:
    """Step -> key of the set of rows in its global batch."""
    return {int(line["step"]): int(line["batch_fingerprint"]) for line in read_metrics(out) if line["kind"] == "train"}


def all_verbs(endpoint: str, folder: str, archive: str, settings: Path, local: Path) -> dict[str, Done]:
    store, out = join(folder, "store"), join(folder, "run")
    prepare = [
        "--source",
        "ptbxl",
        "--from",
        archive,
        "--to",
        store,
        "--validation-folds",
        "8",
        "--test-folds",
        "9",
    ]
    pretrain = ["--config", str(settings), "--store", store, "--out", out]
    return {
        "prepare": run(endpoint, "prepare", *prepare, "--limit", "300", sign=join(store, "train-00000.parquet")),
        "inspect": run(endpoint, "inspect", store, "--json"),
        "pretrain": run(endpoint, "pretrain", *pretrain, sign=join(out, "metrics")),
        "evaluate": run(endpoint, "evaluate", out, "--set", "evaluation.bootstrap=20"),
        "export": run(endpoint, "export", out, str(local)),
    }


def test_every_command_finishes_five_times(
    s3_server: str, alone: None, failing_endpoint: str, sample_tree: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "tiny.yaml"
    changes = {"training": TINY["training"] | {"steps": STEPS}}
    settings.write_text(yaml.safe_dump(TINY | changes))
    base = join(s3_server, "failing storage")
    archive = upload(sample_tree, join(base, "archive"))  # read through the proxy too
    direct = os.environ["AWS_ENDPOINT_URL"]
    good = all_verbs(direct, join(base, "good"), archive, settings, tmp_path / "good")
    for number in range(ROUNDS):
        folder = join(base, str(number))
        found = all_verbs(failing_endpoint, folder, archive, settings, tmp_path / str(number))
        for verb, done in found.items():
            summaries = done.output.count("storage: requests that failed")
            print(f"{number} {verb}: {done.seconds:.0f} s, {good[verb].seconds:.0f} s on a good day, {summaries} lines")
            if done.started_s is not None and good[verb].started_s is not None:
                print(f"   started after {done.started_s:.0f} s, {good[verb].started_s:.0f} s on a good day")
                assert done.started_s < good[verb].started_s + MORE_AT_THE_START_S, verb
        manifests = [read_manifest(join(base, name, "store")) for name in ("good", str(number))]
        assert manifests[0].digest() == manifests[1].digest()
        assert '"damaged": []' in found["inspect"].output
        out, whole = join(folder, "run"), join(base, "good", "run")
        assert rows_by_step(out) == rows_by_step(whole) and sorted(rows_by_step(out)) == list(range(1, STEPS + 1))
        kept = [[name for name in list_files(join(run, "checkpoints"), recursive=True) if name.endswith("state.json")]
                for run in (out, whole)]  # fmt: skip
        assert kept[0] == kept[1]
        assert json.loads(read_bytes(join(out, "finished.json"))) == {"step": STEPS}
        assert exists(join(out, "report.json"))
        assert not [name for name in list_files(folder, recursive=True) if ".lease" in name or ".tmp-" in name]
    counts = json.loads(urllib.request.urlopen(f"{failing_endpoint}/-/counts", timeout=10).read())
    print(counts)
    assert sum(counts.values()) - counts["good"] > 100
