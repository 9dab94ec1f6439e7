"""The step loop. No Ray in it: an iterator of batches, a model, an objective, an optimiser, a reporter.

Order of one step: batch, forward, loss, backward, clip, optimiser, schedule. All ranks report; none skips a step alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ecgscan_ray.batch import Batch
from ecgscan_ray.config import Config
from ecgscan_ray.distributed import global_sum, rank, world_size
from ecgscan_ray.errors import NotFiniteError, WorkError
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.teacher import Teacher
from ecgscan_ray.objective.metrics import batch_metrics
from ecgscan_ray.objective.objective import Objective
from ecgscan_ray.objective.teacher import TeacherObjective, teacher_metrics
from ecgscan_ray.training.checkpoint import TrainingState, not_finite, restore, save_checkpoint
from ecgscan_ray.training.gradients import GradCache, Loss, Tensors
from ecgscan_ray.training.meters import Meter, RunLog, mean_over_ranks
from ecgscan_ray.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from ecgscan_ray.training.precision import choose_precision
from ecgscan_ray.training.tensors import to_device

Validate = Callable[[nn.Module], dict[str, float]]
MetricsFn = Callable[[Any, Tensors], Tensors]
"""(model's output, batch) -> metrics that are no losses."""


class Reporter(Protocol):
    """The loop's link to whoever runs it; every rank calls ``report`` the same number of times."""

    def last_checkpoint(self) -> Path | None:
        """Local folder of the checkpoint to go on from."""

    def new_folder(self) -> Path:
        """An empty local folder for a checkpoint."""

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Hand over metrics and (rank 0) a checkpoint folder, which the receiver may move."""

    def should_stop(self, step: int, metrics: dict[str, float]) -> bool:
        """Asked at each report; the same answer on every rank."""


@dataclass(frozen=True)
class Job:
    """What one worker group has to do."""

    config: Config
    total_steps: int
    tokenizer_json: str
    manifest_digest: str


def build_loss(config: Config) -> tuple[Loss, MetricsFn]:
    """What the config's task makes small, and what else it measures."""
    if config.task == "teach":
        return TeacherObjective(config), teacher_metrics
    return Objective(config.objective), batch_metrics


def expected_positions(config: Config, step: int) -> np.ndarray:
    """Plan positions of this rank's rows at ``step``: unit j of the run belongs to rank j mod W."""
    unit, batch, workers = config.stream.unit_rows, config.training.global_batch_size, world_size()
    starts = step * batch + (np.arange(batch // (unit * workers)) * workers + rank()) * unit
    return (starts[:, None] + np.arange(unit)).reshape(-1)


def train(
    job: Job,
    model: ECGScan | Teacher,
    batches: Iterable[Batch],
    reporter: Reporter,
    *,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    validate: Validate | None = None,
    log: RunLog | None = None,
) -> None:
    """Train from the reporter's last checkpoint to ``job.total_steps``.

    Args:
        job: Config, length, tokenizer, digest of the manifest.
        model: On the device.
        batches: This rank's batches from the checkpoint's cursor on; positions are checked.
        reporter: Where metrics and checkpoints go.
        device: Of the model.
        wrap: Makes the model data-parallel.
        validate: Measures ``validation.*`` on rank 0.
        log: Metric lines (rank 0 only).

    Raises:
        NotFiniteError: A loss, a gradient or a weight is not finite.
        WorkError: The stream ends early or skips rows, or a checkpoint cannot be written.
    """
    config, training = job.config, job.config.training
    (objective, measure), optimizer = build_loss(config), build_optimizer(model, training)
    folder = reporter.last_checkpoint()
    first = restore(folder, model, optimizer).step if folder else 0
    precision = choose_precision(training.precision, device)
    gradients = GradCache(model, wrap(model), objective, training.micro_batch, precision)
    meter, source, clock = Meter(), iter(batches), _Clock()
    norms: dict[str, Tensor] = {}
    model.train()
    for step in range(first, job.total_steps):
        with clock.waiting():
            batch = _next_batch(source, step, config)
        seed = hash((config.seed, step, rank())) & 0x7FFFFFFF  # dropout: the same after a resume
        tensors = to_device(batch, device, config.model.signal_fs)
        if training.drop_signal_fraction:
            _drop_signals(tensors, training.drop_signal_fraction)
        if training.shuffle_pairs:
            _shuffle_pairs(tensors)
        set_learning_rate(optimizer, learning_rate(step, job.total_steps, training))
        optimizer.zero_grad(set_to_none=True)
        due = training.term_gradients_every and step % training.term_gradients_every == 0
        output, losses, measured = gradients(tensors, step / job.total_steps, seed, per_term_norms=bool(due))
        norms |= measured
        grad_norm = nn.utils.clip_grad_norm_(model.parameters(), training.grad_clip_norm)
        optimizer.step()
        model.clamp_scales()
        meter.add({**losses, "grad_norm": grad_norm})
        clock.tick(training.global_batch_size)

        done = step + 1
        saves = done % training.checkpoint_every == 0 or done == job.total_steps
        if done % training.log_every == 0 or saves:
            means = _raise_if_not_finite(*meter.read(), done)
            figures = clock.read()
            of_ranks: dict[str, Tensor | float] = {
                **measure(output, tensors),
                "data_wait_share": figures["data_wait_share"],
            }
            of_ranks["bad_pages"] = float((~batch["page_ok"]).sum()) * world_size()
            metrics = means | figures | mean_over_ranks(of_ranks, device)
            metrics |= {name: value.item() for name, value in norms.items()}  # of all ranks already
            norms = {}
            metrics["learning_rate"] = optimizer.param_groups[0]["lr"]
            metrics["batch_fingerprint"] = batch_fingerprint(tensors["recording_key"])
            if log:
                log.write("train", done, metrics)
                steps = {"step": done, "total_steps": job.total_steps}
                log.progress({"task": config.task, "precision": precision, **steps, **metrics})
        if saves and not _save(job, model, optimizer, done, reporter, validate, log, metrics):
            break
    if log:
        log.close()


def _next_batch(source: Iterator[Batch], step: int, config: Config) -> Batch:
    batch = next(source, None)
    if batch is None:
        raise WorkError(f"the stream ended before step {step + 1}")
    expected = expected_positions(config, step)
    if not np.array_equal(batch["position"], expected):
        raise WorkError(
            f"the stream gave plan position {int(batch['position'][0])} where step {step + 1} of rank {rank()} needs "
            f"{int(expected[0])}: rows would be lost or repeated"
        )
    return batch


def _drop_signals(tensors: dict[str, Tensor], share: float) -> None:
    """Experiment: of this share of known patients only the pages are there, in every epoch the same ones."""
    place = (tensors["patient_key"] % 10_007) / 10_007
    tensors["has_signal"] = tensors["has_signal"] & ((place >= share) | (tensors["patient_key"] < 0))


def _shuffle_pairs(tensors: dict[str, Tensor]) -> None:
    """Control experiment: each page meets its neighbour's signal and report, anew every epoch."""
    of_a_recording = ("signal_mv", "centred_mv", "valid", "token_ids", "attention_mask", "has_text", "has_signal")
    for name in (*of_a_recording, "teacher_signal", "teacher_report"):
        if name in tensors:
            tensors[name] = tensors[name].roll(1, dims=0)


def batch_fingerprint(recording_keys: Tensor) -> int:
    """A number that tells the set of rows in the global batch: the same for any number of workers."""
    return int(global_sum(recording_keys.sum())) % 2**53


def _raise_if_not_finite(means: dict[str, float], steps_ago: int, done: int) -> dict[str, float]:
    """The means, the same on every rank, unless one is NaN or infinite: then nothing more is saved."""
    wrong = [name for name, value in means.items() if not np.isfinite(value)]
    if wrong:
        step = done - steps_ago
        raise NotFiniteError(f"{', '.join(wrong)} not finite at step {step}", step=step)
    return means


def _check_weights(model: nn.Module, done: int) -> None:
    """A step of infinite length shows in the weights first: they are looked at before they are saved."""
    if not_finite(dict(model.named_parameters()), model.state_dict()):
        raise NotFiniteError(f"weights not finite at step {done}", step=done)


def _save(
    job: Job,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    done: int,
    reporter: Reporter,
    validate: Validate | None,
    log: RunLog | None,
    metrics: dict[str, float],
) -> bool:
    """Validate, write a checkpoint, report on all ranks; False = stop here."""
    _check_weights(model, done)
    folder, scores = None, {}
    if rank() == 0:
        if validate:
            model.eval()
            scores = validate(model)
            model.train()
        if log:
            log.write("validation", done, scores) if scores else None
            log.flush()
        folder = reporter.new_folder()
        batch = job.config.training.global_batch_size
        state = TrainingState(
            step=done,
            cursor=done * batch,
            samples_seen=done * batch,
            world_size=world_size(),
            config_digest=job.config.digest(),
            manifest_digest=job.manifest_digest,
            score=scores.get("validation.score"),
        )
        save_checkpoint(folder, model, optimizer, job.config, job.tokenizer_json, state)
    reported = {"step": done, **metrics, **scores}
    reporter.report(reported, folder)
    return not reporter.should_stop(done, reported)


class _Clock:
    """Throughput and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._images, self._steps, self._waited, self._start = 0, 0, 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        entered = time.perf_counter()
        yield
        self._waited += time.perf_counter() - entered

    def tick(self, images: int) -> None:
        self._images, self._steps = self._images + images, self._steps + 1

    def read(self) -> dict[str, float]:
        """Figures since the last call."""
        passed = time.perf_counter() - self._start
        figures = {
            "images_per_s": self._images / passed,
            "data_wait_share": self._waited / passed,
            "step_s": passed / max(self._steps, 1),
            "seconds": passed,
        }
        self._restart()
        return figures
