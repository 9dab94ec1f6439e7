"""A node comes and goes in the middle of a run: its group of workers grows and shrinks, and the batches stay the same."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from torch import nn

from ecgscan_ray.config import Config
from ecgscan_ray.runs.metrics import read_metrics
from ecgscan_ray.runtime import pretrain as pretraining
from ecgscan_ray.runtime.local_cluster import need_token, ray_folder
from ecgscan_ray.runtime.pretrain import pretrain
from ecgscan_ray.runtime.registered import registered_step
from tests.ports import free_port
from tests.tiny import tiny_config

pytestmark = pytest.mark.verify

STEPS = 30
PATIENCE_S = 600
WORKER_CPUS = 2.5
"""Of the head's four: one worker has room there beside what draws and reads, two have not."""

SAME_FOR_ANY_NUMBER: dict[str, Any] = {
    "training__augment": {"lead_dropout": 0.0, "gain": 0.0, "noise_mv": 0.0, "token_dropout": 0.0},
    "training__precision": "fp32",
    # AdamW divides a gradient by its own size: where that is rounding alone, the weight still moves by the learning rate
    "training__learning_rate": 1e-5,
}


@pytest.fixture
def cluster(alone: None) -> Iterator[Cluster]:
    """A head that this process has joined."""
    need_token()
    head = {"num_cpus": 4, "object_store_memory": 200 * 2**20, "temp_dir": ray_folder()}
    head |= {"include_dashboard": True, "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


class Pace:
    """A stop rule that never stops the run, and holds it at the step in a file.

    Dropout is seeded by rank, and no setting ends it: it is off in the workers, which unpickle this.
    """

    def __init__(self, file: Path, step: int) -> None:
        self._file = file
        self.let_pass(step)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        nn.Dropout.forward = lambda _, values: values

    def let_pass(self, step: int) -> None:
        self._file.with_suffix(".new").write_text(str(step))
        self._file.with_suffix(".new").rename(self._file)

    def limit(self) -> int:
        return int(self._file.read_text())

    def __call__(self, step: int, metrics: dict[str, float]) -> bool:
        while step >= self.limit():
            time.sleep(0.1)
        return False


def settings(**changes: Any) -> Config:
    return tiny_config(
        training__steps=STEPS, training__validation_rows=0, resources__cpus_per_worker=WORKER_CPUS,
        resources__max_failures=-1, **SAME_FOR_ANY_NUMBER, **changes,
    )  # fmt: skip


def train_lines(run: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(str(run)) if line["kind"] == "train"]


def registered(run: Path) -> int:
    """Step of the last checkpoint that is registered; 0 while Ray writes its list, in place."""
    with suppress(ValueError):
        return registered_step(str(run))
    return 0


def go_on_until(num_workers: int, run: Path, pace: Pace) -> None:
    """Let the run make one checkpoint after the other until one of a group of so many workers is registered."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(line["world_size"] == num_workers and line["step"] == registered(run) for line in train_lines(run)):
        assert time.monotonic() < deadline, f"no group of {num_workers} came"
        if registered(run) >= pace.limit():
            time.sleep(3)  # Ray Train looks every two seconds
            pace.let_pass(pace.limit() + 2)
        time.sleep(0.2)


def test_a_node_comes_and_goes(
    cluster: Cluster, sample_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "RESIZE_EVERY_S", 0.0)
    still, moved = tmp_path / "still", tmp_path / "moved"
    pretrain(settings(), sample_store, str(still), quiet=True, stop_rule=Pace(tmp_path / "free", STEPS + 1))

    pace = Pace(tmp_path / "pace", 2)
    config = settings(resources__num_workers=2, resources__min_workers=1)
    run = threading.Thread(
        target=pretrain, args=(config, sample_store, str(moved)), kwargs={"stop_rule": pace, "quiet": True}
    )
    run.start()
    try:
        go_on_until(1, moved, pace)
        node = cluster.add_node(num_cpus=3, object_store_memory=100 * 2**20)
        go_on_until(2, moved, pace)
        cluster.remove_node(node, allow_graceful=False)
        go_on_until(1, moved, pace)
    finally:
        pace.let_pass(STEPS + 1)
        run.join(PATIENCE_S)

    expected, lines = train_lines(still), train_lines(moved)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["batch_fingerprint"] for line in lines] == [line["batch_fingerprint"] for line in expected]
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in expected], abs=1e-5)
    sizes = [line["world_size"] for line in lines]
    changes = [size for size, before in zip(sizes, [0, *sizes], strict=False) if size != before]
    assert changes == [1, 2, 1] and {line["world_size"] for line in expected} == {1}
