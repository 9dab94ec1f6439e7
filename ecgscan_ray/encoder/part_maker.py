"""Parts made from pieces of a folder: files are read by processes, and one that ends its process ends nothing else."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from ecgscan_ray.config import PageConfig
from ecgscan_ray.cores import limit_threads
from ecgscan_ray.digitise.pool import DIED, Pool
from ecgscan_ray.encoder.encoder import Encoder
from ecgscan_ray.encoder.exported import load_encoder
from ecgscan_ray.encoder.parts import Piece, write_part
from ecgscan_ray.encoder.rows import Row, embed_batch, embedded_rows, fitted_rows
from ecgscan_ray.errors import InputError
from ecgscan_ray.pictures import PictureFile, printable_name

ReadFile = Callable[[PictureFile], Iterator[Row]]
"""Reads the pages of a file, or embeds them too."""


@dataclass(frozen=True)
class EmbedJob:
    """What every process needs to know.

    Attributes:
        encoder: Absolute path or URI.
        digest: Of the encoder.
        page: What an encoder of pictures takes; ``None`` for one that reads pages.
        width: Of its features.
        projected: Which of its features.
        batch_size: Pages per forward pass of an encoder of pictures.
        folder: Of the parts.
    """

    encoder: str
    digest: str
    page: PageConfig | None
    width: int
    projected: bool
    batch_size: int
    folder: str

    @property
    def reads(self) -> bool:
        """Whether the encoder reads pages."""
        return self.page is None

    def load(self, device: str) -> Encoder:
        """The encoder, in another process than the one that began the job.

        Raises:
            InputError: It is not there, or not the same any more.
        """
        encoder = load_encoder(self.encoder, device=device)
        if encoder.digest() != self.digest:
            raise InputError("was changed while this command ran", where=self.encoder, fix="Run the command again.")
        return encoder


class PartMaker:
    """Makes parts, and keeps its processes between them.

    An encoder that reads pages is loaded by each process, which embeds what it has read. One of pictures runs in this
    process, in batches, while the processes read ahead.

    Args:
        job: What is made.
        encoder: Loaded here; not needed where the processes load it.
        device: Where the encoder runs in the processes.
        workers: Processes that read; 0 reads in this process, which a damaged file may then end.
        threads: Of each process.
    """

    def __init__(self, job: EmbedJob, encoder: Encoder | None, *, device: str, workers: int, threads: int) -> None:
        self._job, self._encoder, self._workers = job, encoder, workers
        self._pool: Pool[_Task, ReadFile, list[Row]] | None = None
        if workers and job.page is None:
            self._pool = Pool(_read_file, _load_embedding, (job, device, threads), threads)
        elif workers:
            self._pool = Pool(_read_file, _fitting, (job.page,), threads)

    def make(self, pieces: Iterable[Piece]) -> Iterator[int]:
        """Make the parts of pieces, several at a time where a file of one takes long.

        Yields:
            1 for each file that is done.

        Raises:
            UnreachableError: The pictures' server does not answer.
            StoreError: A part cannot be written.
            WorkError: The encoder fails.
        """
        parts: dict[int, _Part] = {}
        with closing(self._results(_tasks(pieces, parts))) as results:
            for task, rows in results:
                part = parts[task.piece]
                part.add(task.index, [Row(printable_name(task.file.name), error=DIED)] if rows is None else rows)
                self._embed(part)
                if part.is_whole:
                    write_part(self._job.folder, part.piece.part, part.rows, self._job.width)
                    del parts[task.piece]
                yield 1

    def close(self) -> None:
        """End the processes."""
        if self._pool:
            self._pool.close()

    def _results(self, tasks: Iterator[_Task]) -> Generator[tuple[_Task, list[Row] | None], None, None]:
        if self._pool:
            yield from self._pool.run(tasks, self._workers)
            return
        assert self._encoder is not None
        read = _fitting(self._job.page) if self._job.page else _embedding(self._encoder, self._job)
        for task in tasks:
            yield task, list(read(task.file))

    def _embed(self, part: _Part) -> None:
        """Batches are of one piece and in its order, so that features do not depend on what was done before."""
        if not self._job.reads:
            assert self._encoder is not None
            for batch in part.batches(self._job.batch_size):
                embed_batch(self._encoder, batch, self._job.projected)


@dataclass(frozen=True, slots=True)
class _Task:
    """A file of a piece."""

    piece: int
    index: int
    file: PictureFile


@dataclass
class _Part:
    """A piece under way: results come in any order, and are taken up in that of the files."""

    piece: Piece
    rows: list[Row] = field(default_factory=list)
    _early: dict[int, list[Row]] = field(default_factory=dict)
    _num_files: int = 0
    _num_embedded: int = 0

    @property
    def is_whole(self) -> bool:
        return self._num_files == len(self.piece.names)

    def add(self, index: int, rows: list[Row]) -> None:
        """The rows of one of the files."""
        self._early[index] = rows
        while self._num_files in self._early:
            self.rows += self._early.pop(self._num_files)
            self._num_files += 1

    def batches(self, size: int) -> Iterator[list[Row]]:
        """Rows that wait to be embedded, in full batches; the last one of the piece may be short."""
        while len(self.rows) - self._num_embedded >= size or (self.is_whole and self._num_embedded < len(self.rows)):
            batch = self.rows[self._num_embedded : self._num_embedded + size]
            self._num_embedded += len(batch)
            yield batch


def _tasks(pieces: Iterable[Piece], parts: dict[int, _Part]) -> Iterator[_Task]:
    for piece in pieces:
        parts[piece.number] = _Part(piece)
        for index, name in enumerate(piece.names):
            yield _Task(piece.number, index, PictureFile(piece.root, name))


def _read_file(task: _Task, read: ReadFile, stopped: Callable[[], bool]) -> list[Row]:
    rows = []
    for row in read(task.file):
        rows.append(row)
        if stopped():
            break
    return rows


def _load_embedding(job: EmbedJob, device: str, threads: int) -> ReadFile:
    encoder = job.load(device)
    limit_threads(threads)
    return _embedding(encoder, job)


def _embedding(encoder: Encoder, job: EmbedJob) -> ReadFile:
    return partial(embedded_rows, encoder=encoder, projected=job.projected)


def _fitting(page: PageConfig) -> ReadFile:
    return partial(fitted_rows, page=page)
