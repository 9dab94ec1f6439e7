"""A run's folder: its small files, and whether a command may use it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ecgscan_ray.errors import RunError
from ecgscan_ray.filesystem import (
    delete_file,
    exists,
    join,
    list_files,
    list_names,
    open_filesystem,
    read_bytes,
    write_bytes_atomic,
)
from ecgscan_ray.runs import names

_UNFINISHED_WRITE = re.compile(r"\.tmp-[0-9a-f]{32}$")
"""Name of a file that ``write_bytes_atomic`` had not moved to its place."""


@dataclass(frozen=True)
class RunFolder:
    """The small files of a run.

    Attributes:
        uri: Of the folder.
    """

    uri: str

    @property
    def name(self) -> str:
        """Last part of the URI."""
        return self.uri.rstrip("/").rpartition("/")[2]

    def is_run(self) -> bool:
        """Whether the folder holds a run."""
        return exists(join(self.uri, names.CONFIG))

    def environment(self) -> dict[str, Any]:
        """Versions, machine, git revision, store and manifest digest.

        Raises:
            RunError: The file is missing or damaged.
        """
        return read_json(join(self.uri, names.ENVIRONMENT))

    def tokenizer(self) -> str | None:
        """The run's tokenizer as JSON, if it has been written."""
        uri = join(self.uri, names.TOKENIZER)
        return read_bytes(uri).decode() if exists(uri) else None

    def write_tokenizer(self, tokenizer_json: str) -> None:
        """Keep the tokenizer: a resumed run uses the same one."""
        write_bytes_atomic(join(self.uri, names.TOKENIZER), tokenizer_json.encode())

    def is_finished(self) -> bool:
        """Whether the run has ended as it should."""
        return exists(join(self.uri, names.FINISHED))

    def mark_finished(self, step: int) -> None:
        """Note that the run has ended as it should, at ``step``: a sweep's trial may stop early."""
        write_bytes_atomic(join(self.uri, names.FINISHED), json.dumps({"step": step}).encode())

    def mark_unfinished(self) -> None:
        """Take the note back: the run gets more steps."""
        delete_file(join(self.uri, names.FINISHED))

    def sink_id(self, sink: str, new: Callable[[], str]) -> str:
        """Id of the run at a tracker: the one kept here, or a new one, which is kept."""
        uri = join(self.uri, names.SINKS)
        ids = read_json(uri) if exists(uri) else {}
        if sink not in ids:
            ids[sink] = new()
            write_bytes_atomic(uri, json.dumps(ids).encode())
        return str(ids[sink])

    def remove_unfinished_writes(self) -> None:
        """Delete what a command that was killed in the middle of ``write_bytes_atomic`` left."""
        for name in list_files(self.uri, recursive=True):
            if _UNFINISHED_WRITE.search(name):
                delete_file(join(self.uri, name))


def holds_same_work(
    uri: str,
    kind: str,
    marker: str,
    *,
    fresh: bool,
    also: Collection[str] = (),
    has_begun: Callable[[], bool],
    differences: Callable[[], list[str]],
) -> bool:
    """Whether a folder holds begun work of these settings; otherwise it may be taken. Nothing is written.

    Args:
        uri: Of the folder; it is made if it is not there.
        kind: For messages: ``run``, ``sweep``.
        marker: Name of the file that makes the folder one of this kind. Who takes the folder writes it last.
        fresh: Refuse a folder that is not empty.
        also: Other files that are written while the folder is taken; a command that was killed may have left them.
        has_begun: Whether the folder holds work that must not be lost.
        differences: One line for each setting that differs from that work.

    Raises:
        RunError: The folder holds other things or other work.
        StoreError: It cannot be written.
    """
    open_filesystem(uri, create=True)
    if not exists(join(uri, marker)):
        _refuse_other_files(uri, {marker, *also})
        return False
    if fresh:
        raise RunError(f"--fresh needs an empty folder, this one holds a {kind}", where=uri)
    if not has_begun():
        return False
    if lines := differences():
        what = f"holds a {kind} with other settings: {'; '.join(lines)}"
        raise RunError(what, where=uri, fix="Give another --out.")
    return True


def _refuse_other_files(uri: str, allowed: Collection[str]) -> None:
    """Hidden files, allowed ones and unfinished writes of these do not count."""
    others = [
        name for name in list_names(uri) if not name.startswith(".") and name.partition(".tmp-")[0] not in allowed
    ]
    if others:
        what = f"the folder holds other things ({others[0]}, ...)"
        raise RunError(what, where=uri, fix="Give --out an empty folder.")


def setting_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for each setting of two nested mappings that differs."""
    old, new = flat(before), flat(after)
    keys = sorted(old.keys() | new.keys())
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of a nested mapping."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return leaves


def read_json(uri: str) -> dict[str, Any]:
    """A small JSON file of a run or sweep.

    Raises:
        RunError: It is missing, or no JSON object.
    """
    data = read_bytes(uri) if exists(uri) else b""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise RunError("missing or damaged", where=uri, fix="Give another --out, or put the file back.")
    return content
