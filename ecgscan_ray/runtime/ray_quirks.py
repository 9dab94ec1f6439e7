"""Every workaround of Ray, with the version it was seen in, its symptom, and when it can go.

Ray is imported inside the functions: the first one runs before Ray is imported. Some workarounds are the shape of other
files, since they are more than a call:

- ``attend.py`` (2.60): in the main thread Ray Train handles Ctrl-C itself and exits with status 1, and a lost cluster ends
  the process after 60 s without an error. Can go when ``fit`` leaves signals alone and raises when the head is gone.
- ``registered.py`` (2.60): Ray Train resumes from the last checkpoint in its list, even if it is damaged or gone, and
  writes the list in place. Can go when Ray checks the list against the storage.
- ``spans.py`` (2.60): ``from_items`` makes a block of each item before the first one is read, and a read task that takes
  a CPU is fused with the next stage. Can go when a dataset can be made from a generator.
- ``sweep.py`` (2.60): a trial that is killed from outside leaks its placement group, so trials stop themselves. Can go
  when ``tune`` frees what a killed trial has started.
- ``cluster.py`` (2.60): ``ray.init`` tries an address where nobody answers for 15 minutes, so a socket asks first; Ray
  Train asks the dashboard which placement groups to free, so it stays on. Can go when both fail at once, with an error.
- ``beside.py`` (2.60): a validation whose process is killed ends the run, so the function that Ray Train calls does
  nothing but wait for another task. Can go when Ray Train counts every lost task as a failed validation.
- ``terminal.py`` (2.60): Ray's agents outlive a killed command for minutes. Can go when they end with their parent.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.data import DataContext
    from ray.train import FailureConfig, ScalingConfig

START_ENVIRONMENT = {
    # 2.60: unset, each process warns that the default will change. Can go when the default is 0.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # 2.60: a task that fills the memory is started again for ever. Can go when the default is finite.
    "RAY_task_oom_retries": "2",
    # 2.60: the scheduler's events are printed in the driver. Can go when log_to_driver=False covers them.
    "RAY_SCHEDULER_EVENTS": "0",
}

TUNE_ENVIRONMENT = {
    # 2.60: the new output prints boxes at any verbosity. Can go when verbose=0 prints nothing.
    "RAY_AIR_NEW_OUTPUT": "0",
    # 2.60: a trial's working directory changes, so relative paths in settings do too. Can go when the default is 0.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # 2.60: CSV, JSON and TensorBoard files that nobody reads. Can go when RunConfig can switch them off.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # 2.60: a trial that measured nothing (its score is not finite) would end all others. Can go when it only warns.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}

CHECKPOINT_LIST = "checkpoint_manager_snapshot.json"
"""2.60: Ray Train's own list of checkpoints; there is no public way to read or correct it."""


def set_import_environment() -> None:
    """Variables that Ray reads while it is imported.

    2.60: the servers of a local cluster listen on all interfaces, unless a variable that is named after Windows and macOS
    is 0. An address where nobody answers is tried 20 times for 40 s. 'ray start' turns tokens on where the user has one,
    but a driver that joins sends none. Each can go when ``ray.init`` has an argument for it.
    """
    if os.environ.get("RAY_ADDRESS", "") in ("", "local"):
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        return
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    os.environ.setdefault("RAY_py_gcs_connect_timeout_s", "10")
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if named or os.path.exists(os.path.expanduser("~/.ray/auth_token")):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back after ``ray.init``.

    2.60: Ray installs its own, which exits with 15 or prints native stacks. Can go when it leaves an existing handler.
    """
    import signal
    import threading

    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def silence_raylet_messages() -> None:
    """Stop the driver from printing the raylet's long messages on lost processes; Ray's log files have them.

    2.60: they go to stdout even with ``log_to_driver=False``. Can go when that covers them.
    """
    import ray

    ray._private.worker.print_to_stdstream = lambda *_, **__: None


def silence_progress_warning() -> None:
    """Stop Ray Data from warning, once a dataset, that progress bars are off.

    2.60. Can go when bars that were switched off on purpose are no warning.
    """
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def silence_tune_warning() -> None:
    """Stop Tune from warning that the files of the loggers in ``TUNE_ENVIRONMENT`` are missing.

    2.60. Can go when it does not look for files of loggers that are off.
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)


def set_generator_buffer(context: DataContext, blocks: int) -> None:
    """How many blocks a reading task may have ready before the next stage takes one.

    2.60: the default, 2, makes actors wait; the setting has no public name. Can go when it has one.
    """
    context._max_num_blocks_in_streaming_gen_buffer = blocks


class SchedulerThrottle:
    """Makes Ray Data's scheduling loop pause; for ``DataContext.custom_execution_callback_classes``.

    2.60: while finished blocks wait for the trainers, the loop's wait returns at once, and the loop takes 0.6 of a core
    from the training. Can go when ``ray.wait`` in the loop blocks with outputs held back.
    """

    def before_execution_starts(self, executor: object) -> None:
        """Nothing to prepare."""

    def on_execution_step(self, executor: object) -> None:
        """Pause for less time than a unit takes to render; the actors have units queued."""
        time.sleep(0.02)

    def after_execution_succeeds(self, executor: object) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: object, error: Exception) -> None:
        """Nothing to do."""


def running_stages() -> list[tuple[str, dict[str, Any]]]:
    """Name and progress of each stage of the datasets that run.

    2.60: only an internal actor knows them. Can go when ``Dataset.stats`` answers while a dataset runs.
    """
    import ray
    from ray.data._internal.stats import get_or_create_stats_actor

    datasets = ray.get(get_or_create_stats_actor().get_datasets.remote(None), timeout=5)
    return [
        (name, stage)
        for dataset in datasets.values()
        if dataset.get("state") == "RUNNING"
        for name, stage in dataset.get("operators", {}).items()
    ]


def dead_processes() -> list[str]:
    """Kinds of the processes of a cluster started here that have ended; empty where a cluster was joined.

    2.60: a dead ``gcs_server`` or ``raylet`` shows as a hang of minutes. Can go when calls raise at once.
    """
    import ray

    return [kind for kind, _ in getattr(ray._private.worker._global_node, "dead_processes", list)()]


def has_autoscaler() -> bool:
    """Whether an autoscaler adds nodes to the cluster.

    2.60: no public function says so; the report of the first autoscaler lies in the head's key-value store, and without
    one each node is a type of its own, named after its id. Can go when there is a public function.
    """
    import json
    import re

    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2():
        return True
    status: Any = json.loads(_internal_kv_get("__autoscaling_status") or b"{}")
    active = (status.get("autoscaler_report") or {}).get("active_nodes") or {}
    return any(not re.fullmatch(r"node_[0-9a-f]{40,}", kind) for kind in active)


def failure_policy(config: FailureConfig, is_permanent: Any) -> Any:
    """Ray Train's failure policy, except that a permanent failure is not retried.

    2.60: a trainer takes no policy; ``failures.Trainer`` hands this one to its controller. Can go when it does.

    Args:
        config: Of the run.
        is_permanent: ``TrainingFailedError`` -> whether another attempt would meet the same failure.
    """
    from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision

    class Policy(DefaultFailurePolicy):
        def make_decision(self, training_failed_error: Any) -> FailureDecision:
            if is_permanent(training_failed_error):
                return FailureDecision.RAISE
            return super().make_decision(training_failed_error)

    return Policy(config)


def scaling_policy(config: ScalingConfig, fitting_workers: Callable[[int], int]) -> Any:
    """Ray Train's policy of a group whose number of workers follows the cluster, except for when it changes and to what.

    2.60: a trainer takes no policy. Ray's own (a) takes every number in its range, counted by resources alone: not by the
    nodes' labels, nor by what rendering needs, without which a run stands still; (b) loses a worker where fractions of a
    CPU do not add up; (c) resizes at any moment, and the steps since the last checkpoint are lost; (d) asks again without
    a pause while the workers are too few. Can go when a trainer takes a policy, and (b) and (d) when they are mended.

    Args:
        config: Of the run.
        fitting_workers: At most so many -> the number to have now, 0 = not enough.
    """
    from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision

    class Policy(ElasticScalingPolicy):
        def _count_possible_workers(self, reserved_resources: Any) -> int:
            rounded = {
                node: {name: amount + 1e-6 for name, amount in resources.items()}
                for node, resources in reserved_resources.items()
            }
            return fitting_workers(super()._count_possible_workers(rounded))

        def make_decision_for_non_running_worker_group(self) -> Any:
            decision = super().make_decision_for_non_running_worker_group()
            if isinstance(decision, NoopDecision):
                time.sleep(self.GET_RESERVED_RESOURCES_INTERVAL_S)
            return decision

        def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
            reports = [worker.training_report for worker in worker_group_status.worker_statuses.values()]
            if not any(report and report.checkpoint for report in reports):
                self._maybe_send_resource_request()  # it expires
                return NoopDecision()
            return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)

    return Policy(config)
