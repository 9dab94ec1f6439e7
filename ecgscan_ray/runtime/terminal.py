"""What a command shows and how it leaves: our lines on stderr, the stacks of native code in a file, no process behind."""

from __future__ import annotations

import os
import signal
import sys
import threading

_taken = False


def take() -> None:
    """Give Python's stderr a descriptor of its own: what native code writes to the old one can then go elsewhere.

    For the command line; a program that imports this package keeps its streams.
    """
    global _taken
    _taken = True
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C


def divert() -> None:
    """Ray's native code prints lines and stacks that say nothing to users; its log files have them too."""
    if _taken:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)


def leave(status: int) -> None:
    """End Ray's processes and this one; without Ray, return. Once more Ctrl-C ends it at once.

    Threads that wait for Ray would print what becomes of them, or wait for ever where the cluster is gone.
    """
    if "ray" not in sys.modules:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    import ray

    closing = threading.Thread(target=ray.shutdown, daemon=True)
    closing.start()
    closing.join(timeout=15)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
