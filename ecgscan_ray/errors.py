"""One family of errors. Each says in one line what is wrong, where, and what to do about it.

The command line prints ``str(error)`` and leaves with ``error.exit_status``: 2 where the input is at fault
(a file, a setting, a store), 1 where work failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class EcgscanError(Exception):
    """Base of all errors that a user is meant to read.

    Args:
        what: What is wrong, without a full stop.
        where: The file, record, key or URI it concerns.
        fix: What to do about it.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, None if where is None else str(where), fix
        super().__init__(what, self.where, fix)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = f"{text}. {self.fix}" if self.fix else text
        return " ".join(text.split())

    def __reduce__(self) -> tuple[Any, ...]:  # pickling keeps keyword arguments
        return _rebuild, (type(self), self.__dict__.copy())


def _rebuild(cls: type[EcgscanError], state: dict[str, Any]) -> EcgscanError:
    error = cls.__new__(cls)
    error.__dict__.update(state)
    Exception.__init__(error, state.get("what"), state.get("where"), state.get("fix"))
    return error


class InputError(EcgscanError):
    """The user's input is at fault: a path, an archive, an image."""

    exit_status = 2


class ConfigError(InputError):
    """A preset, a key or a value that cannot be used."""


class RecordingError(InputError):
    """A recording that cannot be read or used.

    Args:
        reason: A short stable word for the quarantine table, e.g. ``missing_lead``.
    """

    def __init__(self, what: str, *, reason: str, where: object = None, fix: str | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.reason = reason


class StoreError(InputError):
    """A store that is missing, incomplete, damaged or of another schema version."""


class UnreachableError(StoreError):
    """A server that does not answer, or not with what was asked for; later it may."""


class RunError(InputError):
    """A run folder that cannot be used: missing, of another config, or damaged."""


class WorkError(EcgscanError):
    """Work that began well and failed: a stalled stream, a loss that is not finite."""


class NotFiniteError(WorkError):
    """A loss, a gradient or a weight became NaN or infinite.

    Args:
        step: Optimiser step, from 1, at which it was first so.
    """

    def __init__(self, what: str, *, step: int, where: object = None, fix: str | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.step = step


_MOST_NAMES = 30
"""Listed where no name is near; timm has 1,500 models."""


def near_miss(name: str, allowed: Iterable[str]) -> str:
    """``"Did you mean 'x'?"`` for the nearest allowed name, else a list of allowed names."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean '{close[0]}'?"
    more = f", ... ({len(names)} in all)" if len(names) > _MOST_NAMES else ""
    return f"Allowed: {', '.join(names[:_MOST_NAMES])}{more}."


def printable(text: str) -> str:
    """``text`` as it can be printed and stored anywhere: half letters of odd file names written out, no control signs."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return " ".join("".join(letter if letter.isprintable() else " " for letter in whole).split())
