"""Every picture under a folder, here or in a bucket, into one Parquet file."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from ecgscan_ray.encoder.encoder import BATCH, Encoder
from ecgscan_ray.encoder.exported import load_encoder
from ecgscan_ray.encoder.pictures import fit_page, read_file, read_pages, refuse_large
from ecgscan_ray.errors import InputError
from ecgscan_ray.evaluation.features import in_batches
from ecgscan_ray.filesystem import absolute, explained, is_local, list_files, open_filesystem
from ecgscan_ray.paper.write import MASK_SUFFIX

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class EmbeddedFolder:
    """How ``embed_folder`` went: pages embedded, and files or pages that could not be read with the reason of each."""

    embedded: int
    bad: dict[str, str]


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
) -> EmbeddedFolder:
    """Embed every file under a folder, or one file, into one Parquet file. Each place is a path or a URI.

    Columns: ``path`` (relative to the folder; what cannot be printed is escaped), ``embedding`` (list of float32; null
    where the page could not be read) and ``error`` (the reason; null where it could). A file of several pages has a row
    for each: ``two.tif``, ``two.tif#2``. No file is left out, but for hidden ones, Parquet files such as an earlier
    output, and the ground truth that ``ecgscan render`` writes beside a picture (JSON, masks).

    Args:
        encoder_path: Exported folder or run.
        images: A folder, searched with all its subfolders, or one file.
        out_parquet: Appears whole or not at all.
        projected: As in ``Encoder.embed``.
        batch_size: Pages at once, of which no more are held in memory.
        device: Where the encoder runs.

    Raises:
        InputError: Nothing to embed, or the output cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if batch_size < 1:
        raise InputError(f"{batch_size} pages at once", where="batch_size", fix="Give 1 or more.")
    out = absolute(os.fspath(out_parquet))
    root, names = _find(os.fspath(images), out)
    done = 0
    bad: dict[str, str] = {}
    with _whole_or_absent(out) as file:
        encoder = load_encoder(encoder_path, device=device)
        width = encoder.embed_dim if projected else encoder.feature_dim
        columns = [("path", pa.string()), ("embedding", pa.list_(pa.float32(), width)), ("error", pa.string())]
        schema = pa.schema(columns)
        with pq.ParquetWriter(file, schema) as writer:
            for batch in in_batches(_rows(encoder, root, names), batch_size):
                _embed(encoder, batch, projected)
                writer.write_table(pa.Table.from_pylist([_columns(row) for row in batch], schema=schema))
                bad |= {row.path: row.error for row in batch if row.error is not None}
                done += sum(row.error is None for row in batch)
    return EmbeddedFolder(done, bad)


def _find(images: str, out: str) -> tuple[str, list[str]]:
    """The folder, and the names of the files in it that are embedded."""
    uri = absolute(images)
    if _is_file(uri):
        folder, name = os.path.split(uri)
        return folder, [name]
    found = _local_files(uri) if is_local(uri) else list_files(uri, recursive=True)
    names = [name for name in _page_files(found) if f"{uri}/{name}" != out]
    if not names:
        raise InputError("no pictures here", where=uri, fix="Give a folder of pictures, or one picture.")
    return uri, names


def _is_file(uri: str) -> bool:
    if is_local(uri):
        return os.path.lexists(uri) and not os.path.isdir(uri)
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be read"):
        return filesystem.get_file_info(path).is_file


def _local_files(root: str) -> list[str]:
    """Everything under a folder that is no folder, in linked folders too, each of them once.

    Python's own walk, as pyarrow's ends at the first name that is not UTF-8. A folder that cannot be opened is listed, so
    that it gets a row with the reason.
    """
    if not os.path.isdir(root):
        raise InputError("no such folder or file", where=root)
    names: list[str] = []
    seen: set[str] = set()

    def unopened(error: OSError) -> None:
        names.append(os.path.relpath(error.filename, root))

    for folder, folders, files in os.walk(root, followlinks=True, onerror=unopened):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        names += [os.path.relpath(os.path.join(folder, name), root) for name in files]
    return names


def _page_files(found: list[str]) -> list[str]:
    """Of names relative to a folder, sorted: all but hidden files, earlier outputs and the truth beside a picture."""
    paths = [PurePosixPath(name) for name in found]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    pictures = {path.with_suffix("") for path in paths if path.suffix.lower() in Image.registered_extensions()}

    def is_truth(path: PurePosixPath) -> bool:
        ending = next((end for end in (".json", MASK_SUFFIX) if path.name.endswith(end)), None)
        stem = path.name.removesuffix(ending) if ending else ""
        return bool(stem) and path.with_name(stem) in pictures

    return sorted(str(path) for path in paths if path.suffix.lower() != ".parquet" and not is_truth(path))


def _rows(encoder: Encoder, root: str, names: list[str]) -> Iterator[_Row]:
    """A row for each page of each file, not embedded yet."""
    for name in names:
        for number, page in enumerate(_pages(root, name), 1):
            row = _Row(_printable(name) + (f"#{number}" if number > 1 else ""))
            try:
                if isinstance(page, InputError):
                    raise page
                row.pixels = fit_page(page, encoder.page)
            except InputError as error:
                row.error = error.what
            except Exception as error:  # one odd page never ends the others
                row.error = f"cannot be fitted into the encoder's size ({type(error).__name__})"
            yield row


def _pages(root: str, name: str) -> Iterator[np.ndarray | InputError]:
    try:
        data = read_file(os.path.join(root, name)) if is_local(root) else _read_remote(f"{root}/{name}")
    except InputError as error:
        yield error
        return
    yield from read_pages(data, where=_printable(name))


def _read_remote(uri: str) -> bytes:
    filesystem, path = open_filesystem(uri)
    with explained(uri, "cannot be read"), filesystem.open_input_file(path) as file:
        refuse_large(file.size(), uri)
        return file.read()


def _printable(name: str) -> str:
    """A name with its control characters, and bytes that are not UTF-8, escaped."""
    return _UNPRINTABLE.sub(lambda found: found.group().encode("unicode_escape").decode(), name)


def _embed(encoder: Encoder, rows: list[_Row], projected: bool) -> None:
    good = [row for row in rows if row.pixels is not None]
    vectors = encoder.embed([row.pixels for row in good if row.pixels is not None], projected=projected)
    for row, vector in zip(good, vectors, strict=True):
        row.embedding = vector


def _columns(row: _Row) -> dict[str, Any]:
    return {"path": row.path, "embedding": row.embedding, "error": row.error}


@contextmanager
def _whole_or_absent(uri: str) -> Iterator[Path]:
    """A local file to write into, which becomes ``uri`` at the end of the block if nothing fails in it.

    Raises:
        StoreError: The place cannot be written; found before the block begins, or on a full disk at any time.
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
