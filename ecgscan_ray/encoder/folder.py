"""Every picture under a folder into one Parquet file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ecgscan_ray.encoder.encoder import BATCH, Encoder, batches
from ecgscan_ray.encoder.exported import load_encoder
from ecgscan_ray.errors import InputError
from ecgscan_ray.paper.write import MASK_SUFFIX


@dataclass(frozen=True)
class EmbeddedFolder:
    """How ``embed_folder`` went: pages embedded, and files that could not be read with the reason of each."""

    embedded: int
    bad: dict[str, str]


def embed_folder(
    encoder_path: str,
    images_dir: str | os.PathLike,
    out_parquet: str | os.PathLike,
    *,
    projected: bool = False,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
) -> EmbeddedFolder:
    """Embed every file under a folder into one Parquet file.

    Columns: ``path`` (relative to the folder), ``embedding`` (list of float32; null where the file could not be read)
    and ``error`` (the reason; null where it could). No file is left out, but for hidden ones and the ground truth that
    ``ecgscan render`` writes beside a picture (JSON, masks).

    Args:
        encoder_path: Exported folder or run.
        images_dir: Searched with all its subfolders.
        out_parquet: Appears whole or not at all.
        projected: As in ``Encoder.embed``.
        batch_size: Pages at once.
        device: Where the encoder runs.

    Raises:
        InputError: No such folder, no files in it, or the output's folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    root, out = Path(images_dir), Path(out_parquet)
    if not root.is_dir():
        raise InputError("no such folder", where=root)
    names = _page_files(root)
    if not names:
        raise InputError("no files in this folder", where=root)
    encoder = load_encoder(encoder_path, device=device)
    width = encoder.embed_dim if projected else encoder.feature_dim
    schema = pa.schema([("path", pa.string()), ("embedding", pa.list_(pa.float32(), width)), ("error", pa.string())])
    bad: dict[str, str] = {}
    temporary = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, schema) as writer:
            for batch in batches(names, batch_size):
                rows = _embed_rows(encoder, root, batch, projected, bad)
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        os.replace(temporary, out)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", where=out) from None
    finally:
        temporary.unlink(missing_ok=True)
    return EmbeddedFolder(len(names) - len(bad), bad)


def _page_files(root: Path) -> list[str]:
    """Paths under a folder, relative to it and sorted: all but hidden ones and the ground truth beside a picture."""
    found = [p.relative_to(root) for p in root.rglob("*") if p.is_file()]
    found = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    pictures = {p.with_suffix("") for p in found if p.suffix.lower() in Image.registered_extensions()}

    def truth_beside_a_picture(path: Path) -> bool:
        ending = next((end for end in (".json", MASK_SUFFIX) if path.name.endswith(end)), None)
        return ending is not None and path.with_name(path.name.removesuffix(ending)) in pictures

    return sorted(str(path) for path in found if not truth_beside_a_picture(path))


def _embed_rows(
    encoder: Encoder, root: Path, names: Sequence[str], projected: bool, bad: dict[str, str]
) -> list[dict[str, Any]]:
    pixels: list[np.ndarray] = []
    good: list[str] = []
    for name in names:
        try:
            pixels.append(encoder.preprocess(root / name))
            good.append(name)
        except InputError as error:
            bad[name] = error.what
    vectors = encoder.embed(pixels, projected=projected, batch_size=len(names)) if pixels else np.zeros((0, 1))
    found = dict(zip(good, vectors, strict=True))
    return [{"path": name, "embedding": found.get(name), "error": bad.get(name)} for name in names]
