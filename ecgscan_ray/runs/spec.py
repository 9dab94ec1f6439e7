"""Everything that a group of workers and its stream need, built once, after every check."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ecgscan_ray.config import Config
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.store.plan import EpochPlan

Facts = dict[str, str | None]


def run_facts(task: str, teacher_digest: str | None) -> Facts:
    """Facts of a run that are not settings."""
    return {"task": task, "teacher_digest": teacher_digest}


@dataclass(frozen=True)
class TeacherEmbeddings:
    """Vectors of a frozen teacher for the rows of a store.

    Attributes:
        folder: URI of the files.
        signal_mean: (D,), over the training recordings.
        report_mean: (C,), over the training recordings with a report.
    """

    folder: str
    signal_mean: np.ndarray
    report_mean: np.ndarray


@dataclass(frozen=True)
class RunSpec:
    """One run, resolved and checked; small, and the same on every worker.

    Attributes:
        task: Name of what is trained (``tasks/``).
        config: Settings that fit the store.
        store: URI of the store.
        manifest: Of the store.
        tokenizer_json: The run's tokenizer.
        total_steps: Optimiser steps of the whole run.
        out: URI of the run folder.
        teacher_digest: sha256 of the frozen teacher's weights, if the run has one.
        init_from: Run folder of the first weights, if they are not random.
        trusted: Modules whose code the settings may run.
        teacher_embeddings: Of the frozen teacher.
    """

    task: str
    config: Config
    store: str
    manifest: Manifest
    tokenizer_json: str
    total_steps: int
    out: str
    teacher_digest: str | None = None
    init_from: str | None = None
    trusted: tuple[str, ...] = ()
    teacher_embeddings: TeacherEmbeddings | None = None

    @property
    def facts(self) -> Facts:
        """What makes a run another one besides its settings; kept in its environment."""
        return run_facts(self.task, self.teacher_digest)

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.out)

    def plan(self) -> EpochPlan:
        """Order of the training rows."""
        return training_plan(self.config, self.manifest)


def training_plan(config: Config, manifest: Manifest) -> EpochPlan:
    """Order of the training rows of a store.

    Raises:
        StoreError: The store has no training rows.
    """
    return EpochPlan(manifest, "train", config.seed, config.stream.window_row_groups)


def total_steps(config: Config, manifest: Manifest) -> int:
    """Optimiser steps of a run on this store."""
    if config.training.steps is not None:
        return config.training.steps
    assert config.training.epochs is not None  # the config has exactly one of the two
    return max(1, math.ceil(config.training.epochs * manifest.rows("train") / config.training.global_batch_size))
