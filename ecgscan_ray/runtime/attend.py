"""Wait for work on Ray without being deaf: to Ctrl-C, and to the end of the cluster."""

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
from ecgscan_ray.runtime.cluster import root_cause

Result = TypeVar("Result")

SILENT_S = 40.0
"""A head that takes no connection for so long is lost; after 60 s Ray would end this process without a word of ours."""


def attend(work: Callable[[], Result], where: str, goes_on: str | None = None) -> Result:
    """Do what waits for Ray in a thread of its own, while this one answers signals and looks after the cluster.

    In the main thread Ray Train would answer Ctrl-C in its own way, and leave with status 1 and no word.

    Args:
        work: What waits for Ray.
        where: What the work is about.
        goes_on: What to do after an error that is not one of ours.

    Raises:
        EcgscanError: Our own error behind those of Ray, or one line on somebody else's, or on the cluster's end.
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
    """Whether the cluster is still there."""

    def __init__(self) -> None:
        address = ray.get_runtime_context().gcs_address if ray.is_initialized() else ""
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), port
        self._answered = time.monotonic()

    def lost(self) -> str | None:
        """What of the cluster is lost, or ``None``."""
        # no public way to see them (Ray 2.60); empty where the cluster was joined
        ended = [kind for kind, _ in getattr(ray._private.worker._global_node, "dead_processes", list)()]
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
