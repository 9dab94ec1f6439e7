"""Join the Ray cluster that is named, or start a small closed one on this machine."""

from __future__ import annotations

import logging
import os
import socket

import ray

from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.errors import InputError
from ecgscan_ray.runtime import local_cluster, ray_quirks, terminal
from ecgscan_ray.runtime.failures import start_errors_explained

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anyone
    # Huge pages for torch's buffers, and freed memory kept: without them the page faults of each step's large tensors
    # cost a virtual machine up to a quarter of its training speed.
    "THP_MEM_ALLOC_ENABLE": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=4294967296",
    **ray_quirks.START_ENVIRONMENT,
}

PROBE_S = 5.0
"""A head that takes no connection for so long is not there."""


def start_ray(resources: ResourceConfig, *, dashboard: bool = True) -> None:
    """Make sure that this process is connected to Ray; if it is already, only logging is set up.

    A cluster named by ``RAY_ADDRESS`` (as in every ``ray job``) is joined as it is. Otherwise one is started that only
    this process and those it starts can use: its servers listen on 127.0.0.1, its folder is private to the user, and a
    client needs a token that is kept only in these processes' environment. Its CPUs are logical: at least four, since
    some of Ray Data's own steps ask for a whole one.

    Args:
        resources: Logical CPUs and object store of a cluster started here.
        dashboard: Whether a cluster started here has Ray's dashboard on 127.0.0.1. It costs seconds and memory, but
            Ray Train needs it (``ray_quirks``).

    Raises:
        InputError: ``RAY_ADDRESS`` or the folder for temporary files cannot be used, or too few files may be open.
        WorkError: Ray did not start.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not ray.is_initialized():
        if terminal.is_taken():
            terminal.divert(local_cluster.log_file())
        address = os.environ.get("RAY_ADDRESS", "")
        with ray_quirks.sigterm_kept():
            if address in ("", "local"):
                local_cluster.start(resources, dashboard)
            else:
                _join(address)
    _quieten()


def check_address() -> None:
    """Look at ``RAY_ADDRESS`` before any other work is done.

    Raises:
        InputError: It is no address of a head, or no server answers there.
    """
    if not ray.is_initialized():
        check_head(os.environ.get("RAY_ADDRESS", ""))


def check_head(address: str) -> None:
    """Whether a value of ``RAY_ADDRESS`` can be joined.

    Raises:
        InputError: It is no address of a head, or no server answers there.
    """
    if address not in ("", "local", "auto"):
        _probe(*parse_head(address), f"RAY_ADDRESS={address}")


def _join(address: str) -> None:
    check_head(address)
    where = f"RAY_ADDRESS={address}"
    fix = (
        "Is it the address of a head (HOST:6379) with the same version of Ray, and is the token the same? "
        "Unset RAY_ADDRESS to work on this machine."
    )
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # runs in the dashboard; read when one begins
    with start_errors_explained("the cluster cannot be joined", where, fix, InputError):
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)


def parse_head(address: str) -> tuple[str, int]:
    """Host and port of an address of a head.

    Raises:
        InputError: It is no such address.
    """
    where = f"RAY_ADDRESS={address}"
    fix = "Give HOST:PORT of the head (usually HOST:6379), or unset it to work on this machine."
    if address.startswith(("http://", "https://")):
        raise InputError(
            "is the address of a job server ('ray job submit' uses it), not of a head", where=where, fix=fix
        )
    if address.startswith("ray://"):
        fix = "Give HOST:PORT of the head (usually HOST:6379) on a machine of the cluster, or send a job to it."
        raise InputError("Ray Client cannot run this", where=where, fix=fix)
    host, separator, port = address.rpartition(":")
    if not (host and separator and port.isdecimal() and 0 < int(port) < 65536) or "/" in host:
        raise InputError("is no address", where=where, fix=fix)
    return host.strip("[]"), int(port)


def _probe(host: str, port: int, where: str) -> None:
    """Ray itself would try a dead address for a quarter of an hour.

    Raises:
        InputError: Nobody answers.
    """
    try:
        socket.create_connection((host, port), timeout=PROBE_S).close()
    except (OSError, UnicodeError) as error:
        fix = "Start the cluster, or unset RAY_ADDRESS to work on this machine."
        raise InputError(f"no cluster answers there ({error})", where=where, fix=fix) from None


def _quieten() -> None:
    """Progress and errors reach the terminal by the run folder and by exceptions; Ray's messages go to its log."""
    import ray.data  # takes a second; not needed by a command that is refused

    for name in ("ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
    terminal.divert_loggers(("ray", "ray.data", "ray.train", "ray.tune", "optuna", "py.warnings"))
    ray_quirks.silence_raylet_messages()
    ray_quirks.silence_progress_warning()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
