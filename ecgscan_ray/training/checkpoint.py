"""Checkpoint folders: safetensors, optimiser, config, tokenizer, and ``state.json`` written last.

A folder without a ``state.json`` whose digests agree is no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from ecgscan_ray import text
from ecgscan_ray.config import Config, build, dump_yaml, read_yaml
from ecgscan_ray.errors import RunError
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.teacher import Teacher
from ecgscan_ray.store.filesystem import join, list_files, read_bytes

SCHEMA_VERSION = 3

Model = TypeVar("Model", ECGScan, Teacher)


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands."""

    step: int
    """Optimiser steps done."""
    cursor: int
    """Plan positions consumed by optimiser steps."""
    samples_seen: int
    world_size: int
    config_digest: str
    manifest_digest: str
    score: float | None = None
    """``validation.score``, where it was measured."""


@dataclass(frozen=True)
class LoadedCheckpoint(Generic[Model]):
    """A checkpoint read back."""

    config: Config
    model: Model
    tokenizer: Tokenizer
    state: TrainingState


def build_model(config: Config, tokenizer: Tokenizer) -> ECGScan:
    """A freshly initialised model, its random weights decided by ``config.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return ECGScan(config, tokenizer.get_vocab_size())


def build_teacher(config: Config, tokenizer: Tokenizer) -> Teacher:
    """A freshly initialised teacher, likewise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return Teacher(config, tokenizer.get_vocab_size())


def build_trained(config: Config, tokenizer: Tokenizer) -> ECGScan | Teacher:
    """What the config's task trains."""
    return build_teacher(config, tokenizer) if config.task == "teach" else build_model(config, tokenizer)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Config,
    tokenizer_json: str,
    state: TrainingState,
) -> None:
    """Write a checkpoint into an existing empty folder; ``state.json`` comes last."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    (folder / "config.yaml").write_text(dump_yaml(config))
    (folder / "tokenizer.json").write_text(tokenizer_json)
    digests = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    content = {"schema_version": SCHEMA_VERSION, **asdict(state), "digests": digests}
    (folder / "state.json").write_text(json.dumps(content, indent=1))


def read_state(folder: Path) -> TrainingState:
    """The state of a checkpoint folder.

    Raises:
        RunError: No ``state.json``, another schema version, or a file whose digest differs.
    """
    path = folder / "state.json"
    if not path.is_file():
        raise RunError("no checkpoint here (state.json is missing)", where=folder)
    content = json.loads(path.read_text())
    if content.pop("schema_version", None) != SCHEMA_VERSION:
        raise RunError(f"checkpoint of another schema version than {SCHEMA_VERSION}", where=folder)
    for name, digest in content.pop("digests").items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            raise RunError(f"{name} is missing or damaged", where=folder, fix="Use an earlier checkpoint of the run.")
    return TrainingState(**content)


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> TrainingState:
    """Load weights (and the optimiser's state) in place."""
    state = read_state(folder)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    if optimizer is not None:
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu"))
    return state


def load_checkpoint(folder: Path) -> LoadedCheckpoint[Any]:
    """Config, model in eval mode with its weights, tokenizer and state of a checkpoint folder on a local disk.

    The model is what the run's task trained: an ``ECGScan`` or a ``Teacher``.

    Raises:
        RunError: No valid checkpoint there.
    """
    state = read_state(folder)
    config = build(Config, read_yaml(str(folder / "config.yaml")), where=folder)
    tokenizer = text.load_tokenizer(folder)
    model = build_trained(_without_downloads(config), tokenizer)
    restore(folder, model, None)
    return LoadedCheckpoint(config, model.eval(), tokenizer, state)


def _without_downloads(config: Config) -> Config:
    """The same config with the image tower built from its name: its weights are in the checkpoint."""
    if config.model.image.path is None:
        return config
    content = config.model_dump(mode="json")
    content["model"]["image"]["path"] = None
    return build(Config, content, where="checkpoint")


def find_checkpoint(run: str, which: Literal["best", "last"] = "best") -> str:
    """URI of a run's best (by ``validation.score``; the last where none was measured) or last checkpoint.

    Raises:
        RunError: The run has no checkpoint.
    """
    folder = join(run, "checkpoints")
    states = {
        join(folder, name.rpartition("/")[0]): json.loads(read_bytes(join(folder, name)))
        for name in list_files(folder, recursive=True)
        if name.endswith("/state.json")
    }
    if not states:
        raise RunError("no run with a checkpoint here", where=run, fix="Make one by 'ecgscan pretrain --out'.")
    scored = {uri: state["score"] for uri, state in states.items() if state.get("score") is not None}
    if which == "best" and scored:
        return max(scored, key=lambda uri: scored[uri])
    return max(states, key=lambda uri: states[uri]["step"])


def load_run(run: str, which: Literal["best", "last"] = "best") -> LoadedCheckpoint[ECGScan]:
    """The best or last checkpoint of a run folder of ``pretrain``, local or in a bucket.

    Raises:
        RunError: The run has no checkpoint, a damaged one, or one of a teacher.
    """
    loaded = _load(find_checkpoint(run, which))
    if loaded.config.task != "pretrain":
        raise RunError("holds a teacher, which reads no pages", where=run, fix="Give a run of 'ecgscan pretrain'.")
    return cast(LoadedCheckpoint[ECGScan], loaded)


def load_teacher(run: str, which: Literal["best", "last"] = "best") -> LoadedCheckpoint[Teacher]:
    """The best or last checkpoint of a run folder of ``teach``.

    Raises:
        RunError: The run has no checkpoint, a damaged one, or one of a page encoder.
    """
    loaded = _load(find_checkpoint(run, which))
    if loaded.config.task != "teach":
        raise RunError("holds a page encoder, not a teacher", where=run, fix="Make a teacher by 'ecgscan teach'.")
    return cast(LoadedCheckpoint[Teacher], loaded)


def _load(uri: str) -> LoadedCheckpoint[Any]:
    with tempfile.TemporaryDirectory(prefix="ecgscan-run-") as folder:
        for name in list_files(uri):
            (Path(folder) / name).write_bytes(read_bytes(join(uri, name)))
        return load_checkpoint(Path(folder))
