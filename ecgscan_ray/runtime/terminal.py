"""What a command shows and how it ends: our lines on the terminal, Ray's in a log file, no process left behind."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

AGAIN_S = 2.0
"""An interrupt that nobody handles by then is raised again."""

_taken = False
_ray_log: Path | None = None

logger = logging.getLogger(__name__)


def take() -> None:
    """Give Python's stdout and stderr descriptors of their own: what native code writes to 1 and 2 can then go elsewhere.

    SIGTERM is handled like Ctrl-C. For the command line; a program that imports this package keeps its streams.
    """
    global _taken
    _taken = True
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt_again)


def _interrupt(*_: Any) -> None:
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
    raise KeyboardInterrupt


def _interrupt_again(*_: Any) -> None:
    """Raise again an interrupt that an import or native code has swallowed; not one that is being handled."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if error is None:
        raise KeyboardInterrupt


def is_taken() -> bool:
    """Whether this process is a command, whose terminal is ours."""
    return _taken


def divert(log: Path) -> None:
    """Send to a log file what native code (Ray's) writes to the terminal, and Python's warnings.

    Args:
        log: The file; it is made, for its owner alone.
    """
    global _ray_log
    if _ray_log is not None:
        return
    _ray_log = log
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    logging.captureWarnings(True)
    logger.info("Ray's messages go to %s", log)


def divert_loggers(names: Iterable[str]) -> None:
    """Send to the same file what these loggers would write to the terminal; their own log files stay."""
    if _ray_log is None:
        return
    for name in names:
        ray_logger = logging.getLogger(name)
        for handler in list(ray_logger.handlers):
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                ray_logger.removeHandler(handler)
        handlers = (handler for handler in ray_logger.handlers if isinstance(handler, logging.FileHandler))
        if not any(handler.baseFilename == str(_ray_log) for handler in handlers):
            ray_logger.addHandler(logging.FileHandler(_ray_log))
        ray_logger.propagate = False


def leave(status: int) -> None:
    """End Ray's processes and this one; without Ray and Arrow, return. Another Ctrl-C ends it at once.

    After a failure, threads that wait for Ray would print errors, or never end if the cluster is gone.
    After success, everything is closed as usual, but the interpreter is not finalised: a thread of Arrow that
    calls into Python meanwhile would abort a process whose work is done.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)
    if not {"ray", "pyarrow"} & sys.modules.keys():
        return
    if status == 0:
        atexit._run_exitfuncs()
    elif "ray" in sys.modules:
        _end_ray()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _end_ray() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        _silence(stream.fileno())
    import psutil
    import ray

    family = psutil.Process().children(recursive=True)
    closing = threading.Thread(target=ray.shutdown, daemon=True)
    closing.start()
    closing.join(timeout=15)
    for process in family:  # Ray's agents would end after minutes
        with contextlib.suppress(psutil.Error):
            process.kill()


def _silence(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
