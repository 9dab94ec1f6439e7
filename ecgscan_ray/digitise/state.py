"""What a folder of digitised pages holds: a small file for each page, written after all else of it, and the table.

A page without such a file, or whose outputs are not those that it lists, counts as not there: an ended command leaves
nothing that is taken for whole.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from ecgscan_ray.filesystem import delete_file, exists, join, list_files, list_sizes, read_bytes, write_bytes_atomic
from ecgscan_ray.recording.leads import LEADS

TABLE_NAME = "pages.csv"
STATE_FOLDER = ".pages"
SCHEMA = 1
COLUMNS = (
    "file", "page", "status", "record", "layout", "layout_by", "layout_confidence", "speed_mm_per_s", "speed_by",
    "speed_confidence", "gain_mm_per_mv", "gain_by", "gain_confidence", "turns", "px_per_mm_x", "px_per_mm_y", "quality",
    *(f"{lead}_s" for lead in LEADS), "reasons",
)  # fmt: skip
"""Of ``pages.csv``; ``I_s`` to ``V6_s`` are the seconds of each lead that the page shows."""
_READERS = 16


@dataclass(frozen=True)
class PageState:
    """One page as it was written.

    Attributes:
        uri: Of its file.
        version: Of its file.
        page: Counted from 1.
        last: Whether it is the file's last page.
        name: Of the record, and of this file.
        options: With which it was read, and the version of this package.
        outputs: Name -> bytes.
        row: Of the table.
    """

    uri: str
    version: str
    page: int
    last: bool
    name: str
    options: dict[str, Any]
    outputs: dict[str, int]
    row: dict[str, Any]

    def is_whole(self, version: str, options: Mapping[str, Any], sizes: Mapping[str, int]) -> bool:
        """Whether it need not be read again: of the same file and options, complete, and not failed."""
        same = bool(version) and (self.version, self.options) == (version, options)
        return same and self.row["status"] != "failed" and all(sizes.get(n) == s for n, s in self.outputs.items())


def write_page(out: str, state: PageState, files: Mapping[str, bytes]) -> None:
    """Write a page's files, the header last, and then its state.

    Raises:
        StoreError: The folder cannot be written.
    """
    delete_file(_state_uri(out, state.name))
    for name in (f"{state.name}.hea", f"{state.name}.csv", f"{state.name}.npz", f"{state.name}_overlay.jpg"):
        delete_file(join(out, name))
    for name in sorted(files, key=lambda name: name.endswith(".hea")):
        write_bytes_atomic(join(out, name), files[name])
    if f"{state.name}.dat" not in files:
        delete_file(join(out, f"{state.name}.dat"))
    write_state(out, state)


def write_state(out: str, state: PageState) -> None:
    """Write a page's state alone."""
    write_bytes_atomic(_state_uri(out, state.name), json.dumps({"schema": SCHEMA} | asdict(state)).encode())


def read_state(out: str, name: str) -> PageState | None:
    """The state of one page; ``None`` where there is none."""
    uri = _state_uri(out, name)
    return _parse(read_bytes(uri)) if exists(uri) else None


def remove_page(out: str, state: PageState) -> None:
    """Remove a page whose file has it no longer."""
    delete_file(_state_uri(out, state.name))
    for name in sorted(state.outputs, key=lambda name: not name.endswith(".hea")):
        delete_file(join(out, name))


def read_states(out: str) -> list[PageState]:
    """All pages that the folder holds; what is no state of this version is passed over."""
    names = [name for name in list_files(join(out, STATE_FOLDER)) if name.endswith(".json")]
    with ThreadPoolExecutor(_READERS) as pool:
        contents = pool.map(lambda name: read_bytes(join(out, STATE_FOLDER, name)), names)
        return [state for content in contents if (state := _parse(content)) is not None]


def _parse(content: bytes) -> PageState | None:
    try:
        values = json.loads(content)
        if values.pop("schema") != SCHEMA:
            return None
        state = PageState(**values)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return state if isinstance(state.row, dict) and isinstance(state.outputs, dict) and "status" in state.row else None


def output_sizes(out: str) -> dict[str, int]:
    """Name -> bytes of the files directly in the folder."""
    return list_sizes(out)


def remove_leftovers(out: str) -> None:
    """Remove temporary files of processes that were killed. Called while the folder is held, and none writes to it."""
    for folder in (out, join(out, STATE_FOLDER)):
        for name in list_files(folder):
            if ".tmp-" in name:
                delete_file(join(folder, name))


def write_table(out: str, states: Iterable[PageState]) -> str:
    """Write ``pages.csv``, ordered by file and page; it appears whole or not at all.

    Returns:
        Its path or URI.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for state in sorted(states, key=lambda state: (state.row["file"], state.page)):
        writer.writerow({name: state.row.get(name) for name in COLUMNS})
    uri = join(out, TABLE_NAME)
    write_bytes_atomic(uri, text.getvalue().encode("utf-8", "backslashreplace"))
    return uri


def _state_uri(out: str, name: str) -> str:
    return join(out, STATE_FOLDER, f"{name}.json")
