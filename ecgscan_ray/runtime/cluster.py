"""Join the Ray cluster that is named, or start a small closed one on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import resource
import secrets
import signal
import socket
import threading
from collections.abc import Iterator

import ray

from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.cores import usable_cores
from ecgscan_ray.errors import EcgscanError, InputError, WorkError
from ecgscan_ray.runtime import ray_folder, terminal

logger = logging.getLogger(__name__)

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

PROBE_S = 5.0
"""A head that takes no connection for so long is not there."""

MIN_OPEN_FILES = 256
"""Ray's own processes fail below it, some of them without a word."""


def start_ray(resources: ResourceConfig, *, dashboard: bool = True) -> None:
    """Make sure that this process is connected to Ray; where it is already, only the logs are quietened.

    A cluster named by ``RAY_ADDRESS`` (as in every ``ray job``) is joined as it is. Otherwise one is started that only
    this process and those it starts can use: its servers listen on 127.0.0.1, its folder is the user's alone, and who
    asks it for anything needs a token that is kept nowhere but in these processes' environment. Its CPUs are logical:
    at least four, since some of Ray Data's own steps ask for a whole one.

    Args:
        resources: Logical CPUs and object store of a cluster started here.
        dashboard: Whether a cluster started here has Ray's dashboard on 127.0.0.1. It costs seconds and memory, but
            Ray Train asks it which placement groups to free, and complains every second where there is none.

    Raises:
        InputError: ``RAY_ADDRESS`` or the folder for temporary files cannot be used, or too few files may be open.
        WorkError: Ray did not start.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not ray.is_initialized():
        terminal.divert()
        address = os.environ.get("RAY_ADDRESS", "")
        with _signals_kept():
            if address in ("", "local"):
                _start(resources, dashboard)
            else:
                _join(address)
    _quieten()


def _start(resources: ResourceConfig, dashboard: bool) -> None:
    folder = ray_folder.folder()
    _allow_open_files()
    _need_token()
    fix = f"Ray's own words are in {folder}/session_latest/logs; 'ecgscan doctor' looks at this machine."
    with _in_one_line("Ray does not start", folder, fix):
        ray.init(
            address="local",  # never a stranger's cluster on this machine
            num_cpus=resources.local_cpus or max(4, usable_cores()),
            object_store_memory=resources.object_store_mb * 1024**2,
            include_dashboard=dashboard,
            logging_level=logging.ERROR,
            log_to_driver=False,  # progress and errors come by the run folder and by exceptions
            _temp_dir=folder,
        )


def check_address() -> None:
    """Look at ``RAY_ADDRESS`` before any other work is done.

    Raises:
        InputError: It is no address of a head, or nobody answers there.
    """
    if not ray.is_initialized():
        _check(os.environ.get("RAY_ADDRESS", ""))


def _check(address: str) -> None:
    where = f"RAY_ADDRESS={address}"
    if address not in ("", "local", "auto"):
        _probe(*_host_and_port(address, where), where)


def _join(address: str) -> None:
    _check(address)
    where = f"RAY_ADDRESS={address}"
    fix = "Is it the address of a head (HOST:6379) with the same version of Ray, and its token the one here?"
    with _in_one_line("the cluster cannot be joined", where, f"{fix} Unset RAY_ADDRESS to work on this machine.", 2):
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)


def _host_and_port(address: str, where: str) -> tuple[str, int]:
    """The two parts of an address of a head.

    Raises:
        InputError: It is no such address.
    """
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


def _need_token() -> None:
    """Only who has the token may use the cluster; a token or a mode that the user has chosen is kept.

    Given as an environment variable, it reaches Ray's processes and nothing else: no file, no command line. Ray turns
    tokens on by itself for a cluster that is started here; without this one it would write one to ``~/.ray``, for all
    to read.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        logger.warning("RAY_AUTH_MODE=%s: any user of this machine can use Ray here", os.environ["RAY_AUTH_MODE"])
        return
    theirs = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if not theirs and not os.path.exists(os.path.expanduser("~/.ray/auth_token")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _allow_open_files() -> None:
    """As many open files as the system grants without asking.

    Raises:
        InputError: Too few for Ray.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < MIN_OPEN_FILES:
        fix = f"Ray needs {MIN_OPEN_FILES} or more; raise the limit (ulimit -n 4096)."
        raise InputError(f"only {most} files may be open at a time", where="ulimit -n", fix=fix)
    wanted = 65536 if most == resource.RLIM_INFINITY else min(most, 65536)
    if now != resource.RLIM_INFINITY and now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


@contextlib.contextmanager
def _in_one_line(what: str, where: str, fix: str, status: int = 1) -> Iterator[None]:
    """Whatever Ray raises at its start becomes one of our errors, and what it has started so far is ended."""
    try:
        yield
    except (Exception, SystemExit) as error:
        ray.shutdown()
        kind = InputError if status == 2 else WorkError
        raise kind(f"{what} ({first_line(error)})", where=where, fix=fix) from error


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself: it would leave with 15, or print the stack of its native code."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _quieten() -> None:
    import ray.data  # 1 s; not for those who only join

    for name in ("ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.WARNING)
    terminal.quieten(("ray", "ray.data"))
    # essays of the raylet on lost processes, on stdout; there is no public switch (Ray 2.60), its log files have them
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # says that there are no progress bars
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False


def root_cause(error: BaseException, where: str, goes_on: str | None = None) -> EcgscanError:
    """Our own error behind those of Ray, or one line on somebody else's.

    Args:
        error: What Ray raised.
        where: What the work was about, if the error is not one of ours.
        goes_on: What to do where the error is not one of ours.
    """
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, EcgscanError) and not isinstance(cause, ray.exceptions.RayTaskError):
            return cause
        if isinstance(cause, ray.exceptions.OutOfMemoryError):
            fix = "Use a machine with more memory, or one on which less else runs."
            return WorkError("memory ran out: a task was killed at every attempt", where=where, fix=fix)
        seen.append(cause)
        failures = getattr(cause, "worker_failures", None) or {}  # of Ray Train, by rank
        inner = getattr(cause, "cause", None) or getattr(cause, "controller_failure", None)
        inner = inner or next(iter(failures.values()), None)
        cause = inner if isinstance(inner, BaseException) else cause.__cause__ or cause.__context__
    if isinstance(seen[-1], ray.exceptions.ActorDiedError):
        return WorkError("a process of Ray has died (killed, or out of memory)", where=where, fix=goes_on)
    return WorkError(first_line(seen[-1]), where=where, fix=goes_on)


def first_line(error: BaseException) -> str:
    """What an error of others says, without its traceback."""
    # Ray keeps the first error of a task as text only, as the first line of this form
    told = re.search(r"^(?:\w+\.)*(\w+(?:Error|Exception|Interrupt): .+)$", str(error), flags=re.MULTILINE)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return (told.group(1) if told else f"{type(error).__name__}: {lines[0]}")[:300].rstrip(".")
