"""The processes of a run and what each of them holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from ecgscan_ray.config import Config

RENDERERS_A_READER = 10
"""Processes that render for each one that reads the store: unpacking a row takes about a tenth of the time of drawing it."""


@dataclass(frozen=True)
class Need:
    """One process of the run.

    Attributes:
        part: What it does, for messages.
        resources: ``CPU`` and ``GPU`` that it holds.
        labels: Selectors of the node that it may run on: ``x``, ``!x``, ``in(x,y)``, ``!in(x,y)``.
    """

    part: str
    resources: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)


def num_readers(config: Config) -> int:
    """Processes that read the store; each pipeline has one at least."""
    return max(-(-config.resources.render_actors // RENDERERS_A_READER), config.resources.pipelines)


def shares(processes: int, pipelines: int) -> list[int]:
    """How many of the processes each pipeline has."""
    return [processes * (index + 1) // pipelines - processes * index // pipelines for index in range(pipelines)]


def needs(config: Config, num_workers: int | None = None) -> list[Need]:
    """The processes that train, render, read and validate, all at the same time.

    Args:
        config: Of the run.
        num_workers: Training workers; none = as many as the run may have.
    """
    resources = config.resources
    worker = {"CPU": resources.cpus_per_worker, "GPU": float(resources.use_gpu)}
    return [
        *[Need("trainer", worker, resources.train_label)] * (num_workers or resources.num_workers),
        *[Need("renderer", {"CPU": resources.cpus_per_render_actor}, resources.render_label)] * resources.render_actors,
        *[Need("reader", {"CPU": resources.cpus_per_read}, resources.render_label)] * num_readers(config),
        *[validator(config)] * config.training.validates_beside,
    ]


def validator(config: Config) -> Need:
    """The process that validates beside training."""
    resources = config.resources
    labels = resources.train_label if resources.validation_gpus else resources.render_label
    return Need("validator", {"CPU": resources.cpus_per_worker, "GPU": resources.validation_gpus}, labels)
