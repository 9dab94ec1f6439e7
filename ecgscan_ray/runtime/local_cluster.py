"""A Ray cluster on this machine, closed to other users: a private folder, a token, enough open files."""

from __future__ import annotations

import logging
import os
import resource
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import ray

from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.cores import usable_cores
from ecgscan_ray.errors import InputError
from ecgscan_ray.runtime.failures import start_errors_explained

logger = logging.getLogger(__name__)

MIN_OPEN_FILES = 256
"""Ray's own processes fail below it, some of them without an error."""

MAX_LENGTH = 107 - len("/ray/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Of the folder's name, bytes: the path of a Unix socket below it has at most 107."""

OLD_S = 3600.0
"""A session of a process that is gone, without a line in its logs for so long, is cleared away."""


def start(resources: ResourceConfig, dashboard: bool) -> None:
    """Start a cluster for this user alone.

    Raises:
        InputError: The folder for temporary files cannot be used, or too few files may be open.
        WorkError: Ray did not start.
    """
    folder = ray_folder()
    allow_open_files()
    need_token()
    fix = f"Ray's logs are in {folder}/session_latest/logs; 'ecgscan doctor' looks at this machine."
    with start_errors_explained("Ray does not start", folder, fix):
        ray.init(
            address="local",  # never another user's cluster on this machine
            num_cpus=resources.local_cpus or max(4, usable_cores()),
            object_store_memory=resources.object_store_mb * 1024**2,
            include_dashboard=dashboard,
            logging_level=logging.ERROR,
            log_to_driver=False,  # progress and errors come by the run folder and by exceptions
            _temp_dir=folder,
        )


def ray_folder() -> str:
    """Ray's folder inside one that is private to the user: in ``RAY_TMPDIR``, or else in ``TMPDIR``, ``/tmp`` or ``/var/tmp``.

    Ray's default is one folder for all users, in which everybody may write.

    Raises:
        InputError: None of them can be used.
    """
    named = os.environ.get("RAY_TMPDIR")
    parents = [named] if named else [parent for parent in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp") if parent]
    reasons = []
    for parent in parents:
        path = Path(parent).absolute() / f"ecgscan-{os.getuid()}"
        reason = _unusable(path)
        if reason is None:
            clear_old_sessions(path / "ray")
            return str(path / "ray")  # Ray opens its own folder to everybody: the closed one is above it
        reasons.append(f"{path}: {reason}")
    fix = "Set RAY_TMPDIR to a short path of a local folder that can be written."
    raise InputError(f"no folder for Ray's temporary files ({'; '.join(reasons)})", where="RAY_TMPDIR", fix=fix)


def _unusable(path: Path) -> str | None:
    """Why the folder cannot be used."""
    if len(os.fsencode(path)) > MAX_LENGTH:
        return f"too long, at most {MAX_LENGTH} bytes"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            return "belongs to another user"
        path.chmod(0o700)
    except OSError as error:
        return error.strerror or str(error)
    return None if os.access(path, os.W_OK) else "cannot be written"


def log_file() -> Path:
    """Where this process puts Ray's messages to the terminal."""
    return Path(ray_folder()).parent / f"ray-{os.getpid()}.log"


def clear_old_sessions(path: Path) -> None:
    """Remove sessions and logs of earlier commands."""
    for log in path.parent.glob("ray-*.log"):
        if not Path(f"/proc/{log.stem.rpartition('-')[2]}").exists() and _age_s(log) > OLD_S:
            log.unlink(missing_ok=True)
    for session in _sessions(path):
        if not Path(f"/proc/{session.name.rsplit('_', 1)[-1]}").exists() and _age_s(session) > OLD_S:
            shutil.rmtree(session, ignore_errors=True)


def _sessions(path: Path) -> Iterator[Path]:
    return (entry for entry in path.glob("session_*_*") if entry.is_dir() and not entry.is_symlink())


def _age_s(session: Path) -> float:
    """Since the last line in its logs: its process may be hidden in another container."""
    times = [entry.stat().st_mtime for entry in (session, *session.glob("logs/*")) if entry.exists()]
    return time.time() - max(times, default=0)


def need_token() -> None:
    """Require a token from every client of the cluster; a token or a mode that the user has set stays.

    Given as an environment variable, it reaches Ray's processes and nothing else: no file, no command line. Ray turns
    tokens on by itself for a cluster that is started here; without this one it would write one to ``~/.ray``, for all
    to read.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        logger.warning("RAY_AUTH_MODE=%s: any user of this machine can use Ray here", os.environ["RAY_AUTH_MODE"])
        return
    given = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    if not given and not os.path.exists(os.path.expanduser("~/.ray/auth_token")):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def allow_open_files() -> None:
    """As many open files as the system grants without asking.

    Raises:
        InputError: Too few for Ray.
    """
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < MIN_OPEN_FILES:
        fix = f"Ray needs {MIN_OPEN_FILES} or more; raise the limit (ulimit -n 4096)."
        raise InputError(f"only {most} files may be open at a time", where="ulimit -n", fix=fix)
    limit = 65536 if most == resource.RLIM_INFINITY else min(most, 65536)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
