"""What a command shows and how it leaves: our lines on stderr, the stacks of native code nowhere, no process behind."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterable
from typing import Any

AGAIN_S = 2.0
"""An interrupt that nobody handles by then is raised again."""

_taken = False


def take() -> None:
    """Give Python's stderr a descriptor of its own: what native code writes to the old one can then go elsewhere.

    SIGTERM becomes what Ctrl-C is. For the command line; a program that imports this package keeps its streams.
    """
    global _taken
    _taken = True
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt_again)


def _interrupt(*_: Any) -> None:
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S, AGAIN_S)
    raise KeyboardInterrupt


def _interrupt_again(*_: Any) -> None:
    """Imports and native code swallow an interrupt at times; one that is being handled is left alone."""
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    if error is None:
        raise KeyboardInterrupt


def divert() -> None:
    """Ray's native code prints lines and stacks that say nothing to users; its log files have them too."""
    if _taken:
        _silence(2)


def quieten(loggers: Iterable[str]) -> None:
    """Take from these loggers what writes to the terminal; what writes to log files stays."""
    if _taken:
        for logger in map(logging.getLogger, loggers):
            for handler in list(logger.handlers):
                if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                    logger.removeHandler(handler)


def leave(status: int) -> None:
    """End Ray's processes and this one; without Ray and Arrow, return. Once more Ctrl-C ends it at once.

    After a failure, threads that wait for Ray would print what becomes of them, or wait for ever where the cluster is gone.
    After success, everything is closed as usual, but the interpreter is not taken down: a thread of Arrow that comes back
    to Python meanwhile would abort a process whose work is done.
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
    for process in family:  # Ray's agents would notice by and by
        with contextlib.suppress(psutil.Error):
            process.kill()


def _silence(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
