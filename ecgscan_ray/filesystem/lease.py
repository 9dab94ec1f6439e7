"""One command at a time writes a folder, local or in a bucket: a small file says who, and its heartbeat that they live.

The file, ``.lease.json``, is created only where there is none: by a hard link in a folder, by a conditional PUT in a bucket.
A thread renews it every ``HEARTBEAT_S`` seconds and the end of the block deletes it. A lease is taken over at once if its
process is dead on this machine, or after ``EXPIRES_S`` seconds without a heartbeat. Ages are read from the storage's
clock, so that the machines' own clocks need not agree.

A lease can still be lost: the machine slept for minutes and another command took over. The work is not stopped from
outside, since it may be in the middle of a write. An error line is logged at once, ``confirm`` (called before a manifest
is written) refuses, and the block ends with a ``StoreError`` instead of success.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ecgscan_ray import filesystem
from ecgscan_ray.errors import StoreError
from ecgscan_ray.filesystem.versioned_file import VersionedFile, open_versioned

logger = logging.getLogger(__name__)
T = TypeVar("T")

LEASE_NAME = ".lease.json"
HEARTBEAT_S = 20.0
EXPIRES_S = 120.0
_FIRST_HEARTBEAT_S = 2.0
"""Sooner: a server that ignores conditions lets two commands in, and the earlier one finds out."""
_ATTEMPTS = 5
"""Reads and conditional writes before the folder counts as contested."""


class Lease(BaseModel):
    """Content of the file.

    Attributes:
        owner: Random, of one ``exclusive`` block.
        purpose: The command, e.g. ``ecgscan prepare``.
        host: Name of the machine.
        machine: Boot and process namespace in which ``pid`` means something.
        pid: Process, and when it started (``process_start``, clock ticks since boot; empty where unknown).
        since: Start of the block, UTC.
        heartbeat: Of the last renewal, UTC; for people, ages are the storage's.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    owner: str
    purpose: str
    host: str
    machine: str
    pid: int
    process_start: str
    since: str
    heartbeat: str


@dataclass
class Held:
    """A lease of this process."""

    lease: Lease
    file: VersionedFile
    depth: int = 1
    lost: str | None = None
    """Who took it over."""
    stop: threading.Event = field(default_factory=threading.Event)


_held: dict[str, Held] = {}
_lock = threading.RLock()


@contextmanager
def exclusive(uri: str, purpose: str) -> Iterator[None]:
    """Hold the folder ``uri`` for this process while the block runs; nested use in one process is allowed.

    Args:
        uri: Folder, local or ``s3://``; a local one is made if it is absent.
        purpose: The command, as the user typed it: ``ecgscan prepare``.

    Raises:
        StoreError: Another command holds the folder, it cannot be written, or the lease was lost during the block.
    """
    key = filesystem.absolute(uri)
    with _lock:
        held = _held.get(key)
        if held is not None:
            held.depth += 1
        else:
            held = _held[key] = acquire(key, purpose)
            threading.Thread(target=_renew, args=(key, held), daemon=True, name="lease").start()
    try:
        yield
        confirm(key)
    finally:
        with _lock:
            held.depth -= 1
            if held.depth == 0:
                del _held[key]
                _release(held)


def confirm(uri: str) -> None:
    """Refuse to go on if this process held ``uri`` and lost it; nothing happens where it held none.

    Raises:
        StoreError: Another command took the folder over.
    """
    held = _held.get(filesystem.absolute(uri))
    if held is not None and held.lost:
        fix = "Look at what it does there, then run this command again."
        raise StoreError(f"was taken over by {held.lost} while this command ran", where=uri, fix=fix)


def acquire(uri: str, purpose: str) -> Held:
    """Take the lease of a folder, without a heartbeat and whether or not this process holds it: see ``exclusive``.

    Raises:
        StoreError: Another command holds the folder, or it cannot be written.
    """
    file = open_versioned(filesystem.join(uri, LEASE_NAME))
    now = _now()
    lease = Lease(
        owner=uuid.uuid4().hex,
        purpose=purpose,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        process_start=_process_start(os.getpid()) or "",
        since=now,
        heartbeat=now,
    )
    for _ in range(_ATTEMPTS):
        seen = file.read()
        other = None if seen is None else _parse(seen.content)
        if other is not None and other.owner == lease.owner:
            return Held(lease, file)
        if seen is not None:
            _refuse_while_alive(uri, other, seen.age_s)
        file.write(lease.model_dump_json(indent=1).encode(), None if seen is None else seen.version)
    raise StoreError("several commands are taking it at the same time", where=uri, fix="Start one of them.")


def _refuse_while_alive(uri: str, other: Lease | None, age_s: float) -> None:
    """Raise unless the other holder is certainly dead or silent for too long; say whose lease is taken over."""
    local = other is not None and (other.machine, other.host) == (_machine(), socket.gethostname())
    if local and other is not None and _is_dead(other):
        logger.info("%s: taken over from %s, which is dead", uri, _name(other))
    elif not local and age_s > EXPIRES_S:
        logger.warning("%s: taken over from %s, without a sign of life for %.0f s", uri, _name(other), age_s)
    else:
        fix = "Wait for it to end, or stop it"
        fix += "." if local else f"; if it is dead, try again in {max(1, EXPIRES_S - age_s):.0f} s."
        raise StoreError(f"in use by {_name(other)}", where=uri, fix=fix)


def _name(lease: Lease | None) -> str:
    if lease is None:
        return "another command"
    return f"'{lease.purpose}' on {lease.host} (pid {lease.pid}) since {lease.since}"


def _renew(uri: str, held: Held) -> None:
    pause = min(_FIRST_HEARTBEAT_S, HEARTBEAT_S)
    while not held.stop.wait(pause):
        pause = HEARTBEAT_S
        try:
            _beat(uri, held)
        except StoreError as error:  # no lease is lost by a storage that fails for a while
            logger.debug("lease not renewed: %s", error)


def _beat(uri: str, held: Held) -> None:
    seen = held.file.read()
    other = None if seen is None else _parse(seen.content)
    if seen is not None and (other is None or other.owner != held.lease.owner):
        if not held.lost:
            held.lost = _name(other)
            logger.error("%s: was taken over by %s: this command will not end well", uri, held.lost)
        return
    content = held.lease.model_copy(update={"heartbeat": _now()}).model_dump_json(indent=1).encode()
    if not held.stop.is_set():
        held.file.write(content, None if seen is None else seen.version)


def _release(held: Held) -> None:
    held.stop.set()
    with suppress(StoreError):  # what cannot be deleted expires
        seen = held.file.read()
        other = None if seen is None else _parse(seen.content)
        if other is not None and other.owner == held.lease.owner:
            held.file.remove()


def _parse(content: bytes) -> Lease | None:
    try:
        return Lease.model_validate(json.loads(content))
    except (ValueError, RecursionError, ValidationError):
        return None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _machine() -> str:
    """Boot and process namespace: two containers with one host name do not see each other's processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def _is_dead(lease: Lease) -> bool:
    """Whether a process of this machine has ended, or its number belongs to another one by now."""
    start = _process_start(lease.pid)
    return start is None or (start not in ("", lease.process_start) and lease.process_start != "")


def _process_start(pid: int) -> str | None:
    """When a process started; ``None`` if it is dead, empty where the system does not say."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else rest[18]
    except (OSError, ValueError):  # no such process, one that is hidden from us, or no Linux
        return "" if _answers(pid) else None


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        pass
    return True
