"""Parts of an embedded folder: its sorted files in pieces, a Parquet file of rows for each, joined at the end.

A part appears whole or not at all. Its name ends in a digest of what it is made of, so that a listing says which parts an
interrupted command has left, and parts of another encoder are not taken for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgscan_ray.encoder.rows import Row
from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.filesystem import (
    delete_file,
    explained,
    is_local,
    join,
    list_files,
    open_filesystem,
    read_bytes,
    write_bytes_atomic,
)
from ecgscan_ray.filesystem.lease import confirm, exclusive
from ecgscan_ray.filesystem.threads import in_order
from ecgscan_ray.pictures import PictureFile

MIN_FILES, MAX_FILES = 32, 256
"""Of a piece: what an ended command or a lost actor costs."""

NUM_PIECES = 1000
"""Of a folder, where both bounds allow it."""

ROW_GROUP_ROWS = 4096
"""Of the joined file, at least; whole parts are in memory."""

_SCHEMA_VERSION = 1
_REQUESTS = 16
_PARTS_AHEAD = 4
_JOINED = "joined.tmp"


@dataclass(frozen=True)
class Piece:
    """Some files of the folder, in order.

    Attributes:
        number: Of the piece, from 0.
        root: Absolute path or URI of the folder.
        names: Of the files, relative to it.
        part: Name of the file that is made of them.
    """

    number: int
    root: str
    names: tuple[str, ...]
    part: str


@dataclass(frozen=True)
class EmbeddedFolder:
    """Result of ``embed_folder``.

    Attributes:
        embedded: Number of pages embedded.
        errors: File or page that could not be read -> the reason.
        num_files_before: Files that an interrupted command had done.
    """

    embedded: int
    errors: dict[str, str]
    num_files_before: int = 0


def parts_folder(out: str) -> str:
    """Where the parts of an output lie until they are joined."""
    return f"{out}.parts"


def cut(files: Sequence[PictureFile], digest: str, projected: bool) -> list[Piece]:
    """The files in pieces.

    Args:
        files: Of one folder, in order.
        digest: Of the encoder.
        projected: Which of its features.
    """
    size = max(MIN_FILES, min(MAX_FILES, len(files) // NUM_PIECES))
    chunks = [files[start : start + size] for start in range(0, len(files), size)]
    made_by = [_SCHEMA_VERSION, version("ecgscan_ray"), digest, projected]
    identities = in_order(partial(_identity, made_by), chunks, _REQUESTS)
    return [
        Piece(number, chunk[0].root, tuple(file.name for file in chunk), f"{number:05d}-{identity[:16]}.parquet")
        for number, (chunk, identity) in enumerate(zip(chunks, identities, strict=True))
    ]


def _identity(made_by: list[object], files: Sequence[PictureFile]) -> str:
    content = [*made_by, files[0].root, [(file.name, file.version()) for file in files]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@contextmanager
def held(out: str) -> Iterator[str]:
    """Hold an output and the folder of its parts, which is gone at the end if nothing is left in it.

    Yields:
        The folder.

    Raises:
        InputError: The output is a folder, or cannot be written.
        StoreError: Another command writes it.
    """
    if is_local(out) and os.path.isdir(out):
        raise InputError("is a folder", where=out, fix="Name the Parquet file to write.")
    folder = parts_folder(out)
    open_filesystem(folder, create=True)
    try:
        with exclusive(folder, "ecgscan embed"):
            yield folder
    finally:
        if is_local(folder):
            with suppress(OSError):  # parts are left, or another command's lease
                os.rmdir(folder)


def write_part(folder: str, part: str, rows: Sequence[Row], width: int) -> None:
    """Write the rows of a piece.

    Raises:
        StoreError: The folder cannot be written.
    """
    columns = [{"path": row.path, "embedding": row.embedding, "error": row.error} for row in rows]
    uri, sink = join(folder, part), pa.BufferOutputStream()
    with explained(uri, "cannot be written"), pq.ParquetWriter(sink, _schema(width)) as writer:
        writer.write_table(pa.Table.from_pylist(columns, schema=_schema(width)))
    write_bytes_atomic(uri, sink.getvalue().to_pybytes())


def join_parts(folder: str, pieces: Sequence[Piece], out: str, width: int) -> EmbeddedFolder:
    """Join all parts into the output, in their order, then remove them. The output appears complete or not at all.

    Raises:
        StoreError: A part is missing or damaged, or the output cannot be written.
    """
    schema = _schema(width)
    embedded = 0
    errors: dict[str, str] = {}
    tables = in_order(partial(_read_part, folder, schema), [piece.part for piece in pieces], _PARTS_AHEAD)
    with _complete_or_absent(out, folder) as file, pq.ParquetWriter(file, schema) as writer:
        for table in _grouped(tables):
            writer.write_table(table)
            failed = table.filter(pc.is_valid(table["error"]))
            errors |= dict(zip(failed["path"].to_pylist(), failed["error"].to_pylist(), strict=True))
            embedded += table.num_rows - failed.num_rows
    _remove_parts(folder)
    return EmbeddedFolder(embedded, errors)


def _schema(width: int) -> pa.Schema:
    return pa.schema([("path", pa.string()), ("embedding", pa.list_(pa.float32(), width)), ("error", pa.string())])


def _read_part(folder: str, schema: pa.Schema, part: str) -> pa.Table:
    uri = join(folder, part)
    content = read_bytes(uri)
    try:
        table = pq.read_table(pa.BufferReader(content))
        if table.schema.equals(schema):
            return table
    except (OSError, pa.ArrowException):
        pass
    delete_file(uri)
    raise StoreError("was damaged, and is removed", where=uri, fix="The same command makes it again.")


def _grouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in larger tables."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(part.num_rows for part in waiting) >= ROW_GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


@contextmanager
def _complete_or_absent(out: str, folder: str) -> Iterator[Path]:
    """A local file to write into, which becomes ``out`` at the end of the block unless the block fails."""
    with tempfile.TemporaryDirectory(prefix="ecgscan-embed-") as scratch, explained(out, "cannot be written"):
        file = Path(folder if is_local(out) else scratch) / _JOINED
        try:
            yield file
            confirm(folder)
            _publish(file, out)
        finally:
            file.unlink(missing_ok=True)


def _publish(file: Path, out: str) -> None:
    if is_local(out):
        os.replace(file, out)
        return
    filesystem, path = open_filesystem(out)
    with file.open("rb") as source, filesystem.open_output_stream(path) as target:
        shutil.copyfileobj(source, target, 2**20)


def _remove_parts(folder: str) -> None:
    """Those of other encoders too, and what a killed command was writing."""
    names = [name for name in list_files(folder) if not name.startswith(".")]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for _ in pool.map(lambda name: delete_file(join(folder, name)), names):
            pass
