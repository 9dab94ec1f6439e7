"""What a training run does when something fails: lost workers and nodes are replaced, what cannot go away ends the run.

A loss that is not finite, a damaged file, a full disk: the next attempt meets the same, minutes later.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import Any

from ray.exceptions import RayTaskError
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision

from ecgscan_ray.errors import EcgscanError, UnreachableError, WorkError

_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|Read-only file system")


def lasting(error: BaseException) -> EcgscanError | None:
    """The error behind ``error`` that another attempt would meet again, in our words; ``None`` if there is none."""
    causes = list(_causes(error))
    for cause in causes:
        # Ray's own wrapping is of our class too, and says the whole stack
        if isinstance(cause, EcgscanError) and not isinstance(cause, RayTaskError | UnreachableError):
            return cause
    for cause in causes:
        if (isinstance(cause, OSError) and cause.errno in _LASTING) or _NO_SPACE.search(str(cause)):
            return WorkError(f"a file cannot be written ({_first_line(cause)})", fix="Make room there.")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it came from: Ray wraps those of workers and of tasks, each in its own way."""
    left, seen = [error], set[int]()
    while left:
        cause = left.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        inner: list[Any] = [*(getattr(cause, "worker_failures", None) or {}).values()]
        inner += [getattr(cause, "controller_failure", None), getattr(cause, "cause", None)]
        inner += [cause.__cause__, cause.__context__]
        left += [other for other in inner if isinstance(other, BaseException)]


def _first_line(error: BaseException) -> str:
    match = _NO_SPACE.search(str(error))
    return match.group(0) if match else (str(error).splitlines() or [type(error).__name__])[0][:160]


class _EndWhatLasts(DefaultFailurePolicy):
    """Ray's own policy, except that a lasting failure is not tried again."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if lasting(training_failed_error) is not None:
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


class Trainer(TorchTrainer):
    """Ray's trainer with this policy; Ray has no public place for one (2.60)."""

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        policy = _EndWhatLasts(self.run_config.failure_config)
        return super()._initialize_and_run_controller(**{**options, "failure_policy": policy})
