"""Where the metrics of a run also go: TensorBoard, Weights & Biases, MLflow, each behind the same protocol.

A resumed run goes on in the same run of a tracker: its id is kept in the run folder.
"""

from __future__ import annotations

import importlib.util
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.filesystem import is_local, join, list_files, write_bytes_atomic
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.names import MLFLOW, TENSORBOARD, WANDB

PROJECT = "ecgscan"
"""Project of W&B and experiment of MLflow; ``WANDB_PROJECT`` and ``MLFLOW_EXPERIMENT_NAME`` name another one."""

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
"""Name in ``training.sinks`` -> module that it needs."""


class Sink(Protocol):
    """Receives what rank 0 measures. Called in the order of the steps; a resumed run repeats some steps."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take metrics by their full names, e.g. ``train/loss``."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Take a picture, uint8 (H, W, 3)."""

    def flush(self) -> None:
        """Make what was taken durable; called with each checkpoint."""

    def close(self) -> None:
        """Called once, after the last ``flush``."""


def check_sinks(names: Sequence[str]) -> None:
    """Refuse a sink whose package is not installed.

    Raises:
        ConfigError: With the command that installs it.
    """
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f"'{name}' needs a package that is not installed",
                where="training.sinks",
                fix=f"Run: pip install 'ecgscan-ray[{name}]'",
            )


def open_sinks(config: Config, folder: RunFolder, local: Path) -> dict[str, Sink]:
    """The sinks that ``training.sinks`` names.

    Args:
        config: Settings of the run; trackers show them.
        folder: Of the run.
        local: Folder on this machine for files on their way.
    """
    makers: dict[str, Callable[[Config, RunFolder, Path], Sink]] = {
        "tensorboard": TensorBoardSink,
        "wandb": WandbSink,
        "mlflow": MlflowSink,
    }
    return {name: makers[name](config, folder, local) for name in config.training.sinks}


def _upload(local: Path, uri: str) -> None:
    """Copy the files of a local folder to ``uri``."""
    for name in list_files(str(local), recursive=True):
        if not (local / name).is_symlink():
            write_bytes_atomic(join(uri, name), (local / name).read_bytes())


class TensorBoardSink:
    """Event files, written locally and copied to ``tensorboard/`` of the run folder; buckets cannot append."""

    def __init__(self, config: Config, folder: RunFolder, local: Path) -> None:
        from tensorboardX import SummaryWriter

        self._local, self._uri = local / TENSORBOARD, join(folder.uri, TENSORBOARD)
        self._writer = SummaryWriter(str(self._local), flush_secs=3600)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()
        _upload(self._local, self._uri)

    def close(self) -> None:
        self._writer.close()
        _upload(self._local, self._uri)  # tensorboardX's flush does not wait for what its own thread has still to write


class WandbSink:
    """Weights & Biases. ``WANDB_MODE=offline`` writes to ``wandb/`` of the run folder, for ``wandb sync``."""

    def __init__(self, config: Config, folder: RunFolder, local: Path) -> None:
        import wandb

        self._wandb, self._local, self._uri = wandb, local, join(folder.uri, WANDB)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=folder.sink_id("wandb", lambda: uuid.uuid4().hex[:8]),
            resume="allow",
            dir=str(local),
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(
                console="off", silent=True, x_disable_stats=True, disable_git=True, disable_code=True
            ),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._run.log({"step": step, name: self._wandb.Image(image)})

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()
        if self._run.offline:
            _upload(self._local / WANDB, self._uri)


class MlflowSink:
    """MLflow, at ``MLFLOW_TRACKING_URI``; where that is not set, files in ``mlruns/`` of a local run folder."""

    def __init__(self, config: Config, folder: RunFolder, local: Path) -> None:
        from mlflow import MlflowClient

        self._local = local
        self._client = MlflowClient(tracking_uri=_mlflow_uri(folder))
        self._id = folder.sink_id("mlflow", lambda: self._create_run(config, folder))
        self._client.update_run(self._id, status="RUNNING")

    def _create_run(self, config: Config, folder: RunFolder) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run_id = self._client.create_run(experiment_id, run_name=folder.name).info.run_id
        self._client.log_dict(run_id, config.model_dump(mode="json"), "config.json")
        return run_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [Metric(name, value, now, step) for name, value in values.items()])

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self._client.log_image(self._id, image, artifact_file=f"{name}/{step:09d}.png")

    def flush(self) -> None:
        """Each call has written already."""

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _mlflow_uri(folder: RunFolder) -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return uri
    if not is_local(folder.uri):
        raise ConfigError(
            "'mlflow' needs a tracking server where the run folder is not local",
            where="training.sinks",
            fix="Set MLFLOW_TRACKING_URI.",
        )
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow refuses files otherwise
    return Path(join(folder.uri, MLFLOW)).as_uri()
