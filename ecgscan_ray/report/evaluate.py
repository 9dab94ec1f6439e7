"""Evaluation of a run on one machine: opens run and store, measures, writes the report into the run folder."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.config import Config, build
from ecgscan_ray.errors import RunError, StoreError
from ecgscan_ray.evaluation.evaluate import evaluate_run
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.reading.read_pages import ReadPages
from ecgscan_ray.reading.weights import load_networks
from ecgscan_ray.report.run import UNKNOWN_PATIENTS, RunFacts, patients_sentence, write_run_report
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.metrics import read_metrics
from ecgscan_ray.runs.names import CONFIG
from ecgscan_ray.store.manifest import SPLITS, Manifest, read_manifest
from ecgscan_ray.store.shards import iterate_rows
from ecgscan_ray.tasks.loading import LoadedCheckpoint, load_run
from ecgscan_ray.tasks.pretrain import Pretrain

logger = logging.getLogger(__name__)


def evaluate(
    run: str,
    *,
    store: str | None = None,
    which: Literal["best", "last"] = "best",
    settings: dict[str, Any] | None = None,
    device: str | None = None,
) -> dict[str, dict[str, float | int | str | None]]:
    """Measure a run and write ``report.html``, ``report.json`` and ``redrawn.png`` into its folder.

    Args:
        run: URI of the run folder.
        store: URI of the store; by default the one it was trained on.
        which: Checkpoint.
        settings: Changes to the ``evaluation`` section, e.g. ``{"bootstrap": 200}``.
        device: Where to compute; by default a GPU if there is one.

    Returns:
        The content of ``report.json``.

    Raises:
        RunError: No run, or no checkpoint in it.
        StoreError: The store is not there, or has no recordings to measure on.
    """
    environment = _read_environment(run)
    store, manifest = _open_store(run, store or environment.get("store"))
    same_store = manifest.digest() == environment.get("manifest_digest")
    if not same_store:
        logger.warning("%s is not the store that %s was trained on: its patients may have been trained on", store, run)
    loaded = load_run(run, which)
    config = _with_evaluation(loaded.config, settings or {})
    _check_splits(config, store, manifest)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    evaluation = evaluate_run(
        loaded.model.to(device),
        Pretrain().build_model(config, loaded.tokenizer).to(device),
        _test_maker(config, loaded.tokenizer),
        partial(iterate_rows, store, manifest),
        probe_maker=BatchMaker(config, loaded.tokenizer),
        device=device,
    )
    facts = _facts(run, which, loaded, config, manifest, environment)
    unknown = sum(evaluation.figures[name].value for name in UNKNOWN_PATIENTS)
    if unknown and same_store:
        logger.warning("%s", patients_sentence(evaluation.figures))
    return write_run_report(run, evaluation, read_metrics(run), facts)


def _test_maker(config: Config, tokenizer: Tokenizer) -> BatchMaker:
    """Draws the pages that are measured; those of an encoder of leads are read, too, as pages of users are."""
    if config.model.input == "leads":
        return ReadPages(config, tokenizer, load_networks())
    return BatchMaker(config, tokenizer)


def _facts(
    run: str,
    which: Literal["best", "last"],
    loaded: LoadedCheckpoint[ECGScan],
    config: Config,
    manifest: Manifest,
    environment: dict[str, Any],
) -> RunFacts:
    return RunFacts(
        name=RunFolder(run).name,
        config=config,
        step=loaded.state.step,
        samples_seen=loaded.state.samples_seen,
        checkpoint=which,
        origins=manifest.origins,
        same_store=manifest.digest() == environment.get("manifest_digest"),
        rows={split: manifest.rows(split) for split in SPLITS},
        environment=_printable_environment(environment),
    )


def _read_environment(run: str) -> dict[str, Any]:
    folder = RunFolder(run)
    if not folder.is_run():
        raise RunError(f"not a run folder: it has no {CONFIG}", where=run, fix="Make a run by 'ecgscan pretrain'.")
    return folder.environment()


def _open_store(run: str, store: str | None) -> tuple[str, Manifest]:
    if not store:
        raise RunError("does not say which store it was trained on", where=run, fix="Give --store.")
    return store, read_manifest(store)


def _check_splits(config: Config, store: str, manifest: Manifest) -> None:
    for split in ("train", config.evaluation.split):
        if not manifest.rows(split):
            fix = _fix_of_split(split, manifest)
            raise StoreError(f"has no recordings in the split '{split}'", where=store, fix=fix)


def _fix_of_split(split: str, manifest: Manifest) -> str:
    fix = "Prepare it again with folds for this split or a column 'split' in its table"
    other = next((name for name in ("test", "validation") if name != split and manifest.rows(name)), None)
    return (
        f"{fix}, or measure on '{other}': --set evaluation.split={other}." if other and split != "train" else f"{fix}."
    )


def _with_evaluation(config: Config, settings: dict[str, Any]) -> Config:
    content = config.model_dump(mode="json")
    content["evaluation"] |= settings
    return build(Config, content, where="evaluation")


def _printable_environment(environment: dict[str, Any]) -> dict[str, str]:
    """What the report prints of the environment; paths and places of the machine stay out of it."""
    versions = ", ".join(f"{name} {version}" for name, version in environment.get("versions", {}).items())
    spoken = {
        "Python": environment.get("python"),
        "Machine": environment.get("machine"),
        "Packages": versions,
        "Git revision": environment.get("git_revision"),
    }
    return {name: str(value) for name, value in spoken.items() if value}
