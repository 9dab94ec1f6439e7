"""The step loop. No Ray in it: an iterator of batches, a task, a model, a reporter.

Order of one step: batch, forward, loss, backward, clip, optimiser, schedule. All ranks report; none skips a step alone.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ecgscan_ray.batch import DeviceRows, Rows
from ecgscan_ray.config import Config
from ecgscan_ray.distributed import global_sum, rank, time_exchanges, world_size
from ecgscan_ray.errors import NotFiniteError, WorkError
from ecgscan_ray.precision import Precision, choose_precision
from ecgscan_ray.runs.checkpoints import TrainingState
from ecgscan_ray.runs.metrics import RunLog
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.training.average import WeightAverage
from ecgscan_ray.training.checkpoint import Snapshot, not_finite, restore, save_checkpoint
from ecgscan_ray.training.gradients import GradCache
from ecgscan_ray.training.loader import BatchLoader
from ecgscan_ray.training.meters import FiniteCheck, Meter, read_values
from ecgscan_ray.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from ecgscan_ray.training.reporter import Reporter, Validate
from ecgscan_ray.training.sharding import clip_gradients
from ecgscan_ray.training.task import ModelT, Tensors, TrainingTask
from ecgscan_ray.training.timing import PhaseTimer, exposed_gradient_exchange, peak_flops, peak_memory_mb
from ecgscan_ray.training.towers import prepare_towers, train_mode

logger = logging.getLogger(__name__)

GRAD_CLIP_NORM = 1.0
"""The gradient is scaled down to this norm where it is larger: one odd batch moves the weights no further than the others."""


def expected_positions(config: Config, step: int) -> np.ndarray:
    """Plan positions of this rank's rows at ``step``. int64 (rows,).

    Each pipeline has an equal run of the batch's units, and gives unit j of them to the j mod n-th of its n ranks.
    """
    unit, batch, workers = config.unit_rows, config.training.global_batch_size, world_size()
    ranks, units = workers // config.resources.pipelines, batch // unit
    pipeline, first = divmod(rank(), ranks)
    numbers = pipeline * ranks * (units // workers) + first + ranks * np.arange(units // workers)
    return (step * batch + numbers[:, None] * unit + np.arange(unit)).reshape(-1)


def train(
    spec: RunSpec,
    task: TrainingTask[ModelT],
    model: ModelT,
    batches: Iterable[Rows],
    reporter: Reporter,
    *,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model,
    validate: Validate | None = None,
    log: RunLog | None = None,
) -> None:
    """Train from the reporter's last checkpoint to ``spec.total_steps``.

    Args:
        spec: Of the run.
        task: Loss, metrics, and how its batches come to the device.
        model: On the device.
        batches: This rank's batches after the checkpoint's; positions are checked.
        reporter: Where metrics and checkpoints go.
        device: Of the model.
        wrap: Makes the model data-parallel.
        validate: Measures ``validation.*`` on rank 0.
        log: Metric lines (rank 0 only).

    Raises:
        NotFiniteError: A loss, a gradient or a weight is not finite.
        WorkError: The stream ends early or skips rows, or a checkpoint cannot be written.
    """
    training = spec.config.training
    trainer = _Trainer(spec, task, model, reporter, device, wrap, validate, log)
    loader = BatchLoader(iter(batches), trainer.to_device, device, trainer.timer, ahead=device.type == "cuda")
    while trainer.step < spec.total_steps:
        trainer.train_step(loader)
        checkpoint_due = trainer.step % training.checkpoint_every == 0 or trainer.step == spec.total_steps
        if checkpoint_due or trainer.step % training.log_every == 0:
            metrics = trainer.log_metrics()
            if checkpoint_due and not trainer.save_and_report(metrics):
                break
    reporter.close()
    if log:
        log.close()


class _Trainer:
    """State of a run between its steps."""

    def __init__(
        self,
        spec: RunSpec,
        task: TrainingTask[Any],
        model: nn.Module,
        reporter: Reporter,
        device: torch.device,
        wrap: Callable[[nn.Module], nn.Module],
        validate: Validate | None,
        log: RunLog | None,
    ) -> None:
        self.spec, self.config, self.training = spec, spec.config, spec.config.training
        self.task, self.model, self.reporter = task, model, reporter
        self.device, self.validate, self.log = device, validate, log
        self.sharded = self.config.resources.shard_model and world_size() > 1
        apart = self.sharded or self.training.ema_decay > 0  # what is evaluated is not the model that is trained
        self.evaluated = copy.deepcopy(model) if apart and validate else model
        prepare_towers(model, self.training)
        self.parallel = wrap(model)
        self.average = WeightAverage(model, self.training.ema_decay) if self.training.ema_decay else None
        self.optimizer = build_optimizer(model, self.training)
        before = self._restore()
        self.step = before.step if before else 0
        self.precision = self._same_precision(before.precision if before else None)
        loss, micro_batch = task.build_loss(self.config), self.training.micro_batch
        self.meter, self.timer, self.finite = Meter(), PhaseTimer(device), FiniteCheck(device)
        time_exchanges(partial(self.timer.within, "communication"))
        self.gradients = GradCache(model, self.parallel, loss, micro_batch, self.precision, self.timer)
        self.transforms = task.batch_transforms(self.config)
        self.term_norms: Tensors = {}

    def _restore(self) -> TrainingState | None:
        """Take up the reporter's last checkpoint, if there is one."""
        folder = self.reporter.last_checkpoint()
        state = restore(folder, self.model, self.optimizer, self.average) if folder else None
        train_mode(self.model)
        return state

    def _same_precision(self, before: Precision | None) -> Precision:
        """The same on every rank, and after a resume that of before: bf16 only where all ranks find it fast.

        A probe alone can end differently on a machine that is busy.
        """
        own = choose_precision(self.training.precision, self.device, before)
        votes = global_sum(torch.tensor(float(own == "fp32"), device=self.device))
        agreed: Precision = "fp32" if votes else "bf16"
        if rank() == 0 and before and agreed != before:
            logger.warning("going on in %s: the steps before were made in %s", agreed, before)
        return agreed

    def train_step(self, loader: BatchLoader) -> None:
        """One optimiser step on this rank's next batch."""
        self.batch = tensors = self._take(loader)
        self.timer.start("other")
        progress = self.step / self.spec.total_steps
        seed = hash((self.config.seed, self.step, rank())) & 0x7FFFFFFF  # dropout: the same after a resume
        set_learning_rate(self.optimizer, learning_rate(self.step, self.spec.total_steps, self.training))
        self.optimizer.zero_grad(set_to_none=True)
        self._diagnose(tensors, progress, seed)
        self.output, losses = self.gradients(tensors, progress, seed)
        self.timer.start("optimizer")
        grad_norm = clip_gradients(self.model, GRAD_CLIP_NORM)
        self._raise_if_not_finite()  # the step before: this one's flag is still on the device
        self.optimizer.step()
        self.task.after_step(self.model)
        self.finite.add(grad_norm)
        self.meter.add({**losses, "grad_norm": grad_norm})
        self.step += 1
        if self.average:
            self.average.update(self.model, self.step)
        self.timer.start("other")
        self.timer.add_step(self.training.global_batch_size)
        if self.step < self.spec.total_steps:
            loader.read_ahead()
            self.timer.start("other")

    def log_metrics(self) -> dict[str, float]:
        """Means since the last call, the same on every rank; one transfer from the device."""
        self._raise_if_not_finite()
        means = self.meter.means() | self.task.metrics(self.output, self.batch)
        figures = self._figures()
        of_ranks: dict[str, Tensor | float] = {**means, **figures, "bad_pages": float(self.bad_pages * world_size())}
        same = {**self.term_norms, "batch_fingerprint": batch_fingerprint(self.batch["recording_key"])}
        metrics = read_values(of_ranks, same, self.device)
        metrics["batch_fingerprint"] = int(metrics["batch_fingerprint"])
        metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        metrics["world_size"] = world_size()
        self.term_norms = {}
        if self.log:
            self.log.write("train", self.step, metrics)
            steps = {"step": self.step, "total_steps": self.spec.total_steps}
            self.log.progress({"rows": self.task.row_name, "precision": self.precision, **steps, **metrics})
        return metrics

    def save_and_report(self, metrics: dict[str, float]) -> bool:
        """Validate, write a checkpoint, report on all ranks; False = stop here."""
        wrong = not_finite(dict(self.model.named_parameters()), self.model.state_dict())  # a step of infinite length
        if global_sum(torch.tensor(float(len(wrong)), device=self.device)):
            raise NotFiniteError(f"weights not finite at step {self.step}", step=self.step)
        folder, scores = None, {}
        snapshot = Snapshot.of(self.model, self.optimizer, self.average)
        if rank() == 0:
            scores = self._validate(snapshot)
            folder = self.reporter.new_folder()
            state = self._state(scores.get("validation.score"))
            save_checkpoint(folder, snapshot, self.config, self.spec.tokenizer_json, state)
        reported = {"step": self.step, **metrics, **scores}
        self.reporter.report(reported, folder)
        return not self.reporter.should_stop(self.step, reported)

    def to_device(self, batch: Rows) -> DeviceRows:
        """A batch as tensors, with the task's changes."""
        tensors = self.task.to_device(batch, self.device, self.config)
        for transform in self.transforms:
            tensors = transform(tensors)
        return tensors

    def _take(self, loader: BatchLoader) -> DeviceRows:
        batch = loader.take()
        if batch is None:
            raise WorkError(f"the stream ended before step {self.step + 1}")
        expected = expected_positions(self.config, self.step)
        if not np.array_equal(batch.position, expected):
            raise WorkError(
                f"the stream gave plan position {int(batch.position[0])} where step {self.step + 1} of rank {rank()} "
                f"needs {int(expected[0])}: rows would be lost or repeated"
            )
        self.bad_pages = batch.bad_pages
        return batch.tensors

    def _figures(self) -> dict[str, float]:
        """Where the time went since the last call, and what the device did in it."""
        figures = self.timer.read()
        exchange = min(exposed_gradient_exchange(self.parallel), figures["backward_s"])
        figures["backward_s"] -= exchange
        figures["communication_s"] += exchange
        flops = self.gradients.flops_a_row * figures["images_per_s"] / world_size()
        figures |= {"model_tflops": flops / 1e12, "peak_memory_mb": peak_memory_mb(self.device)}
        if peak := peak_flops(self.device):
            figures["mfu"] = flops / peak
        return figures

    def _diagnose(self, tensors: DeviceRows, progress: float, seed: int) -> None:
        every = self.training.term_gradients_every
        if every and self.step % every == 0 and not self.sharded:
            module = self.task.diagnosed_module(self.model)
            self.term_norms = self.gradients.per_term_norms(module, tensors, progress, seed)

    def _raise_if_not_finite(self) -> None:
        """The last step made was not finite: every rank stops here, and says which of the means are not finite."""
        if not self.finite.is_finite():
            means = read_values(self.meter.means(), {}, self.device)
            wrong = [name for name, value in means.items() if not np.isfinite(value)]
            raise NotFiniteError(f"{', '.join(wrong)} not finite at step {self.step}", step=self.step)

    def _validate(self, snapshot: Snapshot) -> dict[str, float]:
        """Scores of the weights that are saved."""
        scores: dict[str, float] = {}
        if self.validate:
            if self.evaluated is not self.model:
                self.evaluated.load_state_dict(snapshot.weights)
            scores = self.validate(self.evaluated.eval())
            train_mode(self.model)
        if self.log and scores:
            self.log.write("validation", self.step, scores)
        return scores

    def _state(self, score: float | None) -> TrainingState:
        return TrainingState(
            step=self.step,
            samples_seen=self.step * self.training.global_batch_size,
            config_digest=self.config.digest(),
            task=self.task.name,
            score=score,
            precision=self.precision,
        )


def batch_fingerprint(recording_keys: Tensor) -> Tensor:
    """A number for the set of rows in the global batch: the same for any number of workers; below 2^53, exact in fp64."""
    return global_sum(recording_keys.sum()).remainder(2**53)
