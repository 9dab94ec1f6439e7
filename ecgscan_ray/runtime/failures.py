"""Errors behind those of Ray, in one line each, and which of them end a training run.

Lost workers and nodes are replaced. A loss that is not finite, a damaged file or a full disk would come back minutes later,
so it ends the run.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from ecgscan_ray.errors import EcgscanError, UnreachableError, WorkError

_PERMANENT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
_NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded|Read-only file system")


def root_cause(error: BaseException, where: str, goes_on: str | None = None) -> EcgscanError:
    """The ``EcgscanError`` behind those of Ray; an external error becomes one with a single line.

    Args:
        error: What Ray raised.
        where: What an external error concerns.
        goes_on: What to do after an external error.
    """
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, EcgscanError) and not isinstance(cause, RayTaskError):
            return cause
        if isinstance(cause, OutOfMemoryError):
            fix = "Use a machine with more memory, or one on which less else runs."
            return WorkError("memory ran out: a task was killed at every attempt", where=where, fix=fix)
        seen.append(cause)
        failures = getattr(cause, "worker_failures", None) or {}  # of Ray Train, by rank
        inner = getattr(cause, "cause", None) or getattr(cause, "controller_failure", None)
        inner = inner or next(iter(failures.values()), None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__ or cause.__context__
    if isinstance(seen[-1], ActorDiedError):
        return WorkError("a process of Ray has died (killed, or out of memory)", where=where, fix=goes_on)
    return WorkError(first_line(seen[-1]), where=where, fix=goes_on)


def first_line(error: BaseException) -> str:
    """The message of an external error, without its traceback."""
    # Ray keeps the first error of a task as text only, as the first line of this form
    match = re.search(r"^(?:\w+\.)*(\w+(?:Error|Exception|Interrupt): .+)$", str(error), flags=re.MULTILINE)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return (match.group(1) if match else f"{type(error).__name__}: {lines[0]}")[:300].rstrip(".")


@contextmanager
def start_errors_explained(what: str, where: str, fix: str, kind: type[EcgscanError] = WorkError) -> Iterator[None]:
    """Any error of ``ray.init`` in the block becomes one ``kind``, and what Ray has started so far is ended."""
    try:
        yield
    except (Exception, SystemExit) as error:
        ray.shutdown()
        raise kind(f"{what} ({first_line(error)})", where=where, fix=fix) from error


def permanent_failure(error: BaseException) -> EcgscanError | None:
    """The error behind ``error`` that another attempt would meet again, or ``None``."""
    causes = list(_causes(error))
    for cause in causes:
        # Ray's RayTaskError derives from the task's own class too, and its message is a whole stack
        if isinstance(cause, EcgscanError) and not isinstance(cause, RayTaskError | UnreachableError):
            return cause
    for cause in causes:
        if (isinstance(cause, OSError) and cause.errno in _PERMANENT) or _NO_SPACE.search(str(cause)):
            return WorkError(f"a file cannot be written ({_reason(cause)})", fix="Make room there.")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and all its causes: Ray wraps those of workers and of tasks, each in another way."""
    queue, seen = [error], set[int]()
    while queue:
        cause = queue.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        inner: list[Any] = [*(getattr(cause, "worker_failures", None) or {}).values()]
        inner += [getattr(cause, "controller_failure", None), getattr(cause, "cause", None)]
        inner += [cause.__cause__, cause.__context__]
        queue += [other for other in inner if isinstance(other, BaseException)]


def _reason(error: BaseException) -> str:
    match = _NO_SPACE.search(str(error))
    return match.group(0) if match else (str(error).splitlines() or [type(error).__name__])[0][:160]
