"""Dictionaries larger than memory, in a temporary file that nobody sees."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterator, MutableMapping
from typing import Any, TypeVar

from ecgscan_ray.errors import StoreError

T = TypeVar("T")
_CACHE_KB = 4096


class DiskDict(MutableMapping[str, T]):
    """A dictionary of small values in SQLite, whose keys come sorted: its memory is the same for a thousand and ten million.

    Keys are any text, also names of files that are not UTF-8. Do not change it while it is read from end to end.

    Raises:
        StoreError: The disk of temporary files is full.
    """

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # a file without a name
        self._base.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        self._base.execute("BEGIN")  # and never an end: all of it goes with the process

    def __getitem__(self, key: str) -> T:
        for (value,) in self._run("SELECT value FROM entries WHERE key = ?", _encoded(key)):
            decoded: T = pickle.loads(value)
            return decoded
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        entries = self._run("SELECT 1 FROM entries WHERE key = ?", _encoded(key)) if isinstance(key, str) else iter(())
        return next(entries, None) is not None

    def __setitem__(self, key: str, value: T) -> None:
        self._run("INSERT OR REPLACE INTO entries VALUES (?, ?)", _encoded(key), pickle.dumps(value))

    def __delitem__(self, key: str) -> None:
        self[key]
        self._run("DELETE FROM entries WHERE key = ?", _encoded(key))

    def __len__(self) -> int:
        return int(next(self._run("SELECT count(*) FROM entries"))[0])

    def __bool__(self) -> bool:
        return next(self._run("SELECT 1 FROM entries LIMIT 1"), None) is not None

    def __iter__(self) -> Iterator[str]:
        return (_decoded(key) for (key,) in self._run("SELECT key FROM entries ORDER BY key"))

    def stream(self) -> Iterator[tuple[str, T]]:
        """Keys and values, sorted; faster than ``items``."""
        rows = self._run("SELECT key, value FROM entries ORDER BY key")
        return ((_decoded(key), pickle.loads(value)) for key, value in rows)

    def _run(self, statement: str, *values: bytes) -> Iterator[tuple[Any, ...]]:
        try:
            return self._base.execute(statement, values)
        except sqlite3.Error as error:
            fix = "Set TMPDIR to a folder with more room."
            raise StoreError(
                f"lists of the archive cannot be kept ({error})", where="temporary files", fix=fix
            ) from None


def _encoded(key: str) -> bytes:
    """Text as bytes that sort as the text does."""
    return key.encode("utf-8", "surrogatepass")


def _decoded(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
