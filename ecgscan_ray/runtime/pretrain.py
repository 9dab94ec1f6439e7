"""Training as a Ray Train job, of page encoders and of teachers: the stream into the step loop, on 1..N workers, to the end."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import ray
import ray.train
import ray.train.collective
import torch
from ray.train import Checkpoint, CheckpointConfig, DataConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import get_device
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.config import Config
from ecgscan_ray.cores import set_torch_threads
from ecgscan_ray.errors import ConfigError, EcgscanError, NotFiniteError, RunError, WorkError
from ecgscan_ray.evaluation.score import teacher_score, validation_score
from ecgscan_ray.filesystem import absolute, exists, join, open_filesystem, read_bytes, write_bytes_atomic
from ecgscan_ray.filesystem.lease import exclusive
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.external import load_external, trust, trusted
from ecgscan_ray.model.signal_encoder import SignalEncoder
from ecgscan_ray.model.teacher import Teacher
from ecgscan_ray.runtime import run_folder, stream
from ecgscan_ray.runtime.attend import attend
from ecgscan_ray.runtime.cluster import check_address, start_ray
from ecgscan_ray.runtime.embeddings import (
    TeacherEmbeddings,
    compute_or_load_teacher_embeddings,
    teacher_tokenizer,
    with_teacher_settings,
)
from ecgscan_ray.runtime.failures import Trainer, lasting
from ecgscan_ray.runtime.fit_to_store import fit_to_store
from ecgscan_ray.runtime.progress import ProgressLine
from ecgscan_ray.runtime.registered import registered_step, use_newest_whole
from ecgscan_ray.runtime.run_folder import total_steps
from ecgscan_ray.store.manifest import Manifest, read_manifest
from ecgscan_ray.store.shards import iterate_rows
from ecgscan_ray.training.checkpoint import DamagedCheckpoint, build_trained, load_run, load_teacher
from ecgscan_ray.training.loop import Job, train
from ecgscan_ray.training.meters import RunLog
from ecgscan_ray.training.scratch import clear_scratch, scratch
from ecgscan_ray.training.tensors import to_device

logger = logging.getLogger(__name__)

VALIDATION_EPOCH = 2**31
"""Epoch number behind the keys of validation pages: the same pages at every checkpoint, none of them trained on."""

MAX_TOKENIZER_REPORTS = 200_000

StopRule = Callable[[int, dict[str, float]], bool]
"""(step, metrics) -> whether the run should end here; asked with every checkpoint."""


@dataclass(frozen=True)
class WorkerArguments:
    """What each training worker gets."""

    job: Job
    store: str
    out: str
    manifest: Manifest
    init_from: str | None
    said: TeacherEmbeddings | None
    stop_rule: StopRule | None
    trusted: tuple[str, ...]
    """Modules whose code the settings may run."""


def teach(config: Config, store: str, out: str, **options: Any) -> None:
    """Pretrain the signal-text teacher: the same job without pages; takes what ``pretrain`` takes.

    Raises:
        ConfigError: The signal encoder of others that the settings name does not answer as it should.
    """
    if config.teacher.encoder is not None:
        load_external(config.teacher.encoder)  # its check, before anything is begun
    pretrain(config.model_copy(update={"task": "teach"}), store, out, **options)


def pretrain(
    config: Config,
    store: str,
    out: str,
    *,
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
        fresh: Refuse a folder that is not empty.
        init_from: Run to take the first weights from.
        callbacks: Ray Train callbacks (a sweep's reporter).
        stop_rule: Ends the run early, e.g. when a sweep's trial falls behind.
        quiet: No progress line.

    Raises:
        InputError: Settings, store or folder cannot be used.
        WorkError: Training failed.
    """
    check_address()
    store, out, init_from = absolute(store), absolute(out), absolute(init_from) if init_from else None
    manifest = read_manifest(store)
    if config.task == "pretrain" and config.teacher.run:
        config = with_teacher_settings(config)
    stream.Source(config, store, manifest, "").plan()
    config = fit_to_store(config, store, manifest)
    with exclusive(out, f"ecgscan {config.task}"):
        standing = run_folder.open_run(out, config, manifest, store, fresh)
        if standing == "finished":
            logger.info("%s: finished already; nothing to do", out)
            return
        run_folder.remove_unfinished_writes(out)
        clear_scratch()
        try:
            _train(config, store, manifest, out, standing, init_from, list(callbacks), stop_rule, quiet)
        finally:
            clear_scratch(out)


def _train(
    config: Config,
    store: str,
    manifest: Manifest,
    out: str,
    standing: run_folder.RunStatus,
    init_from: str | None,
    callbacks: list[Any],
    stop_rule: StopRule | None,
    quiet: bool,
) -> None:
    """The rest of the run in a folder that is ours."""
    steps, done = total_steps(config, manifest), use_newest_whole(out)
    tokenizer_json = _tokenizer(config, store, manifest, out)
    _refuse_batch_norm(config, tokenizer_json)
    start_ray(config.resources)
    stream.preflight(config)
    job = Job(config, steps, tokenizer_json, manifest.digest())
    said = compute_or_load_teacher_embeddings(config, store, manifest) if config.teacher.digest else None
    source = stream.Source(config, store, manifest, tokenizer_json, said=said.folder if said else None)
    if standing == "unfinished":
        logger.info("%s: going on from step %d of %d", out, done, steps)
    if done < steps:
        arguments = WorkerArguments(job, store, out, manifest, init_from, said, stop_rule, trusted())
        _fit(arguments, source, callbacks, quiet)
    finished = json.dumps({"step": registered_step(out)})
    write_bytes_atomic(join(out, run_folder.FINISHED), finished.encode())


def _refuse_batch_norm(config: Config, tokenizer_json: str) -> None:
    """Statistics of a part of the batch would make the outcome depend on the number of workers.

    On GPUs batch norm is synchronised; CPUs have no such layer.

    Raises:
        ConfigError: Several CPU workers and a model with batch norm.
    """
    if config.resources.num_workers == 1 or config.resources.use_gpu:
        return
    model = build_trained(config, text.parse_tokenizer(tokenizer_json))
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise ConfigError(
            f"'{config.model.image.name}' has batch norm, which several CPU workers cannot share",
            where="model.image.name",
            fix="Use resources.num_workers=1, GPUs, or a model with layer or group norm (e.g. convnext_atto).",
        )


def _fit(arguments: WorkerArguments, source: stream.Source, callbacks: list[Any], quiet: bool) -> None:
    config, out = source.config, arguments.out
    filesystem, path = open_filesystem(out)
    resources = config.resources
    batch = config.training.global_batch_size

    def rest_of_the_run() -> ray.data.Dataset:
        """Called whenever a worker group is set up: what the last registered checkpoint has not consumed."""
        return stream.build(source, registered_step(out) * batch, arguments.job.total_steps * batch)

    worker: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.use_gpu:
        worker["GPU"] = 1
    trainer = Trainer(
        _worker,
        train_loop_config={"arguments": arguments},
        scaling_config=ScalingConfig(
            num_workers=resources.num_workers,
            use_gpu=resources.use_gpu,
            resources_per_worker=worker,
            label_selector=dict(resources.train_label) or None,
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=resources.max_failures),
            checkpoint_config=_checkpoint_policy(config),
            callbacks=callbacks,
        ),
        datasets={"train": rest_of_the_run},
        dataset_config=DataConfig(execution_options=stream.execution_options(config)),
    )
    try:
        with ProgressLine(out, enabled=not quiet):
            attend(trainer.fit, out, "The same command goes on from the last checkpoint.")
    except EcgscanError as error:
        cause = lasting(error.__cause__) if error.__cause__ else None
        raise _told(cause or error, source, out) from error


def _told(error: EcgscanError, source: stream.Source, out: str) -> EcgscanError:
    """What the driver alone knows: which recordings were in the batch, and what there is to go on from."""
    if isinstance(error, DamagedCheckpoint):
        return RunError(error.what, where=out, fix="The same command goes on from the newest whole checkpoint.")
    if not isinstance(error, NotFiniteError):
        return error
    ids = _ids_at(error.step, source)
    done = registered_step(out)
    saved = f"The checkpoint of step {done} is good" if done else "No checkpoint was saved before"
    what = f"{error.what}, a batch of {len(ids)} recordings ({', '.join(ids[:4])}, ...)"
    fix = f"{saved}; lower training.learning_rate or raise training.warmup_steps, in another --out."
    return WorkError(what, where=out, fix=fix)


def _ids_at(step: int, source: stream.Source) -> list[str]:
    """Ids of the recordings in the global batch of a step, counted from 1."""
    batch = source.config.training.global_batch_size
    return stream.read_span(source.store, source.plan(), (step - 1) * batch, step * batch)["id"].to_pylist()


def _checkpoint_policy(config: Config) -> CheckpointConfig:
    """Best and last; where nothing is validated, the last two."""
    if config.training.validation_rows:
        return CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="validation.score")
    return CheckpointConfig(num_to_keep=2)


def _tokenizer(config: Config, store: str, manifest: Manifest, out: str) -> str:
    """The run's tokenizer as JSON: kept in its folder; its teacher's, the named encoder's, or fitted on the reports."""
    uri = join(out, "tokenizer.json")
    if exists(uri):
        return read_bytes(uri).decode()
    if config.task == "pretrain" and config.teacher.run:
        write_bytes_atomic(uri, teacher_tokenizer(config.teacher.run).encode())
        return read_bytes(uri).decode()
    if config.model.text.name == "small":
        rows = iterate_rows(store, manifest, "train", limit=MAX_TOKENIZER_REPORTS)
        reports = [text.normalise(row.report or "") for row in rows if text.is_finding(row.report)]
        tokenizer = text.fit_tokenizer(reports, config.model.text.vocab_size)
    else:
        tokenizer = text.load_tokenizer(config.model.text.name)
    write_bytes_atomic(uri, tokenizer.to_str().encode())
    return tokenizer.to_str()


def _worker(loop_config: dict[str, Any]) -> None:
    """One training worker's life."""
    arguments: WorkerArguments = loop_config["arguments"]
    with scratch(arguments.out) as local:
        _work(arguments, local)


def _work(arguments: WorkerArguments, local: Path) -> None:
    job, config = arguments.job, arguments.job.config
    trust(arguments.trusted)
    context = ray.train.get_context()
    set_torch_threads(config.resources.torch_threads)
    device = get_device()
    tokenizer = text.parse_tokenizer(job.tokenizer_json)
    model = build_trained(config, tokenizer)
    if ray.train.get_checkpoint() is None:
        _initialize_weights(model, arguments)
    model = model.to(device).to(memory_format=torch.channels_last)
    first = context.get_world_rank() == 0
    log = RunLog(arguments.out, local) if first else None
    shard = ray.train.get_dataset_shard("train")
    train(
        job,
        model,
        stream.batches(shard, config, context.get_world_size(), log.stalled if log else logger.warning),
        RayReporter(arguments.stop_rule, local),
        device=device,
        wrap=_data_parallel if context.get_world_size() > 1 else lambda module: module,
        validate=_validator(arguments, device) if first and config.training.validation_rows else None,
        log=log,
    )


def _initialize_weights(model: nn.Module, arguments: WorkerArguments) -> None:
    """Of the teacher, and of the run to start from: its pages' side alone where a teacher has the rest."""
    said, init_from = arguments.said, arguments.init_from
    if isinstance(model, Teacher):
        if init_from:
            model.load_state_dict(load_teacher(init_from).model.state_dict())
        return
    assert isinstance(model, ECGScan)
    if said is not None and model.teacher is not None:
        teacher = load_teacher(arguments.job.config.teacher.run or "").model
        model.teacher.load_teacher(teacher, torch.from_numpy(said.signal_mean), torch.from_numpy(said.report_mean))
        # redrawn leads are read as recorded ones
        if isinstance(teacher.signal_encoder, SignalEncoder):
            model.page.signal_encoder.load_state_dict(teacher.signal_encoder.state_dict())
    if init_from:
        loaded = load_run(init_from).model
        part, theirs = (model.page, loaded.page) if said else (model, loaded)
        part.load_state_dict(theirs.state_dict())


def _data_parallel(model: nn.Module) -> nn.Module:
    device = next(model.parameters()).device
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def _validator(arguments: WorkerArguments, device: torch.device) -> Callable[[nn.Module], dict[str, float]]:
    """Measures ``validation.score`` on pages that are drawn once and kept."""
    config = arguments.job.config
    score = teacher_score if config.task == "teach" else validation_score
    rows = list(iterate_rows(arguments.store, arguments.manifest, "validation", limit=config.training.validation_rows))
    maker = BatchMaker(config, text.parse_tokenizer(arguments.job.tokenizer_json))
    size = config.evaluation.batch_size
    kept = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        kept.append(maker.make(some, range(start, start + len(some)), [VALIDATION_EPOCH] * len(some)))
    fs = config.model.signal_fs
    return lambda model: score(model, (to_device(batch, device, fs) for batch in kept))


class RayReporter:
    """The loop's link to Ray Train.

    Args:
        stop_rule: Ends the run early.
        local: Folder on this machine for what is on its way.
    """

    def __init__(self, stop_rule: StopRule | None, local: Path) -> None:
        self._stop_rule, self._local = stop_rule, local
        self._resumed: Path | None = None

    def last_checkpoint(self) -> Path | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint:
            self._resumed = Path(checkpoint.to_directory(str(self._local / Path(checkpoint.path).name)))
        return self._resumed

    def new_folder(self) -> Path:
        return Path(mkdtemp(dir=self._local))

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        if self._resumed:  # long restored
            shutil.rmtree(self._resumed, ignore_errors=True)
        kept = Checkpoint.from_directory(str(checkpoint)) if checkpoint else None
        ray.train.report(metrics, checkpoint=kept, checkpoint_dir_name=f"checkpoint_{int(metrics['step']):09d}")
        if checkpoint:
            shutil.rmtree(checkpoint, ignore_errors=True)

    def should_stop(self, step: int, metrics: dict[str, float]) -> bool:
        if self._stop_rule is None:
            return False
        mine = self._stop_rule(step, metrics) if ray.train.get_context().get_world_rank() == 0 else False
        return bool(ray.train.collective.broadcast_from_rank_zero(mine))
