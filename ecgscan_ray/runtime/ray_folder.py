"""Where Ray keeps sockets, logs and spilled objects of a cluster started here: a folder that is the user's alone."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ecgscan_ray.errors import InputError

MAX_LENGTH = 107 - len("/ray/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""Of the folder's name, bytes: the path of a Unix socket below it has at most 107."""

OLD_S = 3600.0
"""A session of a process that is gone, without a line in its logs for so long, is cleared away."""


def folder() -> str:
    """Ray's folder, in one for the user alone: in ``RAY_TMPDIR``, or else in ``TMPDIR``, ``/tmp`` or ``/var/tmp``.

    Ray's own choice is one folder for all users, in which everybody may write.

    Raises:
        InputError: None of them can be used.
    """
    named = os.environ.get("RAY_TMPDIR")
    places = [named] if named else [place for place in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp") if place]
    reasons = []
    for place in places:
        path = Path(place).absolute() / f"ecgscan-{os.getuid()}"
        reason = _unusable(path)
        if reason is None:
            _clear(path / "ray")
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
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return "belongs to another user"
        path.chmod(0o700)
    except OSError as error:
        return error.strerror or str(error)
    return None if os.access(path, os.W_OK) else "cannot be written"


def _clear(path: Path) -> None:
    """Remove what earlier commands left."""
    for session in _sessions(path):
        if not Path(f"/proc/{session.name.rsplit('_', 1)[-1]}").exists() and _age_s(session) > OLD_S:
            shutil.rmtree(session, ignore_errors=True)


def _sessions(path: Path) -> Iterator[Path]:
    return (entry for entry in path.glob("session_*_*") if entry.is_dir() and not entry.is_symlink())


def _age_s(session: Path) -> float:
    """Since the last line in its logs: its process may be hidden in another container."""
    times = [entry.stat().st_mtime for entry in (session, *session.glob("logs/*")) if entry.exists()]
    return time.time() - max(times, default=0)
