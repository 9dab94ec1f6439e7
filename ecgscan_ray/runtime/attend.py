"""Wait for work on Ray and still notice Ctrl-C and the loss of the cluster."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from threading import Thread
from typing import TypeVar

import ray

from ecgscan_ray.errors import WorkError
from ecgscan_ray.runtime.failures import root_cause
from ecgscan_ray.runtime.ray_quirks import dead_processes

Result = TypeVar("Result")

SILENT_S = 40.0
"""A head that takes no connection for so long is lost; after 60 s Ray would end this process without our message."""


def attend(work: Callable[[], Result], where: str, goes_on: str | None = None) -> Result:
    """Run ``work`` in a thread, while this one handles signals and watches the cluster.

    In the main thread Ray Train would handle Ctrl-C itself, and exit with status 1 and no message.

    Args:
        work: Waits for Ray.
        where: What the work concerns, for messages.
        goes_on: What to do after an external error.

    Raises:
        EcgscanError: The one behind those of Ray, one line on an external error, or the loss of the cluster.
    """
    outcome: Future[Result] = Future()
    Thread(target=copy_context().run, args=(_settle, work, outcome), daemon=True).start()
    cluster = _Cluster()
    while not wait([outcome], timeout=1).done:
        if lost := cluster.lost():
            raise WorkError(lost, where=where, fix=goes_on)
    error = outcome.exception()
    if error is None:
        return outcome.result()
    if lost := cluster.lost():
        raise WorkError(lost, where=where, fix=goes_on) from error
    raise root_cause(error, where, goes_on) from error


def _settle(work: Callable[[], Result], outcome: Future[Result]) -> None:
    try:
        outcome.set_result(work())
    except BaseException as error:
        outcome.set_exception(error)


class _Cluster:
    """Watches the processes of the cluster."""

    def __init__(self) -> None:
        address = ray.get_runtime_context().gcs_address if ray.is_initialized() else ""
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), port
        self._answered = time.monotonic()

    def lost(self) -> str | None:
        """Which part of the cluster is lost, or ``None``."""
        ended = dead_processes()
        for kind in ("gcs_server", "raylet"):
            if kind in ended:
                return f"Ray's process {kind} has ended (killed, or out of memory)"
        if self._host and time.monotonic() - self._answered > SILENT_S / 8:
            self._knock()
        silent = time.monotonic() - self._answered
        return f"Ray's head at {self._host} has not answered for {silent:.0f} s" if silent > SILENT_S else None

    def _knock(self) -> None:
        try:
            socket.create_connection((self._host, int(self._port)), timeout=2).close()
            self._answered = time.monotonic()
        except OSError:
            pass
