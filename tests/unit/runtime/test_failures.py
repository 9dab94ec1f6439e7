"""Which failures end a run at once, and which are tried again."""

from __future__ import annotations

import errno

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train import FailureConfig, WorkerGroupError
from ray.train.v2._internal.execution.failure_handling import FailureDecision

from ecgscan_ray.errors import (
    ConfigError,
    EcgscanError,
    NotFiniteError,
    RunError,
    StoreError,
    UnreachableError,
    WorkError,
)
from ecgscan_ray.runtime.failures import permanent_failure, root_cause
from ecgscan_ray.runtime.ray_quirks import failure_policy

LOST = RuntimeError("[enforce fail] Connection closed by peer [127.0.0.1]:3211")


def decide(*failures: BaseException) -> FailureDecision:
    policy = failure_policy(FailureConfig(max_failures=3), permanent_failure)
    return policy.make_decision(WorkerGroupError("text", dict(enumerate(failures))))  # type: ignore[arg-type]


def behind_a_task(error: Exception) -> BaseException:
    """As Ray Data hands over what one of its tasks raised."""
    return RayTaskError("Read", "Traceback:\n  File x\nStoreError", error).as_instanceof_cause()


@pytest.mark.parametrize(
    "error",
    [
        NotFiniteError("loss not finite at step 2", step=2),
        RunError("damaged"),
        StoreError("cannot be read (No such file or directory)", where="train-00000.parquet"),
        ConfigError("batch norm"),
        WorkError("the stream ended before step 3"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Error: I/O error: No space left on device (os error 28)"),
        behind_a_task(StoreError("damaged", where="train-00000.parquet")),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}"[:60],
)
def test_what_cannot_go_away_ends_at_once(error: Exception) -> None:
    assert decide(LOST, error) is FailureDecision.RAISE
    failure = permanent_failure(WorkerGroupError("text", {0: LOST, 1: error}))
    assert isinstance(failure, EcgscanError) and "\n" not in str(failure)


def test_what_a_task_raised_is_told_in_our_words() -> None:
    error = StoreError("damaged", where="train-00000.parquet")
    assert str(root_cause(behind_a_task(error), "run")) == str(error)


@pytest.mark.parametrize(
    "error",
    [
        LOST,
        ActorDiedError(),
        UnreachableError("cannot be read: its server does not answer", where="s3://bucket/store"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
    ],
    ids=lambda error: f"{type(error).__name__}: {error}"[:60].splitlines()[0],
)
def test_what_may_go_away_is_tried_again(error: Exception) -> None:
    assert decide(error) is FailureDecision.RETRY
    assert permanent_failure(WorkerGroupError("text", {0: error})) is None
