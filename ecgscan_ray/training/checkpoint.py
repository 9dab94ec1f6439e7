"""Checkpoint folders: safetensors, optimiser, config, tokenizer, and ``state.json`` written last.

A folder without a ``state.json`` whose digests agree is no checkpoint. The content is checked too (names, shapes
and values of weights), so that a folder made by hand ends in a one-line error.
"""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ecgscan_ray.config import Config, dump_yaml
from ecgscan_ray.errors import EcgscanError, WorkError
from ecgscan_ray.runs.checkpoints import SCHEMA_VERSION, DamagedCheckpoint, StateFile, TrainingState, sha256, verify
from ecgscan_ray.runs.names import CONFIG, OPTIMIZER, STATE, TOKENIZER, TRAINED, WEIGHTS
from ecgscan_ray.training.average import WeightAverage
from ecgscan_ray.training.sharding import local, shared_like, whole


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint keeps of a training process.

    Attributes:
        weights: The model's, or their running average.
        trained: The model's, where ``weights`` are an average.
        optimizer: The optimiser's state.
    """

    weights: Mapping[str, Tensor]
    trained: Mapping[str, Tensor] | None
    optimizer: Mapping[str, Any]

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None = None) -> Snapshot:
        """Of this moment: later steps change the tensors. Every rank calls it; it is complete on rank 0."""
        weights, state = whole(model.state_dict()), optimizer.state_dict()
        moments = {number: whole(values) for number, values in state["state"].items()}
        saved = whole(average.state_dict()) if average else weights
        return cls(saved, weights if average else None, {**state, "state": moments})


def save_checkpoint(
    folder: Path, snapshot: Snapshot, config: Config, tokenizer_json: str, state: TrainingState
) -> None:
    """Write a checkpoint into an existing empty folder; ``state.json`` comes last.

    Raises:
        WorkError: It cannot be written (a full disk).
    """
    if state.score is not None and not math.isfinite(state.score):
        raise WorkError(f"validation.score is {state.score} at step {state.step}")
    with _explained(folder):
        _save_weights(snapshot.weights, folder / WEIGHTS)
        if snapshot.trained is not None:
            _save_weights(snapshot.trained, folder / TRAINED)
        torch.save(snapshot.optimizer, folder / OPTIMIZER)
        (folder / CONFIG).write_text(dump_yaml(config))
        (folder / TOKENIZER).write_text(tokenizer_json)
        digests = {path.name: sha256(str(path)) for path in folder.iterdir()}
        (folder / STATE).write_text(
            StateFile(schema_version=SCHEMA_VERSION, **asdict(state), digests=digests).model_dump_json(indent=1)
        )


def _save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """safetensors and torch raise different classes for a full disk: one error of ours for all."""
    try:
        yield
    except EcgscanError:
        raise
    except Exception as error:
        fix = "Make room there, or name another folder by TMPDIR."
        raise WorkError(f"a checkpoint cannot be written ({_line(error)})", where=folder, fix=fix) from None


def restore(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None = None
) -> TrainingState:
    """Load weights, the optimiser's state, and the running average in place.

    Raises:
        DamagedCheckpoint: A file is missing or damaged, or does not fit the model.
    """
    state = verify(str(folder))
    expected, parameters = model.state_dict(), dict(model.named_parameters())

    def read(name: str) -> dict[str, Tensor]:
        weights = read_weights(folder / name, expected, parameters)
        return {key: shared_like(tensor, expected[key]) for key, tensor in weights.items()}

    if average:
        average.load_state_dict(read(WEIGHTS))
    model.load_state_dict(read(TRAINED if average else WEIGHTS))
    _restore_optimizer(folder, optimizer)
    return state


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """The libraries that read these files raise any class on damaged ones: one error of ours for all."""
    try:
        yield
    except EcgscanError:
        raise
    except Exception as error:
        raise DamagedCheckpoint(f"not readable ({_line(error)})", where=path) from None


def _line(error: BaseException) -> str:
    if isinstance(error, EcgscanError):
        return error.what
    if isinstance(error, pickle.UnpicklingError):
        return "it holds more than tensors"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def restore_weights(folder: Path, model: nn.Module) -> None:
    model.load_state_dict(read_weights(folder / WEIGHTS, model.state_dict(), dict(model.named_parameters())))


def read_weights(path: Path, expected: Mapping[str, Tensor], parameters: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which agree with a model's in names, shapes and types, and are finite.

    Args:
        path: The file.
        expected: The model's state, perhaps on a device without memory.
        parameters: Names of those that are parameters; the others are buffers.

    Raises:
        DamagedCheckpoint: They do not, or the file cannot be read.
    """
    check_shapes(path, expected)
    with readable(path):
        weights = load_file(path)
    for name, tensor in weights.items():
        if tensor.dtype != expected[name].dtype:
            raise DamagedCheckpoint(f"{name} is of type {tensor.dtype}, not {expected[name].dtype}", where=path)
    for name in not_finite(parameters, weights):
        raise DamagedCheckpoint(f"{name} has values that are not finite", where=path)
    return weights


def not_finite(parameters: Collection[str], weights: Mapping[str, Tensor]) -> list[str]:
    """Names in ``weights`` of parameters with NaN or infinite values, and of buffers with NaN (masks have -inf).

    Of a tensor that is shared out, this worker's share is looked at. The device is waited for once.
    """
    shares = {name: local(tensor) for name, tensor in weights.items() if tensor.is_floating_point()}
    bad = {
        name: ~tensor.isfinite().all() if name in parameters else tensor.isnan().any()
        for name, tensor in shares.items()
    }
    return [name for name, wrong in zip(bad, torch.stack(list(bad.values())).tolist(), strict=True) if wrong]


def check_shapes(path: Path, expected: Mapping[str, Tensor]) -> None:
    """Compare names and shapes in the header of a safetensors file, before tensors of that size are in memory.

    Raises:
        DamagedCheckpoint: They differ, or the file cannot be read.
    """
    model_shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    with readable(path), safe_open(path, framework="pt") as file:
        names = set(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names & model_shapes.keys()}
    for name in sorted(names ^ model_shapes.keys()):
        what = "is missing" if name in model_shapes else "is not part of the model"
        raise DamagedCheckpoint(f"does not fit the settings: {name[:80]} {what}", where=path)
    for name, shape in shapes.items():
        if shape != model_shapes[name]:
            what = f"does not fit the settings: {name} is {shape}, not {model_shapes[name]}"
            raise DamagedCheckpoint(what, where=path)


def _restore_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Moments and step counts alone: rates and decay come from the settings."""
    path, groups = folder / OPTIMIZER, optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with readable(path):
        _refuse_compressed(path)
        content = torch.load(path, weights_only=True, map_location="cpu")
        moments = content["state"]
        if [group["params"] for group in content["param_groups"]] != [group["params"] for group in groups]:
            raise ValueError("of another model")
        for number, values in moments.items():
            _check_moments(values, parameters[number])
            for name in ("exp_avg", "exp_avg_sq"):
                values[name] = shared_like(values[name], parameters[number])
        optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _refuse_compressed(path: Path) -> None:
    """torch stores without compression; a file that does not could ask for any memory."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise ValueError("larger inside than outside")


def _check_moments(values: dict[str, Tensor], parameter: Tensor) -> None:
    if set(values) != {"step", "exp_avg", "exp_avg_sq"}:
        raise ValueError("no state of AdamW")
    for name, tensor in values.items():
        shape = () if name == "step" else tuple(parameter.shape)
        if tuple(tensor.shape) != shape or tensor.layout != torch.strided or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} is not finite or does not fit")
