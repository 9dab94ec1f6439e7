"""``ecgscan finetune``: a run's page encoder and a small head, trained for the classes of one task."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ecgscan_ray.benchmark.facts import Facts, parts_of, read_facts
from ecgscan_ray.benchmark.labelled_store import write_labelled_store
from ecgscan_ray.benchmark.measure import subset
from ecgscan_ray.benchmark.registry import get_tasks
from ecgscan_ray.benchmark.task import Selection, label_targets, select
from ecgscan_ray.config import Config, TrainingConfig, build, merge
from ecgscan_ray.errors import ConfigError, InputError, RunError
from ecgscan_ray.filesystem import absolute
from ecgscan_ray.runs.checkpoints import (
    find_checkpoint,
    list_checkpoints,
    read_config,
    read_thresholds,
    verify,
    weights_digest,
    write_thresholds,
)
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.runtime.pretrain import pretrain
from ecgscan_ray.runtime.validation import Validator
from ecgscan_ray.store.manifest import SPLITS, Manifest, read_manifest
from ecgscan_ray.tasks.finetune import choose_thresholds
from ecgscan_ray.tasks.loading import load_stored
from ecgscan_ray.tasks.task import get_task

EPOCHS, MIN_STEPS, MIN_STEPS_FROM_SCRATCH = 15, 300, 1000
"""Length of a run whose settings give none: passes over the labelled recordings, and steps with few of them."""
TRAINING: dict[str, Any] = {
    "global_batch_size": 64,
    "learning_rate": 5e-4,
    "weight_decay": 0.05,
    "layer_decay": 0.75,
    "validation_rows": 2000,
    "term_gradients_every": 0,
}
"""Settings of ``training`` that are not the run's. Chosen by hand; ``--set training.*`` changes them."""
OF_THE_RUN = (
    *("augment", "precision", "sinks", "log_every"),
    *("micro_batch", "activation_checkpointing", "compile"),
)
"""Settings of ``training`` that are the run's; all others are defaults."""
FROM_SCRATCH: dict[str, Any] = {"global_batch_size": 32, "learning_rate": 1e-3, "layer_decay": 1.0}
"""The same where the first weights are random; chosen on validation recordings of PTB-XL (docs/results.md)."""
WARMUP, WARMUP_FROM_SCRATCH = 0.05, 0.2
"""Share of the steps in which the learning rate rises. Random weights at a full rate are spoiled in the first steps."""
CHECKPOINTS = 10
"""Of a run, where its settings do not say: the best by validation is kept."""


@dataclass(frozen=True)
class FinetuneOptions:
    """What is learned, and from what.

    Attributes:
        task: Name of a task of the benchmark that has classes.
        store: URI of the store; by default the run's.
        lists: URI of a folder with published lists, for tasks that are split by them.
        input: Pages, or the recordings themselves.
        from_scratch: Random first weights.
        label_share: Share of the labelled training recordings.
        subset: Number of the random subset of that share.
        settings: Dotted key -> value, instead of the run's and of ``TRAINING``.
        fresh: Refuse a folder that is not empty.
    """

    task: str
    store: str | None = None
    lists: str | None = None
    input: Literal["pages", "recordings"] = "pages"
    from_scratch: bool = False
    label_share: float = 1.0
    subset: int = 0
    settings: Mapping[str, Any] | None = None
    fresh: bool = False


def finetune(run: str, out: str, options: FinetuneOptions) -> dict[str, float | None]:
    """Fine-tune the page encoder of a run; the same call on an unfinished one goes on.

    With a share of the labels, or published lists, the recordings that are fitted on are written as a store of their own,
    ``OUT.labelled``.

    Args:
        run: URI of a run of ``pretrain``.
        out: URI of the run folder to write.
        options: Task and settings.

    Returns:
        Class -> the chance from which on it is predicted, of the best checkpoint.

    Raises:
        InputError: Run, store, task or settings cannot be used, or the task leaks.
        WorkError: Training failed.
    """
    if not 0 < options.label_share <= 1:
        raise InputError(f"{options.label_share:g} is no share", where="--share", fix="Give more than 0, at most 1.")
    run, out = absolute(run), absolute(out)
    checkpoint = find_checkpoint(run)
    if (task := verify(checkpoint, ()).task) != "pretrain":
        raise RunError(f"holds {get_task(task).contents}", where=run, fix="Give a run of 'ecgscan pretrain'.")
    store = options.store or RunFolder(run).environment().get("store")
    if not store:
        raise RunError("does not say which store it was trained on", where=run, fix="Give --store.")
    labelled = _labelled(store, out, options)
    config = _config(read_config(checkpoint), weights_digest(checkpoint), labelled, options)
    init_from = None if options.from_scratch else run
    pretrain(config, labelled.store, out, task="finetune", fresh=options.fresh, init_from=init_from)
    _choose_thresholds(out, labelled)
    return read_thresholds(find_checkpoint(out)) or {}


@dataclass(frozen=True)
class _Labelled:
    """What is trained on.

    Attributes:
        store: Its URI.
        manifest: Of it.
        classes: Class -> codes of its labels.
        keep_negatives: As in the settings.
        rows: Training recordings whose classes are known.
    """

    store: str
    manifest: Manifest
    classes: dict[str, tuple[str, ...]]
    keep_negatives: bool
    rows: int


def _labelled(store: str, out: str, options: FinetuneOptions) -> _Labelled:
    """The store itself where its labels are the task's; else one that is written beside the run."""
    manifest = read_manifest(store)
    (task,) = get_tasks("ptbxl", [options.task], options.lists)
    parts = [part for split in SPLITS for part in parts_of(manifest, split)]
    facts = read_facts(store, parts)
    selection = select(task, facts)
    if not selection.targets.classes:
        raise InputError("has no classes", where=f"task {task.name}", fix="Give a task with classes.")
    codes = {name: tuple(task.codes.get(name, (name,))) for name in selection.targets.classes}
    if options.label_share == 1:
        for keep_negatives in (False, True):
            if _are_labels(codes, keep_negatives, facts, selection):
                return _Labelled(store, manifest, codes, keep_negatives, len(selection.train))
    rows = selection.train
    if options.label_share < 1:
        rows = rows[subset(selection.targets.values[rows], options.label_share, options.subset)]
    beside = f"{out.rstrip('/')}.labelled"
    written = write_labelled_store(store, manifest, parts, facts, selection, rows, beside)
    return _Labelled(beside, written, {name: (name,) for name in codes}, True, len(rows))


def _are_labels(codes: Mapping[str, tuple[str, ...]], keep_negatives: bool, facts: Facts, selection: Selection) -> bool:
    """Whether the codes of the store's labels give the task's rows and classes, of training and validation."""
    by_codes = label_targets(facts, {name: frozenset(members) for name, members in codes.items()})
    known = np.array([bool(labels) for labels in facts.labels]) if keep_negatives else by_codes.known
    return all(
        np.array_equal(np.flatnonzero(known & (facts.split == split)), rows)
        and np.array_equal(by_codes.values[rows], selection.targets.values[rows])
        for split, rows in (("train", selection.train), ("validation", selection.validation))
    )


def _config(source: Config, first_weights: str, labelled: _Labelled, options: FinetuneOptions) -> Config:
    """The run's towers and pages, settings of fine-tuning, and what was asked for."""
    asked = dict(options.settings or {})
    if foreign := sorted(key for key in asked if not key.startswith(("training.", "resources.", "stream.", "seed"))):
        fix = "Set training.*, resources.*, stream.* or seed; the towers are the run's."
        raise ConfigError("cannot be set here", where=f"--set {foreign[0]}", fix=fix)
    training = TrainingConfig(steps=1).model_dump(mode="json")
    of_the_run = source.training.model_dump(mode="json")
    training |= {key: of_the_run[key] for key in OF_THE_RUN}
    training |= TRAINING | (FROM_SCRATCH if options.from_scratch else {})
    if options.input == "recordings":  # they have all twelve leads, in the test too
        training["augment"] |= {"lead_dropout": 0.0}
    base = source.model_dump(mode="json") | {
        "training": training,
        "finetune": {
            "task": options.task,
            "classes": labelled.classes,
            "keep_negatives": labelled.keep_negatives,
            "input": options.input,
            "first_weights": None if options.from_scratch else first_weights,
            "label_share": options.label_share,
            "subset": options.subset,
        },
    }
    base["teacher"]["run"], base["model"]["image"]["path"], base["stream"]["unit_rows"] = None, None, None
    if "training.epochs" in asked:
        asked.setdefault("training.steps", None)
    content = merge(base, asked)
    length = content["training"] | _lengths(
        build(Config, content, where="finetune").training, labelled.rows, options, asked
    )
    return build(Config, content | {"training": length}, where="finetune")


def _lengths(training: TrainingConfig, rows: int, options: FinetuneOptions, asked: Collection[str]) -> dict[str, int]:
    """Settings of ``training`` that depend on how many recordings there are, other than those that were asked for."""
    steps_of_epoch = rows / training.global_batch_size
    lengths: dict[str, int] = {}
    if not {"training.steps", "training.epochs"} & set(asked):
        least = MIN_STEPS_FROM_SCRATCH if options.from_scratch else MIN_STEPS
        lengths["steps"] = max(least, math.ceil(EPOCHS * steps_of_epoch))
    steps = lengths.get("steps") or training.steps or math.ceil((training.epochs or 0) * steps_of_epoch)
    lengths["checkpoint_every"] = math.ceil(steps / CHECKPOINTS)
    lengths["warmup_steps"] = int(steps * (WARMUP_FROM_SCRATCH if options.from_scratch else WARMUP))
    return {key: value for key, value in lengths.items() if f"training.{key}" not in asked}


def _choose_thresholds(out: str, labelled: _Labelled) -> None:
    """Thresholds of each checkpoint that has none, on the validation recordings."""
    for uri in list_checkpoints(out):
        if read_thresholds(uri) is not None:
            continue
        loaded = load_stored(uri)
        config, tokenizer = loaded.config, loaded.tokenizer.to_str()
        assert config.finetune is not None  # checked when the run began
        spec = RunSpec("finetune", config, labelled.store, labelled.manifest, tokenizer, loaded.state.step, out)
        validator = Validator(spec, get_task("finetune"), torch.device("cpu"))
        write_thresholds(uri, choose_thresholds(loaded.model, validator.batches(), list(config.finetune.classes)))
