"""A frozen teacher's vectors for a whole store: made once, as a Ray Data job over its shards, and found again by digests."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy

from ecgscan_ray.batch import UNKNOWN, BatchMaker
from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.filesystem import join
from ecgscan_ray.model.external import trust, trusted
from ecgscan_ray.model.teacher import Teacher
from ecgscan_ray.runs.spec import TeacherEmbeddings
from ecgscan_ray.runtime.attend import attend
from ecgscan_ray.store.embeddings import EmbeddingFile, EmbeddingIndex, EmbeddingWriter, read_index, write_index
from ecgscan_ray.store.manifest import Manifest, Shard
from ecgscan_ray.store.schema import unpack
from ecgscan_ray.store.shards import read_row_groups
from ecgscan_ray.tasks.loading import load_teacher
from ecgscan_ray.training.tensors import to_device

logger = logging.getLogger(__name__)


def compute_or_load_teacher_embeddings(
    run: str, digest: str, store: str, manifest: Manifest, resources: ResourceConfig
) -> TeacherEmbeddings:
    """The embeddings of a store by a teacher: loaded, or computed now. Ray must be running.

    They are kept in the teacher's folder, in ``embeddings/<teacher>-<store>/``, so that all runs under it share them.

    Args:
        run: URI of the teacher's run.
        digest: sha256 of its weights.
        store: URI of the store.
        manifest: Of the store.
        resources: For the processes that compute them.
    """
    folder = join(run, "embeddings", f"{digest[:12]}-{manifest.digest()[:12]}")
    index = read_index(folder, digest, manifest)
    if index is None:
        logger.info("%s: teacher embeddings of %d recordings", folder, sum(s.rows for s in manifest.shards))
        files = _embed(EmbeddingTask(run, store, folder, trusted()), manifest.shards, resources)
        index = EmbeddingIndex(teacher_digest=digest, manifest_digest=manifest.digest(), files=files)
        write_index(folder, index)
    return TeacherEmbeddings(folder, *index.means())


@dataclass(frozen=True)
class EmbeddingTask:
    """What each process needs: teacher, store, the folder to write, and modules whose code the settings may run."""

    run: str
    store: str
    folder: str
    trusted: tuple[str, ...]


def _embed(task: EmbeddingTask, shards: list[Shard], resources: ResourceConfig) -> list[EmbeddingFile]:
    counts = resources.worker_counts if resources.use_gpu else [resources.render_actors]
    dataset = ray.data.from_items(
        [{"shard": shard.model_dump_json()} for shard in shards],
        override_num_blocks=len(shards),
    ).map(
        Embed,
        fn_constructor_args=(task,),
        num_cpus=resources.cpus_per_render_actor,
        num_gpus=1 if resources.use_gpu else None,
        compute=ActorPoolStrategy(min_size=counts[0], max_size=counts[-1]),
    )
    rows = attend(dataset.take_all, task.run, "The same command starts this part again.")
    files = [EmbeddingFile.model_validate_json(row["file"]) for row in rows]
    by_path = {file.path: file for file in files}
    return [by_path[shard.path] for shard in shards]


class Embed:
    """One shard of the store to one file of vectors."""

    def __init__(self, task: EmbeddingTask) -> None:
        torch.set_num_threads(1)
        trust(task.trusted)
        loaded = load_teacher(task.run)
        self._task, self._config = task, loaded.config
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._teacher: Teacher = loaded.model.to(self._device)
        self._maker = BatchMaker(loaded.config, loaded.tokenizer, with_pages=False)

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        writer, known = EmbeddingWriter(), dict[int, np.ndarray]()
        shard = Shard.model_validate_json(row["shard"])
        for group in range(len(shard.row_groups)):
            recordings = unpack(read_row_groups(self._task.store, shard, [group]))
            writer.add(*self._embed(recordings, known))
        return {"file": writer.close(self._task.folder, shard.path, shard.split).model_dump_json()}

    @torch.inference_mode()
    def _embed(self, recordings: list[Any], known: dict[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Vectors of signals and reports, and which rows have them; ``known`` keeps those of reports by their key."""
        size, level = self._config.evaluation.batch_size, self._config.model.content_dim
        signals, reports, has = [], [], []
        for start in range(0, len(recordings), size):
            batch_recordings = recordings[start : start + size]
            batch = self._maker.make(batch_recordings, range(len(batch_recordings)), [0] * len(batch_recordings))
            tensors = to_device(batch, self._device, self._config.model.signal_fs)
            signals.append(self._teacher.encode_signal(tensors["centred_mv"]).cpu().numpy())
            keys = batch["report_key"]
            _, rows = np.unique(keys, return_index=True)
            new = np.array([row for row in rows if keys[row] != UNKNOWN and int(keys[row]) not in known], int)
            if len(new):
                report_vectors = self._teacher.encode_text(tensors["token_ids"][new], tensors["attention_mask"][new])
                known |= dict(zip(keys[new].tolist(), report_vectors[:, :level].cpu().numpy(), strict=True))
            nothing = np.zeros(level, np.float32)
            reports.append(np.stack([known.get(key, nothing) for key in keys.tolist()]))
            has.append(np.stack([batch["has_signal"], keys != UNKNOWN]))
        both = np.concatenate(has, axis=1)
        return np.concatenate(signals), np.concatenate(reports), both[0], both[1]
