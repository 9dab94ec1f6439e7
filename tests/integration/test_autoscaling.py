"""A cluster that begins with no CPUs and grows when it is asked (Ray's own autoscaler over nodes that are processes)."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.verify

HEAD_ID = "f" * 51 + "00000"
PROVIDER = {
    "type": "external",
    "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "use_node_id_as_ip": True,
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
    "launch_multiple": True,
    "head_node_id": HEAD_ID,
}
KINDS = {
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "render": {
        "resources": {"CPU": 4, "object_store_memory": 80_000_000},
        "labels": {"role": "render"},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 1,
    },
}

LISTS = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands")
LISTS += ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
"""Keys that the autoscaler expects to be there."""

JOB = """
import json, logging, sys, time
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.errors import EcgscanError
from ecgscan_ray.runtime.cluster import start_ray
from ecgscan_ray.runs.needs import Need
from ecgscan_ray.runtime.demand import await_room
import ray
start_ray(ResourceConfig())
before = ray.cluster_resources().get("CPU", 0)
await_room([Need("renderer", {"CPU": 1.5}, {"role": "render"})] * 2)
grown = ray.cluster_resources()["CPU"]
end = time.time() + 90
while ray.cluster_resources().get("CPU") and time.time() < end:
    time.sleep(1)
print(json.dumps([before, grown, ray.cluster_resources().get("CPU", 0)]))
"""


@pytest.fixture
def head() -> Iterator[dict[str, str]]:
    """Environment of who joins the head."""
    place = Path(tempfile.mkdtemp(prefix="ecgscan-", dir="/tmp"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    config = {
        "cluster_name": "grows",
        "max_workers": 1,
        "idle_timeout_minutes": 0.1,
        "upscaling_speed": 1,
        "provider": PROVIDER | {"gcs_address": f"127.0.0.1:{port}"},
        "available_node_types": KINDS,
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in LISTS},
    }
    (place / "cluster.yaml").write_text(yaml.safe_dump(config))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = clean | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    fake = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
    }
    start = ["start", "--head", "--block", "--num-cpus=0", f"--port={port}", f"--temp-dir={place / 'ray'}"]
    start += [
        "--include-dashboard=false",
        "--object-store-memory=80000000",
        f"--autoscaling-config={place}/cluster.yaml",
    ]
    with (place / "head.log").open("w") as log:
        command = [sys.executable, "-m", "ray.scripts.scripts", *start]
        process = subprocess.Popen(command, env=environment | fake, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in (place / "head.log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (place / "head.log").read_text()
            time.sleep(0.5)
        yield environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=90)
        shutil.rmtree(place, ignore_errors=True)


def test_a_job_waits_for_nodes_and_lets_them_go(head: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", JOB], env=head, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == [0, 4, 0]
    assert "there is no room for 2 x renderer (1.5 CPUs with role=render); the cluster was asked" in done.stderr
