"""Files of pages into a folder of records, by processes; what is there already is not read again."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np

from ecgscan_ray.cores import usable_cores
from ecgscan_ray.data import reader_weights
from ecgscan_ray.digitise.options import Options, PageReader
from ecgscan_ray.digitise.page import digitise_page
from ecgscan_ray.digitise.pool import DIED, Pool
from ecgscan_ray.digitise.reader import as_rgb, load_reader
from ecgscan_ray.digitise.sources import Source, file_name, find_sources, page_label, page_name, record_names
from ecgscan_ray.digitise.state import (
    PageState,
    output_sizes,
    read_state,
    read_states,
    remove_leftovers,
    remove_page,
    write_page,
    write_state,
    write_table,
)
from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem import absolute, open_filesystem
from ecgscan_ray.filesystem.lease import exclusive
from ecgscan_ray.pictures import read_pages

LoadReader = Callable[[int], PageReader]
"""Loads the reader in a process, given the number of threads it may use; a function of a module, so that it can be sent there."""


@dataclass(frozen=True)
class Digitised:
    """Result of ``digitise_pages``; counts are of pages of the files that were named.

    Attributes:
        read: Pages with a record.
        refused: Pages on which no ECG was found, or of a lower quality than asked for.
        failed: Files and pages that could not be read at all.
        num_skipped: Pages among them that were there already.
        problems: File or page -> why it was refused or failed.
        table: Path or URI of ``pages.csv``.
    """

    read: int
    refused: int
    failed: int
    num_skipped: int
    problems: dict[str, str]
    table: str


@dataclass(frozen=True)
class _Task:
    """A file to read.

    Attributes:
        source: The file.
        name: Of its records.
        out: Where to write.
        options: See there; ``key`` is what states are compared with.
        known: Page -> its state, where it was written before.
        whole: Pages that need not be read again.
    """

    source: Source
    name: str
    out: str
    options: Options
    key: dict[str, Any]
    known: dict[int, PageState] = field(default_factory=dict)
    whole: frozenset[int] = frozenset()


_Results = Generator[tuple[_Task, list[PageState]], None, None]


def digitise_pages(
    pages: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    options: Options = Options(),
    *,
    workers: int = 1,
    reader: LoadReader = load_reader,
    progress: Callable[[int, int], None] | None = None,
) -> Digitised:
    """Read every page of files and folders; write a record and an overlay of each, and one table, ``pages.csv``.

    A page that is there already, of the same file and options, is not read again. A file that cannot be read, or whose
    reading ends its process, is a row of the table and ends nothing else.

    Args:
        pages: Files, folders with all their subfolders, or lists (``@names.txt``); paths or URIs.
        out: Folder to write, a path or URI. Each page appears in it whole or not at all.
        options: What is known of the pages, and what is written.
        workers: Processes that read; 0 reads in this process, which a damaged file may then end.
        reader: Loads the reader in each process.
        progress: Called with the number of files done and the number of all files.

    Raises:
        InputError: Nothing to read, an option that no page can have, the folder cannot be written, or the reader cannot
            be loaded.
    """
    options.check()
    if workers < 0:
        raise InputError(f"{workers} is too small", where="workers", fix="Give 0 or more.")
    target = absolute(os.fspath(out))
    sources = _sources(pages, target)
    open_filesystem(target, create=True)
    with exclusive(target, "ecgscan digitise"):
        remove_leftovers(target)
        tasks, states = _plan(sources, target, options)
        pending = [task for task in tasks if not _is_done(task)]
        done = len(tasks) - len(pending)
        if progress:
            progress(done, len(tasks))
        with closing(_in_processes(pending, workers, reader) if workers else _here(pending, reader)) as results:
            for task, pages_of_file in results:
                for state in task.known.values():
                    states.pop(state.name, None)
                states |= {state.name: state for state in pages_of_file}
                done += 1
                if progress:
                    progress(done, len(tasks))
        remove_leftovers(target)  # where a process died, the others end too, perhaps within a write
        table = write_table(target, states.values())
    uris = {source.uri for source in sources}
    return _counted(
        [state for state in states.values() if state.uri in uris], sum(len(task.whole) for task in tasks), table
    )


def _sources(pages: str | os.PathLike | Sequence[str | os.PathLike], target: str) -> list[Source]:
    inputs = [os.fspath(uri) for uri in ([pages] if isinstance(pages, str | os.PathLike) else pages)]
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(Source.versioned, find_sources(inputs, target)))


def _counted(states: list[PageState], num_skipped: int, table: str) -> Digitised:
    count: dict[str, int] = defaultdict(int)
    problems = {}
    for state in sorted(states, key=lambda state: (state.row["file"], state.page)):
        count[state.row["status"]] += 1
        if state.row["status"] != "read":
            problems[page_label(state.row["file"], state.page)] = state.row["reasons"]
    return Digitised(count["read"], count["refused"], count["failed"], num_skipped, problems, table)


def _plan(sources: list[Source], out: str, options: Options) -> tuple[list[_Task], dict[str, PageState]]:
    """A task for each file, and all states that the folder holds, by name."""
    weights = reader_weights()
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16] if weights.is_file() else ""
    key = options.as_dict() | {"version": version("ecgscan_ray"), "weights": digest}
    states, sizes = {state.name: state for state in read_states(out)}, output_sizes(out)
    known: dict[str, dict[int, PageState]] = defaultdict(dict)
    for state in states.values():
        known[state.uri][state.page] = state
    taken = {state.uri: file_name(state.name, state.page) for state in states.values()}
    names = record_names(sources, taken)
    tasks = []
    for source in sources:
        pages = known.get(source.uri, {})
        whole = {page for page, state in pages.items() if state.is_whole(source.version, key, sizes)}
        tasks.append(_Task(source, names[source.uri], out, options, key, pages, frozenset(whole)))
    return tasks, states


def _is_done(task: _Task) -> bool:
    """Whether all pages of the file are whole, its last one among them."""
    last = [page for page in task.whole if task.known[page].last]
    return bool(last) and task.whole >= set(range(1, last[0] + 1)) and len(task.known) == last[0]


def _read_file(task: _Task, reader: PageReader, stopped: Callable[[], bool]) -> list[PageState]:
    """Read and write the pages of a file, one after another: one picture is in memory at a time.

    A page is written after it is known whether another follows.
    """
    written: list[PageState] = []
    waiting: tuple[PageState, dict[str, bytes]] | None = None
    for page in _pages(task):
        if waiting:
            _commit(task, waiting, written, last=False)
        if stopped():
            return written
        number = len(written) + 1
        waiting = (task.known[number], {}) if number in task.whole else _read_page(task, number, page, reader)
        del page
    assert waiting is not None
    _commit(task, waiting, written, last=True)
    for number, state in task.known.items():
        if number > len(written):
            remove_page(task.out, state)
    return written


def _pages(task: _Task) -> Iterator[np.ndarray | InputError]:
    try:
        data = task.source.file.read()
    except InputError as error:
        yield error
        return
    yield from read_pages(data, where=task.source.name)


def _read_page(
    task: _Task, number: int, page: np.ndarray | InputError, reader: PageReader
) -> tuple[PageState, dict[str, bytes]]:
    name, source = page_name(task.name, number), task.source
    files: dict[str, bytes] = {}
    if isinstance(page, InputError):
        row: dict[str, Any] = {"status": "failed", "reasons": f"{page.what}. {page.fix}" if page.fix else page.what}
    else:
        comments = [f"source: {os.path.basename(source.name)}", f"page: {number}"]
        row, files = digitise_page(as_rgb(page), reader, task.options, name, comments)
    return _state(task, number, row, files), files


def _state(task: _Task, number: int, row: dict[str, Any], files: dict[str, bytes]) -> PageState:
    return PageState(
        uri=task.source.uri,
        version=task.source.version,
        page=number,
        last=True,
        name=page_name(task.name, number),
        options=task.key,
        outputs={name: len(content) for name, content in files.items()},
        row={"file": task.source.name, "page": number} | row,
    )


def _commit(task: _Task, waiting: tuple[PageState, dict[str, bytes]], written: list[PageState], last: bool) -> None:
    before, files = waiting
    state = replace(before, last=last)
    if state.page not in task.whole:
        write_page(task.out, state, files)
    elif state != before:
        write_state(task.out, state)
    written.append(state)


def _here(tasks: list[_Task], load: LoadReader) -> _Results:
    if tasks:
        reader = load(usable_cores())
        yield from ((task, _read_file(task, reader, lambda: False)) for task in tasks)


def _in_processes(tasks: list[_Task], workers: int, load: LoadReader) -> _Results:
    workers = min(workers, max(1, len(tasks)))
    threads = max(1, usable_cores() // workers)
    pool = Pool(_read_file, load, (threads,), threads)
    with closing(pool), closing(pool.run(tasks, workers)) as results:
        yield from ((task, _after_death(task) if pages is None else pages) for task, pages in results)


def _after_death(task: _Task) -> list[PageState]:
    """The pages of a file that were written before its process died, and the one it died of."""
    written: list[PageState] = []
    while (state := read_state(task.out, page_name(task.name, len(written) + 1))) is not None:
        if (state.uri, state.version, state.options) != (task.source.uri, task.source.version, task.key):
            break
        written.append(state)
    state = _state(task, len(written) + 1, {"status": "failed", "reasons": DIED}, {})
    write_page(task.out, state, {})
    return [*written, state]
