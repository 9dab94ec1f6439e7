"""What a run logs is served to Prometheus by Ray's own agent."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import ray

from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.metrics import RunLog
from ecgscan_ray.runtime.ray_metrics import RayMetrics
from tests.tiny import tiny_config


def served() -> str:
    """All that the nodes of the cluster show to Prometheus."""
    addresses = [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in ray.nodes()]
    return "".join(urllib.request.urlopen(address, timeout=10).read().decode() for address in addresses)


def test_prometheus_is_served_the_figures_of_a_run(ray_cluster: None, tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    log = RunLog(tiny_config(training__sinks=[]), folder, tmp_path, {"ray": RayMetrics(folder.name)})
    log.write("train", 3, {"loss": 0.75, "images_per_s": 120.0, "data_wait_share": 0.5})
    log.write("validation", 3, {"validation.score": 0.25})
    names = ("step", "train_loss", "train_images_per_s", "train_data_wait_share", "validation_score")
    deadline, found = time.monotonic() + 60, {}
    while len(found) < len(names) and time.monotonic() < deadline:
        lines = [line for line in served().splitlines() if "ecgscan_" in line and 'run="run"' in line]
        found = {
            name: float(line.rpartition(" ")[2])
            for line in lines
            for name in names
            if line.startswith(f"ray_ecgscan_{name}{{")
        }
        time.sleep(1)
    assert found == dict(zip(names, (3.0, 0.75, 120.0, 0.5, 0.25), strict=True))
