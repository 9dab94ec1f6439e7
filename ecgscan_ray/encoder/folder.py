"""Every picture under a folder, here or in a bucket, into one Parquet file."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecgscan_ray.config import PageConfig
from ecgscan_ray.digitise.reader import as_rgb
from ecgscan_ray.encoder.encoder import BATCH, Encoder
from ecgscan_ray.encoder.exported import load_encoder
from ecgscan_ray.encoder.fit import fit_page
from ecgscan_ray.errors import InputError
from ecgscan_ray.evaluation.features import in_batches
from ecgscan_ray.filesystem import absolute, explained, is_local, open_filesystem
from ecgscan_ray.pictures import PictureFile, pictures_under, printable_name, read_pages


@dataclass(frozen=True)
class EmbeddedFolder:
    """Result of ``embed_folder``.

    Attributes:
        embedded: Number of pages embedded.
        errors: File or page that could not be read -> the reason.
    """

    embedded: int
    errors: dict[str, str]


@dataclass
class _Row:
    """A page of a file: its pixels, or why there are none."""

    path: str
    pixels: np.ndarray | None = None
    error: str | None = None
    embedding: np.ndarray | None = None


def embed_folder(
    encoder_path: str,
    images: str | os.PathLike,
    out_parquet: str | os.PathLike,
    *,
    projected: bool = False,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> EmbeddedFolder:
    """Embed every file under a folder, or one file, into one Parquet file. Inputs and output are paths or URIs.

    Columns: ``path`` (relative to the folder; unprintable characters are escaped), ``embedding`` (list of float32; null
    where the page could not be read) and ``error`` (the reason; null where it could). A file of several pages has one row
    per page: ``two.tif``, ``two.tif#2``. Every file is included except hidden ones, Parquet files such as an earlier
    output, and the ground truth that ``ecgscan render`` writes for a picture (JSON, masks).

    Args:
        encoder_path: Exported folder or run.
        images: A folder, searched with all its subfolders, or one file.
        out_parquet: Appears complete or not at all.
        projected: As in ``Encoder.embed``.
        batch_size: Pages per forward pass; those that are read are read one by one, at their full size.
        device: Where the encoder runs.
        workers: Processes that read pictures; 1 reads in this process. Each holds the pages of at most two files.
        progress: Called with the number of files read and the number of all files.

    Raises:
        InputError: Nothing to embed, the output cannot be written, or a number below 1.
    """
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise InputError(f"{value} is too small", where=name, fix="Give 1 or more.")
    out = absolute(os.fspath(out_parquet))
    root, names = _input_files(os.fspath(images), out)
    with _complete_or_absent(out) as file:
        encoder = load_encoder(encoder_path, device=device)
        rows = _read_rows(root, names, None if encoder.reads else encoder.page, workers, progress)
        return _write_embeddings(encoder, in_batches(rows, 1 if encoder.reads else batch_size), file, projected)


def _write_embeddings(encoder: Encoder, batches: Iterator[list[_Row]], file: Path, projected: bool) -> EmbeddedFolder:
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = encoder.embed_dim if projected else encoder.feature_dim
    schema = pa.schema([("path", pa.string()), ("embedding", pa.list_(pa.float32(), width)), ("error", pa.string())])
    embedded = 0
    errors: dict[str, str] = {}
    with pq.ParquetWriter(file, schema) as writer:
        for batch in batches:
            _embed(encoder, batch, projected)
            writer.write_table(pa.Table.from_pylist([_columns(row) for row in batch], schema=schema))
            errors |= {row.path: row.error for row in batch if row.error is not None}
            embedded += sum(row.error is None for row in batch)
    return EmbeddedFolder(embedded, errors)


def _input_files(images: str, out: str) -> tuple[str, list[str]]:
    """The folder, and the names of the files in it to embed."""
    files = pictures_under(images, leave_out=out)
    if not files:
        raise InputError("no pictures here", where=images, fix="Give a folder of pictures, or one picture.")
    return files[0].root, [file.name for file in files]


def _read_rows(
    root: str, names: list[str], page: PageConfig | None, workers: int, progress: Callable[[int, int], None] | None
) -> Iterator[_Row]:
    """One row per page of each file, in the order of the names, not embedded yet."""
    files = (
        (_file_rows(root, name, page) for name in names) if workers == 1 else _in_processes(root, names, page, workers)
    )
    for number, rows in enumerate(files, 1):
        yield from rows
        if progress:
            progress(number, len(names))


def _in_processes(root: str, names: list[str], page: PageConfig | None, workers: int) -> Iterator[list[_Row]]:
    """The rows of each file, read by several processes, in the order of the names; two files per process are in flight."""
    pending: deque[Future[list[_Row]]] = deque()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for name in names:
            pending.append(pool.submit(_listed_rows, root, name, page))
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _listed_rows(root: str, name: str, page: PageConfig | None) -> list[_Row]:
    return list(_file_rows(root, name, page))


def _file_rows(root: str, name: str, page: PageConfig | None) -> Iterator[_Row]:
    for number, pixels in enumerate(_pages(root, name), 1):
        row = _Row(printable_name(name) + (f"#{number}" if number > 1 else ""))
        try:
            if isinstance(pixels, InputError):
                raise pixels
            row.pixels = fit_page(pixels, page) if page else as_rgb(pixels)
        except InputError as error:
            row.error = error.what
        except Exception as error:  # one damaged page never ends the others
            row.error = f"cannot be fitted into the encoder's size ({type(error).__name__})"
        yield row


def _pages(root: str, name: str) -> Iterator[np.ndarray | InputError]:
    try:
        data = PictureFile(root, name).read()
    except InputError as error:
        yield error
        return
    yield from read_pages(data, where=printable_name(name))


def _embed(encoder: Encoder, rows: list[_Row], projected: bool) -> None:
    readable = [row for row in rows if row.pixels is not None]
    if encoder.reads:
        for row in readable:
            _read_and_embed(encoder, row, projected)
        return
    vectors = encoder.embed([row.pixels for row in readable if row.pixels is not None], projected=projected)
    for row, vector in zip(readable, vectors, strict=True):
        row.embedding = vector


def _read_and_embed(encoder: Encoder, row: _Row, projected: bool) -> None:
    """One page, which may turn out to hold no ECG."""
    assert row.pixels is not None
    try:
        row.embedding = encoder.embed(row.pixels, projected=projected)[0]
    except InputError as error:
        row.error = error.what
    row.pixels = None


def _columns(row: _Row) -> dict[str, Any]:
    return {"path": row.path, "embedding": row.embedding, "error": row.error}


@contextmanager
def _complete_or_absent(uri: str) -> Iterator[Path]:
    """A local file to write into, which becomes ``uri`` at the end of the block unless the block fails.

    Raises:
        StoreError: The file cannot be written; raised before the block begins, or on a full disk at any time.
    """
    if is_local(uri) and os.path.isdir(uri):
        raise InputError("is a folder", where=uri, fix="Name the Parquet file to write.")
    folder, name = os.path.split(uri)
    open_filesystem(folder, create=True)
    with tempfile.TemporaryDirectory(prefix="ecgscan-embed-") as scratch:
        part = Path(folder if is_local(uri) else scratch) / f".{name[:100]}.{uuid.uuid4().hex}.part"
        try:
            with explained(uri, "cannot be written"):
                yield part
                _publish(part, uri)
        finally:
            part.unlink(missing_ok=True)


def _publish(part: Path, uri: str) -> None:
    if is_local(uri):
        os.replace(part, uri)
        return
    filesystem, path = open_filesystem(uri)
    with part.open("rb") as source, filesystem.open_output_stream(path) as target:
        shutil.copyfileobj(source, target, 2**20)
