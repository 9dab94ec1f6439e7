"""Files of pages as readings in memory, by the processes of ``digitise_pages``; nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from ecgscan_ray.cores import usable_cores
from ecgscan_ray.digitise.job import LoadReader
from ecgscan_ray.digitise.options import Options, PageReader
from ecgscan_ray.digitise.page import failure
from ecgscan_ray.digitise.pool import DIED, Pool
from ecgscan_ray.digitise.reader import as_rgb, load_reader
from ecgscan_ray.digitise.sources import Source, find_sources
from ecgscan_ray.errors import InputError
from ecgscan_ray.pictures import read_pages
from ecgscan_ray.reading.leads import PageReading


@dataclass(frozen=True)
class ReadPage:
    """One page of a file.

    Attributes:
        file: As it was given, or relative to the folder that was given.
        page: Counted from 1.
        reading: ``None`` where it could not be read.
        problem: Why it could not.
    """

    file: str
    page: int
    reading: PageReading | None
    problem: str = ""


def read_files(
    pages: str | os.PathLike | Sequence[str | os.PathLike],
    options: Options = Options(),
    *,
    workers: int = 1,
    reader: LoadReader = load_reader,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[ReadPage]:
    """Read every page of files and folders. The pages of a file come one after another, files as they are done.

    Args:
        pages: Files, folders with all their subfolders, or lists (``@names.txt``); paths or URIs.
        options: What is known of the pages.
        workers: Processes that read; 0 reads in this process, which a damaged file may then end.
        reader: Loads the reader in each process.
        progress: Called with the number of files done and the number of all files.

    Raises:
        InputError: Nothing to read, an option that no page can have, or the reader cannot be loaded.
    """
    options.check()
    if workers < 0:
        raise InputError(f"{workers} is too small", where="workers", fix="Give 0 or more.")
    inputs = [os.fspath(uri) for uri in ([pages] if isinstance(pages, str | os.PathLike) else pages)]
    tasks = [(source, options) for source in find_sources(inputs)]
    return _read(tasks, workers, reader, progress or (lambda done, total: None))


_Task = tuple[Source, Options]
_Results = Generator[list[ReadPage], None, None]


def _read(
    tasks: list[_Task], workers: int, load: LoadReader, progress: Callable[[int, int], None]
) -> Iterator[ReadPage]:
    progress(0, len(tasks))
    with closing(_in_processes(tasks, workers, load) if workers else _here(tasks, load)) as results:
        for done, pages in enumerate(results, start=1):
            yield from pages
            progress(done, len(tasks))


def _here(tasks: list[_Task], load: LoadReader) -> _Results:
    reader = load(usable_cores())
    yield from (_read_file(task, reader, lambda: False) for task in tasks)


def _in_processes(tasks: list[_Task], workers: int, load: LoadReader) -> _Results:
    workers = min(workers, max(1, len(tasks)))
    threads = max(1, usable_cores() // workers)
    pool = Pool(_read_file, load, (threads,), threads)
    with closing(pool), closing(pool.run(tasks, workers)) as results:
        for (source, _), pages in results:
            yield [ReadPage(source.name, 1, None, DIED)] if pages is None else pages


def _read_file(task: _Task, reader: PageReader, stopped: Callable[[], bool]) -> list[ReadPage]:
    source, options = task
    try:
        data = source.file.read()
    except InputError as error:
        return [ReadPage(source.name, 1, None, error.what)]
    pages: list[ReadPage] = []
    for number, page in enumerate(read_pages(data, where=source.name), start=1):
        if stopped():
            break
        pages.append(_read_page(source.name, number, page, reader, options))
    return pages


def _read_page(file: str, number: int, page: np.ndarray | InputError, reader: PageReader, options: Options) -> ReadPage:
    if isinstance(page, InputError):
        return ReadPage(file, number, None, f"{page.what}. {page.fix}" if page.fix else page.what)
    try:
        return ReadPage(file, number, reader(as_rgb(page), options))
    except Exception as error:  # one odd page never ends the others
        return ReadPage(file, number, None, failure(error)["reasons"])
