"""``ecgscan benchmark``: runs and their controls on the tasks of a suite, from store to report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ecgscan_ray.benchmark.benchmark import Benchmark, ClassVectors, trained_name
from ecgscan_ray.benchmark.conditions import ALL, CONDITIONS, FIT, LAYOUTS, RECORDING, is_held_out
from ecgscan_ray.benchmark.encoders import EncoderSpec, RunViews, classifier_spec, generic_spec, run_specs
from ecgscan_ray.benchmark.extract import Piece
from ecgscan_ray.benchmark.facts import Facts, Part, parts_of, read_facts
from ecgscan_ray.benchmark.feature_files import read_all, read_features
from ecgscan_ray.benchmark.labelled_store import PART_OF
from ecgscan_ray.benchmark.prompts import read_prompts, task_prompts
from ecgscan_ray.benchmark.registry import get_tasks
from ecgscan_ray.benchmark.task import Task
from ecgscan_ray.config import Config
from ecgscan_ray.errors import EcgscanError, InputError, RunError, StoreError
from ecgscan_ray.evaluation.zero_shot import class_vectors
from ecgscan_ray.report.benchmark import BenchmarkFacts, write_benchmark
from ecgscan_ray.runs.checkpoints import Which, find_checkpoint, read_config
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runtime.cluster import check_address, start_ray
from ecgscan_ray.runtime.features import write_features
from ecgscan_ray.store.manifest import SPLITS, Manifest, read_manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured, and on what.

    Attributes:
        suite: Tasks of the field that belong together.
        tasks: Some of the tasks, instead of the whole suite.
        store: URI of the store; by default the one the first run was trained on.
        generic: Local folder of an image encoder as timm saves it.
        finetuned: URIs of runs of ``finetune``: of the first run, or controls.
        prompts: URI of a dictionary of prompts, instead of the committed ones.
        lists: URI of a folder with published lists.
        which: Checkpoint of the runs.
        limit: At most this many recordings of each split.
        resamples: Of patients, behind each interval.
    """

    suite: str = "ptbxl"
    tasks: tuple[str, ...] = ()
    store: str | None = None
    generic: str | None = None
    finetuned: tuple[str, ...] = ()
    prompts: str | None = None
    lists: str | None = None
    which: Which = "best"
    limit: int | None = None
    resamples: int = 1000


def benchmark(runs: Sequence[str], out: str, options: BenchmarkOptions) -> dict[str, Any]:
    """Measure runs and write ``benchmark.html``, ``.json``, ``.csv`` and ``.tex`` into a folder.

    Features are kept in the folders of the runs (those of a generic encoder in ``out``) and used again.

    Args:
        runs: URIs of run folders; the first is the one that the others and the controls are compared with.
        out: URI of the folder to write.
        options: What is measured.

    Returns:
        The content of ``benchmark.json``.

    Raises:
        InputError: A run, task, list or store is not there, or a task leaks and no other is left.
    """
    tasks = get_tasks(options.suite, options.tasks, options.lists)
    store, manifest = _open_store(runs[0], options.store)
    specs = _specs(runs, out, options, [task.name for task in tasks])
    parts = _parts(manifest, tasks, options.limit)
    check_address()
    configs = {run: read_config(find_checkpoint(run, options.which)) for run in runs}
    _extract(store, specs, parts, out, configs[runs[0]])
    facts = read_facts(store, parts[RECORDING.name])
    tables = {
        (spec.name, condition.name): read_all(spec, condition, parts[condition.name])
        for condition in ALL
        for spec in specs
        if spec.takes(condition)
    }
    vectors = _class_vectors(runs[0], specs, tasks, facts, options)
    results = Benchmark(facts, specs, tables, vectors, options.resamples).run(tasks)
    names = {spec.name: spec.view for spec in specs}
    report = BenchmarkFacts(options.suite, runs, names, manifest, tuple(_notes(runs, options, configs, manifest)))
    return write_benchmark(out, results, report)


def _open_store(run: str, store: str | None) -> tuple[str, Manifest]:
    store = store or RunFolder(run).environment().get("store")
    if not store:
        raise RunError("does not say which store it was trained on", where=run, fix="Give --store.")
    manifest = read_manifest(store)
    for split in SPLITS:
        if not manifest.rows(split):
            raise StoreError(
                f"has no recordings in the split '{split}'", where=store, fix="Prepare it with folds for it."
            )
    return store, manifest


def _specs(runs: Sequence[str], out: str, options: BenchmarkOptions, tasks: Sequence[str]) -> list[EncoderSpec]:
    """The first run with its controls, the others, the generic encoder; names are those of the run folders."""
    names = [RunFolder(run).name for run in runs]
    specs = run_specs(runs[0], names[0], options.which)
    for run, name in zip(runs[1:], names[1:], strict=True):
        specs += run_specs(run, name, options.which, controls=False)
    if options.generic is not None:
        specs.append(generic_spec(options.generic, out))
    for run in options.finetuned:
        spec = classifier_spec(run, RunFolder(run).name, options.which)
        trained_name(spec, specs)  # refuses one of other runs before any page is drawn
        if spec.classifier and spec.classifier.task in tasks:
            specs.append(spec)
        else:
            logger.info("benchmark: %s was fine-tuned for a task that is not measured: left out", run)
    if twice := {spec.name for spec in specs if sum(spec.name == other.name for other in specs) > 1}:
        what = f"two runs have the same name ({', '.join(sorted(twice))})"
        raise InputError(what, where="benchmark", fix="Rename a folder.")
    return specs


def _parts(manifest: Manifest, tasks: Sequence[Task], limit: int | None) -> dict[str, list[Part]]:
    """Condition -> parts of the store that have its features; lists of their own may split any shard in any way."""
    by_split = {split: parts_of(manifest, split, limit) for split in SPLITS}
    everything = [part for split in SPLITS for part in by_split[split]]
    if any(task.all_splits for task in tasks):
        return {condition.name: everything for condition in ALL}
    fit = [*by_split["train"], *by_split["validation"]]
    return {FIT.name: fit, RECORDING.name: everything} | {c.name: by_split["test"] for c in CONDITIONS}


def _extract(store: str, specs: Sequence[EncoderSpec], parts: dict[str, list[Part]], out: str, config: Config) -> None:
    pieces = []
    for condition in (*CONDITIONS, FIT, RECORDING):  # pages that are read take longest
        for part in parts[condition.name]:
            lacking = tuple(
                spec for spec in specs if spec.takes(condition) and read_features(spec, condition, part) is None
            )
            if lacking:
                pieces.append(Piece(condition, part, lacking, out))
    if pieces:
        rows = sum(piece.part.rows for piece in pieces if piece.condition != RECORDING)
        logger.info("benchmark: features of %d pages in %d pieces", rows, len(pieces))
        start_ray(config.resources, dashboard=False)
        write_features(store, pieces, out, config.resources.cpus_per_render_actor)


def _class_vectors(
    run: str, specs: Sequence[EncoderSpec], tasks: Sequence[Task], facts: Facts, options: BenchmarkOptions
) -> ClassVectors:
    """Text features of the classes, by the text tower of each run."""
    own = read_prompts(options.prompts) if options.prompts else None
    vectors: dict[str, dict[str, dict[int, np.ndarray]]] = {}
    for uri in dict.fromkeys(spec.uri for spec in specs if spec.view == "run"):
        views = RunViews(uri, options.which, "cpu")
        if not views.config.objective.uses_text:
            continue
        of_task = {}
        for task in tasks:
            wordings = task_prompts(task, task.targets(facts).classes, own)
            named = {str(index): words for index, words in wordings.items()}
            length = views.config.model.text.max_length
            if named:
                matrix = class_vectors(views.model, views.tokenizer, named, length)
                of_task[task.name] = dict(zip(wordings, matrix, strict=True))
        vectors |= {spec.name: of_task for spec in specs if spec.uri == uri and spec.view in ("run", "teacher")}
    return vectors


def _is_trained_on(run: str, manifest: Manifest) -> bool:
    """Whether a run was trained on a store, or on recordings out of it."""
    environment = RunFolder(run).environment()
    if environment.get("manifest_digest") == manifest.digest():
        return True
    try:
        return read_manifest(environment.get("store") or "").settings.get(PART_OF) == manifest.digest()
    except EcgscanError:  # it is gone
        return False


def _notes(runs: Sequence[str], options: BenchmarkOptions, configs: dict[str, Config], manifest: Manifest) -> list[str]:
    """What a reader must know of the runs: few recordings, other stores, pages that are not held out."""
    notes = []
    if options.limit is not None:
        notes.append(
            f"Only {options.limit} recordings of each split were measured; probes were fitted on as many, encoders were "
            "fine-tuned on all."
        )
    for run in (*runs, *options.finetuned):
        if not _is_trained_on(run, manifest):
            name = RunFolder(run).name
            notes.append(f"{name} was trained on another store: it may have seen patients of this test.")
    for run in runs:
        name = RunFolder(run).name
        if not is_held_out(configs[run], LAYOUTS):
            notes.append(f"{name} was trained on one of the {LAYOUTS.title}: for it they are not held out.")
    return notes
