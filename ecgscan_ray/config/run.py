"""Settings of how a run goes: stream, training, resources, evaluation."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from ecgscan_ray.config.section import Section


class StreamConfig(Section):
    """How rows become batches (rooms ``store``, ``runtime``)."""

    unit_rows: int | None = Field(None, ge=1)
    """Rows that one rendering task turns into one block; none = the largest divisor of a worker's share of the batch whose
    block is at most 32 MB."""
    window_row_groups: int = Field(4, ge=1)
    """Parquet row groups gathered in one window, inside which rows are permuted."""
    prefetch_units: int = Field(8, ge=1)
    """Units fetched ahead by each trainer."""
    stall_timeout_s: float = Field(60.0, gt=0)
    """After this time without a unit the log names the stage that waits, and what for."""


class AugmentConfig(Section):
    """What is done to leads and reports before they are embedded, so that recordings are not memorised."""

    lead_dropout: float = Field(0.5, ge=0, le=1)
    """Largest share of leads that are dropped; drawn for each recording."""
    gain: float = Field(0.2, ge=0)
    """Standard deviation of the logarithm of the gain."""
    noise_mv: float = Field(0.05, ge=0)
    """Largest standard deviation of the noise."""
    token_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of a report's tokens that are left out."""


class TrainingConfig(Section):
    """Optimiser, schedule, bookkeeping (room ``training``)."""

    global_batch_size: int = Field(96, ge=2)
    """Rows in the batch over all workers: the negatives of the contrastive loss."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps of the run; give this or ``epochs``."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the training rows."""
    learning_rate: float = Field(1.5e-3, gt=0)
    """Highest learning rate, after the warm-up."""
    min_learning_rate_ratio: float = Field(0.01, ge=0, le=1)
    """Where the cosine ends, as a share of ``learning_rate``."""
    warmup_steps: int = Field(30, ge=0)
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = Field(0.05, ge=0)
    """Of AdamW."""
    beta2: float = Field(0.98, gt=0, lt=1)
    """Of AdamW."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Factor between the learning rates of a layer of the tower that embeds pages (image or signal) and of the one above; 1 =
    the same for all. For towers with trained first weights, whose lower layers need little change."""
    frozen_layers: int = Field(0, ge=0)
    """Layers of that tower, from its input on (as timm counts them), that keep their first weights."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Weight of the old value, at each step, in a running average of the weights, which is then what is validated, saved and
    exported; less in the first steps. 0 = no average."""
    micro_batch: int | None = Field(None, ge=1)
    """Rows that the towers of one worker see at once; none = all. Fewer rows need less memory and twice the forward work;
    the loss is still that of the whole batch (GradCache)."""
    activation_checkpointing: bool = False
    """Keep the inputs of the towers' blocks (a transformer's layers, residual blocks) alone and compute their activations again
    for the backward pass: much less memory, a third more work, the same loss."""
    compile: bool = False
    """``torch.compile`` of the towers' blocks: worth its minutes on GPUs, in long runs."""
    term_gradients_every: int = Field(100, ge=0)
    """Steps between measurements of each loss term's gradient norm at the image tower; 0 = never. Not where the model is shared
    out (``resources.shard_model``)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` = bf16 only where a probe shows that the hardware multiplies in bf16 faster than in fp32."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of metrics."""
    sinks: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Where metrics go besides the run folder's own files."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints; the last step always has one."""
    validation_rows: int = Field(256, ge=0)
    """``validation.score`` is measured on at most this many validation recordings with every checkpoint; 0 = never."""
    validate_beside: bool = False
    """Measure the stored checkpoint in a process of its own while training goes on, not between two steps. A checkpoint that is
    no longer the newest when its turn comes is left out. Trials of a sweep or an ablation are measured between steps."""
    augment: AugmentConfig = AugmentConfig()
    drop_signal_fraction: float = Field(0.0, ge=0, le=1)
    """Share of patients whose recorded signals the objective never sees, as if only their pages were available."""
    shuffle_pairs: bool = False
    """Control: pair each page with another recording's signal and report, so that nothing can be learned."""

    @property
    def validates_beside(self) -> bool:
        """Whether checkpoints are measured while training goes on."""
        return self.validate_beside and self.validation_rows > 0

    @property
    def validates_between(self) -> bool:
        """Whether they are measured between two steps."""
        return not self.validate_beside and self.validation_rows > 0

    @model_validator(mode="after")
    def _one_length(self) -> TrainingConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of training.steps and training.epochs")
        return self


class ResourceConfig(Section):
    """Workers, CPUs, GPUs, memory, failures (room ``runtime``)."""

    num_workers: int = Field(1, ge=1)
    """Ray Train workers."""
    min_workers: int | None = Field(None, ge=1)
    """Given = the number of workers follows the cluster, between this and ``num_workers``: as many as it has room for, of those
    that divide ``num_workers``. None = it is fixed."""
    use_gpu: bool = False
    """One GPU for each training worker."""
    shard_model: bool = False
    """Each training worker keeps a share of weights, gradients and AdamW's moments (FSDP2), for towers that do not fit one GPU
    otherwise. Checkpoints are whole: a run goes on with any number of workers, and without."""
    cpus_per_worker: float = Field(0.5, ge=0)
    """Ray's logical CPUs a training worker reserves."""
    torch_threads: int | None = Field(None, ge=1)
    """Threads of torch in a training worker; none = the machine's cores."""
    validation_gpus: float = Field(0.0, ge=0, le=1)
    """GPU, or share of one, of the process that validates beside training (``training.validate_beside``); 0 = ``cpus_per_worker``
    CPUs alone."""
    render_actors: int = Field(2, ge=1)
    """Processes that render pages."""
    max_pipelines: int = Field(1, ge=1)
    """Streams of Ray Data, each with a coordinator of its own, for an equal part of the workers and of each batch; as many as
    divide the number of workers. One hands on some 130 units a second. A row group is read by each of them that has rows of its
    window: none is read twice where a window (``stream.window_row_groups``) has no more rows than such a part."""
    cpus_per_render_actor: float = Field(0.3, gt=0)
    """Ray's logical CPUs that each of them reserves."""
    cpus_per_read: float = Field(0.25, gt=0)
    """Ray's logical CPUs that each process reserves that reads the store; there is one for ten that render."""
    local_cpus: int | None = Field(None, ge=1)
    """Logical CPUs of a cluster started by the command itself; none = at least 4."""
    object_store_mb: int = Field(400, ge=80)
    """Object store of a cluster started by the command itself, MB (for each trial that a sweep runs at a time)."""
    max_failures: int = Field(3, ge=-1)
    """Restarts after a lost worker, or of a trial's own process; -1 = no limit."""
    train_label: dict[str, str] = {}
    """Node labels that training workers require (empty on one machine)."""
    render_label: dict[str, str] = {}
    """Node labels that reading and rendering require (empty on one machine)."""

    @model_validator(mode="after")
    def _shares_stay_whole(self) -> ResourceConfig:
        if self.min_workers is not None and self.num_workers % self.min_workers:
            allowed = ", ".join(str(workers) for workers in _divisors(self.num_workers))
            raise ValueError(
                f"min_workers={self.min_workers} does not divide num_workers={self.num_workers}: give one of {allowed}"
            )
        return self

    @property
    def worker_counts(self) -> list[int]:
        """Numbers of workers that the run may have, the least first; units and batch are cut for the most."""
        if self.min_workers is None:
            return [self.num_workers]
        return [workers for workers in _divisors(self.num_workers) if workers >= self.min_workers]

    @property
    def pipelines(self) -> int:
        """Streams: at most ``max_pipelines``, each with a process that renders, for any number of workers."""
        most = min(self.max_pipelines, self.render_actors)
        return max(part for part in _divisors(math.gcd(*self.worker_counts)) if part <= most)


def _divisors(number: int) -> list[int]:
    return [part for part in range(1, number + 1) if number % part == 0]


class EvaluationConfig(Section):
    split: Literal["validation", "test"] = "test"
    """Recordings that are measured."""
    bootstrap: int = Field(1000, ge=10)
    """Resamples of patients behind each 95 % interval."""
    batch_size: int = Field(64, ge=1)
    """Recordings in one forward pass."""
    probe_views: int = Field(2, ge=1)
    """Pages drawn of each training recording for the linear probe."""
    probe_rows: int = Field(20_000, ge=1)
    """At most this many training recordings (and validation recordings) behind the linear probe."""
    pages_shown: int = Field(12, ge=1)
    """Pages on the report's sheet."""
    redrawn_shown: int = Field(3, ge=1)
    """Recordings whose redrawn leads are plotted."""
