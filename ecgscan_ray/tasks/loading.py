"""Trained models read back from checkpoints and run folders."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic

import torch
from tokenizers import Tokenizer
from torch import nn

from ecgscan_ray import text
from ecgscan_ray.config import Config, build
from ecgscan_ray.errors import EcgscanError, RunError
from ecgscan_ray.filesystem import is_local, join, list_files, open_filesystem, read_bytes
from ecgscan_ray.model.classifier import PageClassifier
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.teacher import Teacher
from ecgscan_ray.reading.page_reader import PageReader
from ecgscan_ray.runs.checkpoints import (
    MAX_TEXT_BYTES,
    DamagedCheckpoint,
    TrainingState,
    Which,
    read_config,
    use_first_whole,
    verify,
)
from ecgscan_ray.runs.names import CONFIG, SCORE, STATE, TOKENIZER, WEIGHTS
from ecgscan_ray.tasks.task import get_task
from ecgscan_ray.training.checkpoint import check_shapes, readable, restore_weights
from ecgscan_ray.training.scratch import scratch
from ecgscan_ray.training.task import ModelT


@dataclass(frozen=True)
class LoadedCheckpoint(Generic[ModelT]):
    """A checkpoint read back: the model has its trained weights and is in evaluation mode."""

    config: Config
    model: ModelT
    tokenizer: Tokenizer
    state: TrainingState
    uri: str


def load_run(run: str, which: Which = "best") -> LoadedCheckpoint[ECGScan]:
    """The best or last whole checkpoint of a run folder of ``pretrain``, local or in a bucket.

    Raises:
        RunError: The run has no checkpoint, none that is whole, or those of another task.
    """
    return _load_task(run, which, ("pretrain",), "Give a run of 'ecgscan pretrain'.")


def load_page_encoder(run: str, which: Which = "best") -> LoadedCheckpoint[ECGScan] | LoadedCheckpoint[PageClassifier]:
    """The same of a run of ``pretrain`` or ``finetune``: a model with a page encoder; raises as ``load_run``."""
    fix = "Give a run of 'ecgscan pretrain' or 'ecgscan finetune'."
    return _load_task(run, which, ("pretrain", "finetune"), fix)


def load_classifier(run: str, which: Which = "best") -> LoadedCheckpoint[PageClassifier]:
    """The best or last whole checkpoint of a run folder of ``finetune``; raises as ``load_run``."""
    return _load_task(run, which, ("finetune",), "Make such a run by 'ecgscan finetune'.")


def load_teacher(run: str, which: Which = "best") -> LoadedCheckpoint[Teacher]:
    """The best or last whole checkpoint of a run folder of ``teach``; raises as ``load_run``."""
    return _load_task(run, which, ("teach",), "Make a teacher by 'ecgscan teach'.")


def load_rectifier(run: str, which: Which = "best") -> LoadedCheckpoint[PageReader]:
    """The best or last whole checkpoint of a run folder of ``rectifier``; raises as ``load_run``."""
    return _load_task(run, which, ("rectifier",), "Make such a run by 'ecgscan rectifier'.")


def _load_task(run: str, which: Which, tasks: Collection[str], fix: str) -> LoadedCheckpoint[Any]:
    def load(uri: str) -> LoadedCheckpoint[Any]:
        trained = verify(uri, ()).task
        if trained not in tasks:
            raise RunError(f"holds {get_task(trained).contents}", where=run, fix=fix)
        return load_stored(uri)

    return use_first_whole(run, which, load)


def load_stored(uri: str) -> LoadedCheckpoint[Any]:
    """The model of a checkpoint folder, local or in a bucket; see ``load_checkpoint``."""
    if is_local(uri):
        return load_checkpoint(Path(open_filesystem(uri)[1]))
    with scratch(uri) as folder:
        for name in sorted({WEIGHTS, CONFIG, TOKENIZER, STATE, SCORE} & set(list_files(uri))):
            (folder / name).write_bytes(read_bytes(join(uri, name)))
        return replace(load_checkpoint(folder), uri=uri)


def load_checkpoint(folder: Path) -> LoadedCheckpoint[Any]:
    """The model of a checkpoint folder on a local disk; its class is that of the checkpoint's task.

    Raises:
        RunError: No valid checkpoint there.
    """
    state = verify(str(folder), (WEIGHTS, CONFIG, TOKENIZER))
    config, tokenizer = read_config(str(folder)), _read_tokenizer(folder / TOKENIZER)
    model = _build_fitting(state.task, without_first_weights(config), tokenizer, folder / WEIGHTS)
    restore_weights(folder, model)
    return LoadedCheckpoint(config, model.eval(), tokenizer, state, str(folder))


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        content = path.read_bytes()
        if len(content) <= MAX_TEXT_BYTES:
            return text.parse_tokenizer(content, where=path)
    except (OSError, EcgscanError):
        pass
    raise DamagedCheckpoint("damaged", where=path)


def _build_fitting(task: str, config: Config, tokenizer: Tokenizer, weights: Path) -> nn.Module:
    """The model, after its shapes (on a device without memory) were found to be those of the weights.

    Towers with pretrained weights cannot be built on that device; their size comes from their own files.
    """
    build_model = partial(get_task(task).build_model, config, tokenizer)
    if is_sized_by_settings(config):
        with readable(weights.with_name(CONFIG)), torch.device("meta"):
            expected = build_model().state_dict()
        check_shapes(weights, expected)
    model: nn.Module = build_model()
    return model


def is_sized_by_settings(config: Config) -> bool:
    """Whether the model can be built without files: not with a text encoder or a signal encoder of others."""
    return config.model.text.name == "small" and config.teacher.encoder is None


def without_first_weights(config: Config) -> Config:
    """The same settings with the image tower built from its name: its weights are in the checkpoint."""
    if config.model.image.path is None:
        return config
    content = config.model_dump(mode="json")
    content["model"]["image"]["path"] = None
    return build(Config, content, where="checkpoint")
