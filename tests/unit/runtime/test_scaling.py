"""How many workers a group gets whose number follows the cluster, and when it changes."""

from __future__ import annotations

from typing import Any

import pytest
from ray.train import Checkpoint, ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2._internal.execution.training_report import _TrainingReport
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerStatus

from ecgscan_ray.runtime.ray_quirks import scaling_policy


class Group:
    """As much of Ray's state of a group as a policy reads."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers, self.start_time = num_workers, float("-inf")


class Cluster:
    """What Ray has reserved for the workers, and a policy that sees it."""

    def __init__(self, cpus: float, num_workers: tuple[int, int] = (1, 8), cpus_per_worker: float = 1.0) -> None:
        self.nodes, self.requests, self.asked = {"node": {"CPU": cpus}}, 0, list[int]()
        config = ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": cpus_per_worker})
        self.policy = scaling_policy(config, self.fitting)
        seen = {"_get_reserved_resources": lambda _: self.nodes, "_maybe_send_resource_request": lambda _: self.ask()}
        self.policy.__class__ = type("Seen", (type(self.policy),), {**seen, "GET_RESERVED_RESOURCES_INTERVAL_S": 0})

    def ask(self) -> None:
        self.requests += 1

    def fitting(self, most: int) -> int:
        self.asked.append(most)
        return max((workers for workers in (1, 2, 4, 8) if workers <= most), default=0)

    def start(self) -> Any:
        return self.policy.make_decision_for_non_running_worker_group()

    def poll(self, num_workers: int, stored: bool) -> Any:
        """A poll of a running group, of whose workers the first has a checkpoint stored or not."""
        checkpoint = Checkpoint.from_directory("checkpoint_000000002") if stored else None
        reports = [_TrainingReport(metrics={}, checkpoint=one, validation=False) for one in (checkpoint, None)]
        status = WorkerGroupPollStatus({rank: WorkerStatus(True, None, report) for rank, report in enumerate(reports)})
        return self.policy.make_decision_for_running_worker_group(Group(num_workers), status)


@pytest.mark.parametrize(("cpus", "workers"), [(1, 1), (3, 2), (7, 4), (8, 8), (20, 8)])
def test_a_group_starts_with_an_allowed_number(cpus: float, workers: int) -> None:
    decision = Cluster(cpus).start()
    assert isinstance(decision, ResizeDecision) and decision.num_workers == workers


def test_nothing_starts_below_the_least() -> None:
    cluster = Cluster(0.5)
    assert isinstance(cluster.start(), NoopDecision) and cluster.asked == [0]
    assert isinstance(Cluster(1, num_workers=(2, 8)).start(), NoopDecision)


def test_tenths_of_a_cpu_add_up() -> None:
    cluster = Cluster(0.3 + 0.3 + 0.3, cpus_per_worker=0.3)  # 0.8999999999999999
    cluster.start()
    assert cluster.asked == [3]


def test_a_running_group_changes_when_a_checkpoint_is_stored() -> None:
    cluster = Cluster(5)
    assert isinstance(cluster.poll(2, stored=False), NoopDecision) and cluster.requests == 1
    grown = cluster.poll(2, stored=True)
    assert isinstance(grown, ResizeDecision) and grown.num_workers == 4
    assert isinstance(cluster.poll(4, stored=True), NoopDecision), "as many as there may be"


def test_it_changes_at_most_once_in_the_interval() -> None:
    cluster = Cluster(5)
    assert isinstance(cluster.poll(4, stored=True), NoopDecision)
    cluster.nodes = {"node": {"CPU": 8}}
    assert isinstance(cluster.poll(4, stored=True), NoopDecision), "a minute has not passed"
