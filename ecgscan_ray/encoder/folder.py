"""Every picture under a folder, here or in a bucket, into one Parquet file; an interrupted command goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch

from ecgscan_ray.cores import usable_cores
from ecgscan_ray.encoder.encoder import BATCH, Encoder
from ecgscan_ray.encoder.exported import load_encoder
from ecgscan_ray.encoder.part_maker import EmbedJob, PartMaker
from ecgscan_ray.encoder.parts import EmbeddedFolder, Piece, cut, held, join_parts, parts_folder
from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem import absolute, list_files
from ecgscan_ray.pictures import PictureFile, pictures_under

MakeParts = Callable[[EmbedJob, Sequence[Piece], Callable[[int], None]], None]
"""Makes the parts of pieces; given the job, the pieces, and a function to call with the number of further files done."""


def embed_folder(
    encoder_path: str,
    images: str | os.PathLike,
    out_parquet: str | os.PathLike,
    *,
    projected: bool = False,
    batch_size: int = BATCH,
    device: torch.device | str = "cpu",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    make_parts: MakeParts | None = None,
) -> EmbeddedFolder:
    """Embed every file under a folder, or one file, into one Parquet file. Inputs and output are paths or URIs.

    Columns: ``path`` (relative to the folder; unprintable characters are escaped), ``embedding`` (list of float32; null
    where the page could not be read) and ``error`` (the reason; null where it could). A file of several pages has one row
    per page: ``two.tif``, ``two.tif#2``. Every file is included except hidden ones, Parquet files such as an earlier
    output, and the ground truth that ``ecgscan render`` writes for a picture (JSON, masks).

    Rows are kept in ``OUT.parts``, a file for each 32 to 256 pictures, until all are there. After an interruption the same
    call makes the missing ones; those of other weights, pictures or kinds of features are not taken.

    Args:
        encoder_path: Exported folder or run.
        images: A folder, searched with all its subfolders, or one file.
        out_parquet: Appears complete or not at all.
        projected: As in ``Encoder.embed``.
        batch_size: Pages per forward pass; those that are read are read one by one, at their full size.
        device: Where the encoder runs.
        workers: Processes that read pictures: a file that ends one of them is an error of its row. ``None`` reads in this
            process. An encoder that reads pages runs in each of them.
        progress: Called with the number of files done and the number of all files.
        make_parts: Makes the parts elsewhere, instead of ``device`` and ``workers``; see ``runtime.embed``.

    Raises:
        InputError: Nothing to embed, the output cannot be written, another command writes it, or a number below 1.
    """
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value is not None and value < 1:
            raise InputError(f"{value} is too small", where=name, fix="Give 1 or more.")
    out = absolute(os.fspath(out_parquet))
    files = _input_files(os.fspath(images), out)
    with held(out) as folder:
        encoder = load_encoder(encoder_path, device="cpu" if make_parts else device)
        job = EmbedJob(
            encoder=absolute(os.fspath(encoder_path)),
            digest=encoder.digest(),
            page=None if encoder.reads else encoder.page,
            width=encoder.embed_dim if projected else encoder.feature_dim,
            projected=projected,
            batch_size=batch_size,
            folder=folder,
        )
        pieces, total = cut(files, job.digest, projected), len(files)
        there = set(list_files(folder))
        missing = [piece for piece in pieces if piece.part not in there]
        before = done = total - sum(len(piece.names) for piece in missing)

        def count(further: int) -> None:
            nonlocal done
            done += further
            if progress:
                progress(done, total)

        if before:
            count(0)
        if missing:
            (make_parts or partial(_make_here, encoder, workers))(job, missing, count)
        return replace(join_parts(folder, pieces, out, job.width), num_files_before=before)


def _input_files(images: str, out: str) -> list[PictureFile]:
    """The files to embed: neither the output nor its parts are any."""
    parts = f"{parts_folder(out)}/"
    files = [file for file in pictures_under(images, leave_out=out) if not file.uri.startswith(parts)]
    if not files:
        raise InputError("no pictures here", where=images, fix="Give a folder of pictures, or one picture.")
    return files


def _make_here(
    encoder: Encoder, workers: int | None, job: EmbedJob, pieces: Sequence[Piece], count: Callable[[int], None]
) -> None:
    workers = min(workers or 0, sum(len(piece.names) for piece in pieces))
    threads = max(1, usable_cores() // workers) if workers else usable_cores()
    with closing(PartMaker(job, encoder, device=str(encoder.device), workers=workers, threads=threads)) as maker:
        for further in maker.make(pieces):
            count(further)
