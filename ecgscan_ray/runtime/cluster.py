"""Join the Ray cluster that is there, or start a small quiet one on this machine."""

from __future__ import annotations

import logging
import os
import re

import ray

from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.errors import EcgscanError, WorkError

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no ping to anyone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; unset it warns in each process
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_task_oom_retries": "2",  # of a task that fills the memory; else it is started again for ever
    # Huge pages for torch's buffers, and freed memory kept: without them the page faults of each step's large tensors
    # cost a virtual machine up to a quarter of its training speed.
    "THP_MEM_ALLOC_ENABLE": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=4294967296",
}


def start_ray(resources: ResourceConfig, *, dashboard: bool = True) -> None:
    """Make sure that this process is connected to Ray; where it is already, only the logs are quietened.

    A cluster named by ``RAY_ADDRESS`` (as in every ``ray job``) is joined as it is. Otherwise one is started whose CPUs
    are logical: at least four, since some of Ray Data's own steps ask for a whole one.

    Args:
        resources: Logical CPUs and object store of a cluster started here.
        dashboard: Whether a cluster started here has Ray's dashboard on 127.0.0.1. It costs seconds and memory, but
            Ray Train asks it which placement groups to free, and complains every second where there is none.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not ray.is_initialized():
        if os.environ.get("RAY_ADDRESS"):
            ray.init(logging_level=logging.WARNING, log_to_driver=False)
        else:
            # one machine, loopback only; unset, Ray would save a token that later commands stumble over
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")
            ray.init(
                address="local",  # never a stranger's cluster on this machine
                num_cpus=resources.local_cpus or max(4, len(os.sched_getaffinity(0))),
                object_store_memory=resources.object_store_mb * 1024**2,
                include_dashboard=dashboard,
                logging_level=logging.WARNING,
                log_to_driver=False,  # progress and errors come by the run folder and by exceptions
            )
    _quieten()


def _quieten() -> None:
    import ray.data  # 1 s; not for those who only join

    for name in ("ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # says that there are no progress bars
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False


def root_cause(error: BaseException, where: str) -> EcgscanError:
    """Our own error behind those of Ray, or one line on somebody else's.

    Args:
        error: What Ray raised.
        where: What the work was about, if the error is not one of ours.
    """
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, EcgscanError):
            return cause
        seen.append(cause)
        failures = getattr(cause, "worker_failures", None) or {}  # of Ray Train, by rank
        inner = getattr(cause, "cause", None) or getattr(cause, "controller_failure", None)
        inner = inner or next(iter(failures.values()), None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__ or cause.__context__
    last = seen[-1]
    # Ray keeps the first error of a task as text only, as the first line of this form
    told = re.search(r"^(?:\w+\.)*(\w+(?:Error|Exception|Interrupt): .+)$", str(last), flags=re.MULTILINE)
    lines = [line.strip() for line in str(last).splitlines() if line.strip()] or [""]
    return WorkError((told.group(1) if told else f"{type(last).__name__}: {lines[0]}")[:300], where=where)
