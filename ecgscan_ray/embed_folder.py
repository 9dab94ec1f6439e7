"""Pictures of a folder, or of one file, embedded into one Parquet file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecgscan_ray.encoder import BATCH, Encoder, batches, load_encoder
from ecgscan_ray.errors import InputError
from ecgscan_ray.paper.write import MASK_SUFFIX
from ecgscan_ray.pictures import ENDINGS, printable, read_pages
from ecgscan_ray.store.filesystem import join, list_files, open_filesystem, read_bytes, write_bytes_atomic
from ecgscan_ray.uris import absolute, is_local

_COLUMNS = ("path", "embedding", "error")


@dataclass(frozen=True)
class EmbeddedFolder:
    """How ``embed_folder`` went: pages embedded, and pages or files that could not be read with the reason of each."""

    embedded: int
    bad: dict[str, str]


@dataclass(frozen=True)
class _Page:
    """A row to be: its name, and the fitted page or what is wrong with it."""

    name: str
    pixels: np.ndarray | None
    error: str | None


def embed_folder(
    encoder_path: str | os.PathLike,
    images: str | os.PathLike,
    out_parquet: str | os.PathLike,
    *,
    projected: bool = False,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
) -> EmbeddedFolder:
    """Embed every page of every file under a folder into one Parquet file.

    Columns: ``path`` (relative to the folder; the second page of ``two.tif`` is ``two.tif#2``; what is no UTF-8 in a name
    is written as ``\\xNN``), ``embedding`` (list of float32; null where the page could not be read) and ``error`` (the
    reason; null where it could). No file is left out, but for hidden ones, the ground truth that ``ecgscan render`` writes
    beside a picture (JSON, masks), and tables that this function wrote before.

    Args:
        encoder_path: Exported folder or run.
        images: A folder, searched with all its subfolders (linked ones too), or one file.
        out_parquet: Appears whole or not at all.
        projected: As in ``Encoder.embed``.
        batch_size: Pages at once.
        device: Where the encoder runs.

    All three are paths or URIs (``s3://bucket/prefix``).

    Raises:
        InputError: No such folder or file, no files in it, or the output cannot be written.
    """
    source, out = absolute(os.fspath(images)), absolute(os.fspath(out_parquet))
    root, names = _files(source)
    names = [name for name in names if join(root, printable(name)) != out]
    if not names:
        raise InputError("no files in this folder", where=images)
    with _whole(out) as temporary:
        encoder = load_encoder(encoder_path, device=device)
        width = encoder.embed_dim if projected else encoder.feature_dim
        types = (pa.string(), pa.list_(pa.float32(), width), pa.string())
        schema, embedded, bad = pa.schema(list(zip(_COLUMNS, types, strict=True))), 0, dict[str, str]()
        with pq.ParquetWriter(temporary, schema) as writer:
            for pages in batches(_pages(encoder, root, names), batch_size):
                rows = _rows(encoder, pages, projected)
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                bad |= {page.name: page.error for page in pages if page.error is not None}
                embedded += sum(page.error is None for page in pages)
    return EmbeddedFolder(embedded, bad)


@contextmanager
def _whole(out: str) -> Iterator[Path]:
    """A file to write that becomes ``out`` at the end; a place that cannot be written is found before the work."""
    if not is_local(out):
        open_filesystem(out.rpartition("/")[0], create=True)
        with tempfile.TemporaryDirectory(prefix="ecgscan-embed-") as folder:
            yield Path(folder) / "rows.parquet"
            write_bytes_atomic(out, (Path(folder) / "rows.parquet").read_bytes())
        return
    place = Path(out)
    temporary = place.with_name(f".{place.name}.part")
    try:
        if place.is_dir():
            raise InputError("is a folder", where=out, fix="Give a file to write: OUT.parquet.")
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        yield temporary
        os.replace(temporary, place)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", where=out) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _files(source: str) -> tuple[str, list[str]]:
    """The folder, and names in it to read: those of a folder, or of the one file."""
    if is_local(source):
        if os.path.isfile(source):
            return os.path.dirname(source), [os.path.basename(source)]
        if not os.path.isdir(source):
            raise InputError("no such folder or file", where=source)
        return source, _to_read(sorted(_walk(Path(source))))
    names = list_files(source, recursive=True)
    folder, _, name = source.rpartition("/")
    if not names and name in list_files(folder):
        return folder, [name]
    if not names:
        raise InputError("no such folder or file", where=source)
    return source, _to_read(names)


def _walk(root: Path) -> Iterator[str]:
    """Files under ``root``, relative to it; linked folders are followed, each once. One that cannot be read is named."""
    seen: set[str] = set()
    closed: list[str] = []
    for folder, below, names in os.walk(root, followlinks=True, onerror=lambda error: closed.append(error.filename)):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield from (os.path.relpath(os.path.join(folder, name), root) for name in names)
    yield from (os.path.relpath(name, root) for name in closed)


def _to_read(names: Sequence[str]) -> list[str]:
    """All but hidden files and the ground truth beside a picture."""
    paths = [PurePosixPath(name) for name in names]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    pictures = {path.with_suffix("") for path in paths if path.suffix.lower() in ENDINGS}

    def truth_beside_a_picture(path: PurePosixPath) -> bool:
        ending = next((end for end in (".json", MASK_SUFFIX) if path.name.endswith(end)), None)
        return ending is not None and path.with_name(path.name.removesuffix(ending)) in pictures

    return [str(path) for path in paths if not truth_beside_a_picture(path)]


def _pages(encoder: Encoder, root: str, names: Sequence[str]) -> Iterator[_Page]:
    """Every page of every file, fitted: only what the encoder sees is kept."""
    for name in names:
        content = os.path.join(root, name) if is_local(root) else _content(root, name)
        if isinstance(content, InputError):
            yield _Page(printable(name), None, content.what)
            continue
        if name.endswith(".parquet") and _is_ours(content):
            continue
        for number, page in enumerate(read_pages(content)):
            title = printable(name) + (f"#{number + 1}" if number else "")
            yield _fitted(encoder, title, page)


def _fitted(encoder: Encoder, title: str, page: np.ndarray | InputError) -> _Page:
    if isinstance(page, InputError):
        return _Page(title, None, page.what)
    try:
        return _Page(title, encoder.preprocess(page), None)
    except Exception as error:  # of this page alone, e.g. for want of memory
        return _Page(title, None, f"cannot be fitted ({type(error).__name__})")


def _content(root: str, name: str) -> bytes | InputError:
    try:
        return read_bytes(join(root, name))
    except InputError as error:
        return error


def _is_ours(content: str | bytes) -> bool:
    """Whether a file is what an earlier call wrote."""
    try:
        return (
            tuple(pq.read_schema(content if isinstance(content, str) else pa.BufferReader(content)).names) == _COLUMNS
        )
    except (OSError, pa.ArrowException):
        return False


def _rows(encoder: Encoder, pages: Sequence[_Page], projected: bool) -> list[dict[str, Any]]:
    good = [page.pixels for page in pages if page.pixels is not None]
    vectors = iter(encoder.embed(good, projected=projected, batch_size=len(good)) if good else ())
    return [
        {"path": page.name, "embedding": None if page.pixels is None else next(vectors), "error": page.error}
        for page in pages
    ]
