"""Storage fails for a while: training goes on, or waits for pages, and nothing is lost or made twice."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from pyarrow import fs

from ecgscan_ray.filesystem import exists, join, open_filesystem
from ecgscan_ray.runs.checkpoints import list_checkpoints
from ecgscan_ray.runs.metrics import read_metrics
from tests.failing_server import FailingServer
from tests.ports import free_port
from tests.tiny import TINY

pytestmark = pytest.mark.verify

STEPS, EVERY = 400, 50


@pytest.mark.parametrize(("store_too", "outage_s"), [(False, 60.0), (True, 300.0)])
def test_training_survives_storage_that_fails(
    s3_server: str, alone: None, sample_store: str, tmp_path: Path, store_too: bool, outage_s: float
) -> None:
    upstream = urlsplit(os.environ["AWS_ENDPOINT_URL"]).port
    assert upstream
    proxy = FailingServer(free_port(), upstream, share=0.0)
    proxy.kinds = ("busy",)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    settings, out = tmp_path / "tiny.yaml", join(s3_server, "outage", f"run-{store_too}")
    store = sample_store
    if store_too:
        store = join(s3_server, "outage", "store")
        filesystem, path = open_filesystem(store, create=True)
        fs.copy_files(sample_store, path, destination_filesystem=filesystem)
    training = TINY["training"] | {"steps": STEPS, "checkpoint_every": EVERY, "validation_rows": 0}
    settings.write_text(yaml.safe_dump(TINY | {"training": training}))
    command = ["pretrain", "--config", str(settings), "--store", store, "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-c", "from ecgscan_ray.cli import main; main()", *command],
        env=os.environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None and not exists(join(out, "metrics", "part-00000.jsonl")):
        time.sleep(0.2)
    proxy.share, began = 1.0, time.time()
    time.sleep(outage_s)
    proxy.share = 0.0
    output, _ = process.communicate(timeout=600)
    proxy.shutdown()
    assert process.returncode == 0, output[-4000:]
    lines = [line for line in read_metrics(out) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1)), "none is lost or repeated"
    during = [line["step"] for line in lines if began < line["time"] < began + outage_s]
    if not store_too:
        assert len(during) > EVERY, "steps went on"
    assert output.count("the storage of the run does not answer") == 1
    assert output.count("answers again") == 1
    assert sorted(state.step for state in list_checkpoints(out).values()) == [STEPS - EVERY, STEPS]
