"""Training as a Ray Train job, of every task: the stream into the step loop, on 1..N workers, to the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

from ecgscan_ray import text
from ecgscan_ray.config import Config, ResourceConfig
from ecgscan_ray.errors import ConfigError, EcgscanError, NotFiniteError, RunError, WorkError
from ecgscan_ray.filesystem import absolute, open_filesystem
from ecgscan_ray.filesystem.lease import exclusive
from ecgscan_ray.model.external import load_external, trusted
from ecgscan_ray.runs.checkpoints import DamagedCheckpoint, list_checkpoints
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.metrics import read_metrics
from ecgscan_ray.runs.names import CHECKPOINTS
from ecgscan_ray.runs.needs import needs
from ecgscan_ray.runs.opening import check_run, take_run
from ecgscan_ray.runs.progress import ProgressLine
from ecgscan_ray.runs.sinks import check_sinks
from ecgscan_ray.runs.spec import RunSpec, run_facts, total_steps, training_plan
from ecgscan_ray.runs.summary import run_summary
from ecgscan_ray.runtime.attend import attend
from ecgscan_ray.runtime.beside import beside_training, validate_stored
from ecgscan_ray.runtime.cluster import check_address, start_ray
from ecgscan_ray.runtime.demand import await_room, fitting_workers
from ecgscan_ray.runtime.embeddings import compute_or_load_teacher_embeddings
from ecgscan_ray.runtime.failures import permanent_failure
from ecgscan_ray.runtime.pipelines import PipelineConfig, datasets
from ecgscan_ray.runtime.registered import registered_step, use_newest_whole
from ecgscan_ray.runtime.reporter import StopRule
from ecgscan_ray.runtime.stream import check_unit_size, read_span
from ecgscan_ray.runtime.trainer import Trainer
from ecgscan_ray.runtime.worker import work
from ecgscan_ray.store.manifest import Manifest, read_manifest
from ecgscan_ray.store.shards import iterate_rows
from ecgscan_ray.tasks.fit_to_store import fit_to_store
from ecgscan_ray.tasks.frozen import teacher_tokenizer, with_teacher_settings
from ecgscan_ray.tasks.task import check_section, get_task
from ecgscan_ray.training.scratch import clear_scratch
from ecgscan_ray.training.towers import has_batch_norm

logger = logging.getLogger(__name__)

MAX_TOKENIZER_REPORTS = 200_000

RESIZE_EVERY_S = 60.0
"""Least time between two changes of the number of workers: starting a group takes up to half a minute."""


def teach(config: Config, store: str, out: str, **options: Any) -> None:
    """Pretrain the signal-text teacher: the same job without pages; takes what ``pretrain`` takes.

    Raises:
        ConfigError: The external signal encoder that the settings name does not fit its interface.
    """
    if config.teacher.encoder is not None:
        load_external(config.teacher.encoder)
    pretrain(config, store, out, task="teach", **options)


def pretrain(
    config: Config,
    store: str,
    out: str,
    *,
    task: str = "pretrain",
    fresh: bool = False,
    init_from: str | None = None,
    callbacks: Sequence[Any] = (),
    stop_rule: StopRule | None = None,
    quiet: bool = False,
) -> None:
    """Pretrain on a store; the same call on an unfinished run goes on from its last checkpoint.

    With ``teacher.run`` in the settings, pages are aligned to that teacher, frozen.

    Args:
        config: Settings.
        store: URI of a prepared store.
        out: URI of the run folder; on a cluster, one that all nodes reach.
        task: What is trained, by its name in ``TASKS``.
        fresh: Refuse a folder that is not empty.
        init_from: Run to take the first weights from.
        callbacks: Ray Train callbacks (a sweep's reporter).
        stop_rule: Ends the run early, e.g. when a sweep's trial falls behind; checkpoints are measured between steps.
        quiet: No progress line.

    Raises:
        InputError: Settings, store or folder cannot be used.
        WorkError: Training failed.
    """
    check_address()
    store, out, init_from = absolute(store), absolute(out), absolute(init_from) if init_from else None
    manifest = read_manifest(store)
    if stop_rule is not None:
        config = config.validated_between_steps()
    config, teacher_digest = _fitting_settings(config, task, store, manifest)
    with exclusive(out, f"ecgscan {task}"):
        status = check_run(out, config, manifest, fresh, run_facts(task, teacher_digest))
        if status == "finished":
            logger.info("%s: finished already; nothing to do", out)
            return
        tokenizer = RunFolder(out).tokenizer() if status == "unfinished" else None
        tokenizer = tokenizer or _make_tokenizer(config, teacher_digest, store, manifest)
        steps = total_steps(config, manifest)
        spec = RunSpec(task, config, store, manifest, tokenizer, steps, out, teacher_digest, init_from, trusted())
        clear_scratch()
        try:
            _run(_prepare(spec), list(callbacks), stop_rule, quiet)
        finally:
            clear_scratch(out)


def _fitting_settings(config: Config, task: str, store: str, manifest: Manifest) -> tuple[Config, str | None]:
    """Checked settings that fit the store, and the digest of the frozen teacher."""
    check_section(config, task)
    training_plan(config, manifest)
    teacher_digest = None
    if get_task(task).embeds_pages and config.teacher.run:
        config, teacher_digest = with_teacher_settings(config)
    config = fit_to_store(config, get_task(task), store, manifest)
    check_sinks(config.training.sinks)
    check_unit_size(config)
    return config, teacher_digest


def _prepare(spec: RunSpec) -> RunSpec:
    """The rest of the checks, and the teacher's embeddings; nothing is written to the run folder."""
    config = spec.config
    _refuse_batch_norm(spec)
    start_ray(config.resources)
    await_room(needs(config, config.resources.worker_counts[0]))
    if spec.teacher_digest is None:
        return spec
    run = config.teacher.run or ""
    embeddings = compute_or_load_teacher_embeddings(
        run, spec.teacher_digest, spec.store, spec.manifest, config.resources
    )
    return replace(spec, teacher_embeddings=embeddings)


def _run(spec: RunSpec, callbacks: list[Any], stop_rule: StopRule | None, quiet: bool) -> None:
    """Take the folder and train to the end."""
    take_run(spec)
    spec.folder.write_tokenizer(spec.tokenizer_json)
    beside = spec.config.training.validates_beside
    done = use_newest_whole(spec.out, beside)
    if done:
        logger.info("%s: going on from step %d of %d", spec.out, done, spec.total_steps)
    if done < spec.total_steps:
        _fit(spec, callbacks, stop_rule, quiet)
        if not quiet and (summary := run_summary(read_metrics(spec.out))):
            logger.info("%s", summary)
    elif beside:
        _validate_last(spec)
    if beside:
        _warn_of_failed_validations(spec.out)
    spec.folder.mark_finished(registered_step(spec.out))


def _validate_last(spec: RunSpec) -> None:
    """Measure the last checkpoint of a run that was killed after its last step."""
    uri, state = next(iter(list_checkpoints(spec.out).items()))
    if state.score is None:
        attend(partial(validate_stored, spec, uri), spec.out, "The same command measures the last checkpoint again.")


def _warn_of_failed_validations(out: str) -> None:
    for line in read_metrics(out):
        if line["kind"] == "validation" and "error" in line:
            logger.warning("the checkpoint of step %d was not validated: %s", line["step"], line["error"])


def _refuse_batch_norm(spec: RunSpec) -> None:
    """Statistics of a part of the batch would make the result depend on the number of workers.

    On GPUs batch norm is synchronised; torch has no such layer for CPUs.

    Raises:
        ConfigError: Several CPU workers and a model with batch norm.
    """
    config = spec.config
    if config.resources.num_workers == 1 or config.resources.use_gpu:
        return
    if has_batch_norm(get_task(spec.task).build_model(config, text.parse_tokenizer(spec.tokenizer_json))):
        raise ConfigError(
            "the model has batch norm, which several CPU workers cannot share",
            where="resources.num_workers",
            fix="Use resources.num_workers=1, GPUs, or a model.image with layer or group norm (e.g. convnext_atto).",
        )


def _fit(spec: RunSpec, callbacks: list[Any], stop_rule: StopRule | None, quiet: bool) -> None:
    config = spec.config
    filesystem, path = open_filesystem(spec.out)
    needs_of = {workers: needs(config, workers) for workers in config.resources.worker_counts}
    trainer = Trainer(
        work,
        fitting_workers=partial(fitting_workers, needs_of),
        train_loop_config={"spec": spec, "stop_rule": stop_rule},
        scaling_config=_scaling(config.resources),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=config.resources.max_failures),
            checkpoint_config=_checkpoint_policy(config),
            callbacks=callbacks,
        ),
        datasets=datasets(spec),
        dataset_config=PipelineConfig(config),
        validation_config=beside_training(spec),
    )
    try:
        with ProgressLine(spec.folder, enabled=not quiet):
            attend(trainer.fit, spec.out, "The same command goes on from the last checkpoint.")
    except EcgscanError as error:
        cause = permanent_failure(error.__cause__) if error.__cause__ else None
        raise _explained(cause or error, spec) from error


def _scaling(resources: ResourceConfig) -> ScalingConfig:
    counts = resources.worker_counts
    return ScalingConfig(
        num_workers=(counts[0], counts[-1]) if len(counts) > 1 else counts[0],
        elastic_resize_monitor_interval_s=RESIZE_EVERY_S,
        use_gpu=resources.use_gpu,
        resources_per_worker={"CPU": resources.cpus_per_worker, **({"GPU": 1} if resources.use_gpu else {})},
        label_selector=dict(resources.train_label) or None,
    )


def _explained(error: EcgscanError, spec: RunSpec) -> EcgscanError:
    """Add what only the driver knows: which recordings were in the batch, and which checkpoint is left."""
    if isinstance(error, DamagedCheckpoint):
        return RunError(error.what, where=spec.out, fix="The same command goes on from the newest whole checkpoint.")
    if not isinstance(error, NotFiniteError):
        return error
    ids, done = _batch_ids(error.step, spec), registered_step(spec.out)
    saved = f"The checkpoint of step {done} is good" if done else "No checkpoint was saved before"
    what = f"{error.what}, a batch of {len(ids)} recordings ({', '.join(ids[:4])}, ...)"
    fix = f"{saved}; lower training.learning_rate or raise training.warmup_steps, in another --out."
    return WorkError(what, where=spec.out, fix=fix)


def _batch_ids(step: int, spec: RunSpec) -> list[str]:
    """Ids of the recordings in the global batch of a step, counted from 1."""
    batch = spec.config.training.global_batch_size
    return read_span(spec.store, spec.plan(), (step - 1) * batch, step * batch)["id"].to_pylist()


def _checkpoint_policy(config: Config) -> CheckpointConfig:
    """Best and last; where nothing is validated, the last two."""
    if config.training.validation_rows:
        return CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="validation.score")
    return CheckpointConfig(num_to_keep=2)


def _make_tokenizer(config: Config, teacher_digest: str | None, store: str, manifest: Manifest) -> str:
    """The tokenizer of a new run as JSON: its teacher's, the named text encoder's, or one fitted to the reports."""
    if teacher_digest is not None:
        return teacher_tokenizer(config.teacher.run or "")
    if config.model.text.name == "small":
        rows = iterate_rows(store, manifest, "train", limit=MAX_TOKENIZER_REPORTS)
        reports = [text.normalise(row.report or "") for row in rows if text.is_finding(row.report)]
        tokenizer = text.fit_tokenizer(reports, config.model.text.vocab_size)
    else:
        tokenizer = text.load_tokenizer(config.model.text.name)
    return tokenizer.to_str()
