"""The storage of a run fails for a while: training goes on, and what was not stored is stored afterwards."""

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

from ecgscan_ray.filesystem import exists, join
from ecgscan_ray.runs.checkpoints import list_checkpoints
from ecgscan_ray.runs.metrics import read_metrics
from tests.failing_server import FailingServer
from tests.ports import free_port
from tests.tiny import TINY

pytestmark = pytest.mark.verify

STEPS, EVERY, OUTAGE_S = 400, 50, 60.0


def test_training_goes_on_while_nothing_can_be_stored(
    s3_server: str, alone: None, sample_store: str, tmp_path: Path
) -> None:
    upstream = urlsplit(os.environ["AWS_ENDPOINT_URL"]).port
    assert upstream
    proxy = FailingServer(free_port(), upstream, share=0.0)
    proxy.kinds = ("busy",)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    settings, out = tmp_path / "tiny.yaml", join(s3_server, "outage", "run")
    training = TINY["training"] | {"steps": STEPS, "checkpoint_every": EVERY, "validation_rows": 0}
    settings.write_text(yaml.safe_dump(TINY | {"training": training}))
    command = ["pretrain", "--config", str(settings), "--store", sample_store, "--out", out]
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
    time.sleep(OUTAGE_S)
    proxy.share = 0.0
    output, _ = process.communicate(timeout=600)
    proxy.shutdown()
    assert process.returncode == 0, output[-4000:]
    lines = [line for line in read_metrics(out) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1)), "none is lost or repeated"
    during = [line["step"] for line in lines if began < line["time"] < began + OUTAGE_S]
    assert len(during) > EVERY, "steps went on"
    assert sorted(state.step for state in list_checkpoints(out).values()) == [STEPS - EVERY, STEPS]
