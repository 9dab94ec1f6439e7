"""``ecgscan embed`` on a cluster: each actor makes parts and writes them to the shared storage."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.encoder.encoder import BATCH
from ecgscan_ray.encoder.folder import embed_folder
from ecgscan_ray.encoder.part_maker import EmbedJob, PartMaker
from ecgscan_ray.encoder.parts import EmbeddedFolder, Piece
from ecgscan_ray.errors import EcgscanError, InputError, WorkError
from ecgscan_ray.filesystem import is_local
from ecgscan_ray.runs.needs import Need
from ecgscan_ray.runtime.actors import map_in_actors
from ecgscan_ray.runtime.attend import attend
from ecgscan_ray.runtime.cluster import check_address, start_ray
from ecgscan_ray.runtime.demand import await_room

GOES_ON = "The same command goes on: finished parts are kept."


def embed(
    encoder_path: str,
    images: str,
    out_parquet: str,
    *,
    projected: bool = False,
    batch_size: int = BATCH,
    device: str | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EmbeddedFolder:
    """``embed_folder`` by actors of Ray; a lost actor or node costs the parts that it was making.

    Args:
        encoder_path: As all paths a URI, or on every node the same folder.
        images: See ``embed_folder``.
        out_parquet: See there.
        projected: See there.
        batch_size: See there.
        device: Where the encoder runs; ``None`` = one that reads pages on CPUs, which it needs for that, one of pictures on
            GPUs where the cluster has any.
        workers: Actors; a growing cluster is asked for room for them. ``None`` = as many as there are cores.
        progress: See there; called after each part.

    Raises:
        InputError: As there; or there is no cluster, or a node does not see one of the paths.
        WorkError: Ray or the encoder fails.
    """
    check_address()
    return embed_folder(
        encoder_path,
        images,
        out_parquet,
        projected=projected,
        batch_size=batch_size,
        workers=workers,
        progress=progress,
        make_parts=partial(_make_parts, device, workers),
    )


def _make_parts(
    device: str | None, workers: int | None, job: EmbedJob, pieces: Sequence[Piece], count: Callable[[int], None]
) -> None:
    start_ray(ResourceConfig(), dashboard=False)
    if device is None and job.reads:
        device = "cpu"
    on_gpus = device is not None and device.startswith("cuda")
    room = [{"CPU": 1.0, "GPU": 1.0}] if on_gpus else [{"CPU": 1.0}] * (workers or 1)
    await_room([Need("embedding process", resources) for resources in room], "embed")
    items = [{"piece": json.dumps(asdict(piece))} for piece in pieces]  # JSON: names need not be UTF-8
    dataset = map_in_actors(MakePart, (job, device), items, workers=workers, use_gpus=device != "cpu")

    def gather() -> None:
        for row in dataset.iter_rows():
            result = json.loads(row["result"])
            if "error" in result:
                kind = InputError if result["status"] == InputError.exit_status else WorkError
                raise kind(**result["error"])
            count(result["files"])

    attend(gather, job.folder, GOES_ON)


class MakePart:
    """Makes parts in an actor, whose own process reads for it: a file that ends that process is an error of its row.

    Args:
        job: What is made.
        device: Where the encoder runs; ``None`` = on the actor's GPU if it has one.
    """

    def __init__(self, job: EmbedJob, device: str | None) -> None:
        torch.set_num_threads(1)
        self._job, self._device = job, device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._maker: PartMaker | None = None

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        values = json.loads(row["piece"])
        piece = Piece(**values | {"names": tuple(values["names"])})
        try:
            result: dict[str, Any] = {"files": sum(self._start(piece.root).make([piece]))}
        except EcgscanError as error:  # as a result: raised, Ray would print its stack, twice
            where = {"what": error.what, "where": error.where, "fix": error.fix}
            result = {"error": where, "status": error.exit_status}
        return {"result": json.dumps(result)}

    def _start(self, root: str) -> PartMaker:
        if self._maker is None:
            check_paths([self._job.encoder, root, self._job.folder])
            encoder = None if self._job.reads else self._job.load(self._device)
            self._maker = PartMaker(self._job, encoder, device=self._device, workers=1, threads=1)
        return self._maker


def check_paths(uris: Sequence[str]) -> None:
    """Refuse a node on which a local path is not there: its files would all be listed as bad ones.

    Raises:
        InputError: One is not there.
    """
    for uri in uris:
        if is_local(uri) and not os.path.exists(uri):
            fix = "Give s3://bucket/prefix, or a folder that every node has mounted under the same path."
            raise InputError(f"is not there on the node {socket.gethostname()}", where=uri, fix=fix)
