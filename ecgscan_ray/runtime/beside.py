"""Validation beside training: a process of its own measures each checkpoint once it is stored. Loads no torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import ray
from ray.train import Checkpoint, ValidationConfig

from ecgscan_ray.filesystem import join, list_files
from ecgscan_ray.runs.checkpoints import write_score
from ecgscan_ray.runs.metrics import write_validation
from ecgscan_ray.runs.names import CHECKPOINTS, STATE
from ecgscan_ray.runs.needs import validator
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.runtime.failures import root_cause


def beside_training(spec: RunSpec) -> ValidationConfig | None:
    """Ray Train's part: it calls a function for one stored checkpoint after the other, and waits for the last one."""
    if not spec.config.training.validates_beside:
        return None
    return ValidationConfig(partial(_validate, spec), ray_remote_kwargs={"num_cpus": 0})


def _validate(spec: RunSpec, checkpoint: Checkpoint) -> dict[str, float]:
    return validate_stored(spec, join(spec.out, CHECKPOINTS, Path(checkpoint.path).name))


def validate_stored(spec: RunSpec, uri: str) -> dict[str, float]:
    """Measure a stored checkpoint and keep its scores. Whatever fails is kept in their place, and ends nothing.

    Args:
        spec: Of the run.
        uri: Of the checkpoint's folder.

    Returns:
        ``validation.*``; empty where it failed, or where the checkpoint is not the newest any more.
    """
    step = int(uri.rpartition("_")[2])
    try:
        if uri.rpartition("/")[2] != _newest(spec.out):
            return {}
        need = validator(spec.config)
        process = ray.remote(measure_checkpoint).options(
            num_cpus=need.resources["CPU"],
            num_gpus=need.resources["GPU"],
            label_selector=dict(need.labels) or None,
            max_retries=1,
        )
        scores: dict[str, float] = ray.get(process.remote(spec, uri))
        if "validation.score" in scores:
            write_score(uri, scores["validation.score"])
        write_validation(spec.folder, step, scores)
    except Exception as error:  # also that the process was killed
        write_validation(spec.folder, step, {"error": str(root_cause(error, uri))})
        return {}
    return scores


def _newest(out: str) -> str:
    """Name of the last checkpoint that is stored; names are in the order of the steps."""
    files = list_files(join(out, CHECKPOINTS), recursive=True)
    return max(name for name in files if name.endswith(f"/{STATE}")).rpartition("/")[0]


def measure_checkpoint(spec: RunSpec, uri: str) -> dict[str, float]:
    """The scores of a stored checkpoint, in the process that loads torch."""
    from ecgscan_ray.runtime.validation import measure

    return measure(spec, uri)
