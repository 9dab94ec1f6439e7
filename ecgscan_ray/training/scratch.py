"""Temporary folders of a run: one for each of its processes, removed at its end, or by the next command if it was killed.

A folder is locked while its process lives, and the system releases the lock however the process ends. A folder without a
lock is a leftover.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir, mkdtemp

PREFIX = "ecgscan-scratch-"


@contextmanager
def scratch(run: str) -> Iterator[Path]:
    """A new private folder under the system's temporary folder, named by the run, while the block lasts.

    Args:
        run: URI of the run's folder.
    """
    clear_scratch()
    folder, lock = _make(run)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear_scratch(run: str | None = None) -> None:
    """Remove this user's scratch folders on this machine that no process holds any more.

    Args:
        run: Also those of this run that are still held: it has ended, and its last workers are about to.
    """
    prefix = None if run is None else _prefix(run)
    for folder in Path(gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
                _remove(folder, held=prefix is not None and folder.name.startswith(prefix))


def _prefix(run: str) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "-", run.rstrip("/").rpartition("/")[2])[:32].strip("-")
    return f"{PREFIX}{name}-{hashlib.sha256(run.encode()).hexdigest()[:8]}-"


def _make(run: str) -> tuple[Path, int]:
    """The folder gets its name after it is locked, so that no other process takes it for a leftover."""
    new = Path(mkdtemp(prefix=f".{PREFIX}"))
    lock = os.open(new, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks: the folder is removed with its process alone
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    folder = new.with_name(_prefix(run) + new.name.rpartition("-")[2])
    new.rename(folder)
    return folder, lock


def _remove(folder: Path, *, held: bool) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not held:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
