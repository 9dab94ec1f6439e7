"""Checkpoint folders: safetensors, optimiser, config, tokenizer, and ``state.json`` written last.

A folder without a ``state.json`` whose digests agree is no checkpoint. What is read back is checked by itself too (names,
shapes and values of weights), so that a folder made by hand ends in one line, whatever is in it.
"""

from __future__ import annotations

import logging
import math
import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from ecgscan_ray import text
from ecgscan_ray.config import Config, build, dump_yaml
from ecgscan_ray.errors import EcgscanError, RunError, WorkError
from ecgscan_ray.filesystem import is_local, join, list_files, open_filesystem, read_bytes
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.teacher import Teacher
from ecgscan_ray.runs.checkpoints import (
    MAX_TEXT_BYTES,
    DamagedCheckpoint,
    StateFile,
    TrainingState,
    Which,
    read_config,
    sha256,
    use_first_whole,
    verify,
)
from ecgscan_ray.runs.names import CHECKPOINT_FILES, CONFIG, OPTIMIZER, STATE, TOKENIZER, WEIGHTS
from ecgscan_ray.training.scratch import scratch

logger = logging.getLogger(__name__)

Model = TypeVar("Model", ECGScan, Teacher)


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


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: Config,
    tokenizer_json: str,
    state: TrainingState,
) -> None:
    """Write a checkpoint into an existing empty folder; ``state.json`` comes last.

    Raises:
        WorkError: It cannot be written (a full disk).
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if state.score is not None and not math.isfinite(state.score):
        raise WorkError(f"validation.score is {state.score} at step {state.step}")
    with _explained(folder):
        save_file(weights, folder / WEIGHTS)
        torch.save(optimizer.state_dict(), folder / OPTIMIZER)
        (folder / CONFIG).write_text(dump_yaml(config))
        (folder / TOKENIZER).write_text(tokenizer_json)
        digests = {name: sha256(str(folder / name)) for name in CHECKPOINT_FILES}
        (folder / STATE).write_text(StateFile(**asdict(state), digests=digests).model_dump_json(indent=1))


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """safetensors and torch say "No space left on device" each in a class of its own."""
    try:
        yield
    except EcgscanError:
        raise
    except Exception as error:
        fix = "Make room there, or name another folder by TMPDIR."
        raise WorkError(f"a checkpoint cannot be written ({_line(error)})", where=folder, fix=fix) from None


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> TrainingState:
    """Load weights (and the optimiser's state) in place.

    Raises:
        DamagedCheckpoint: A file is missing or damaged, or does not fit the model.
    """
    state = verify(str(folder), CHECKPOINT_FILES if optimizer is not None else (WEIGHTS,))
    _restore_weights(folder, model)
    if optimizer is not None:
        _restore_optimizer(folder, optimizer)
    return state


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """The libraries that read these files raise what they like on damaged ones."""
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


def _restore_weights(folder: Path, model: nn.Module) -> None:
    model.load_state_dict(read_weights(folder / WEIGHTS, model.state_dict(), dict(model.named_parameters())))


def read_weights(path: Path, own: Mapping[str, Tensor], parameters: Collection[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which agree with a model's own in names, shapes and types and are finite.

    Args:
        path: The file.
        own: The model's, perhaps on a device without memory.
        parameters: Names of those that are parameters; the others are buffers.

    Raises:
        DamagedCheckpoint: They do not, or the file cannot be read.
    """
    check_shapes(path, own)
    with _readable(path):
        weights = load_file(path)
    for name, tensor in weights.items():
        if tensor.dtype != own[name].dtype:
            raise DamagedCheckpoint(f"{name} is of type {tensor.dtype}, not {own[name].dtype}", where=path)
    for name in not_finite(parameters, weights):
        raise DamagedCheckpoint(f"{name} has values that are not finite", where=path)
    return weights


def not_finite(parameters: Collection[str], weights: Mapping[str, Tensor]) -> list[str]:
    """Names in ``weights`` of parameters with NaN or infinite values, and of buffers with NaN (masks have -inf).

    The device is waited for once.
    """
    bad = {
        name: ~tensor.isfinite().all() if name in parameters else tensor.isnan().any()
        for name, tensor in weights.items()
        if tensor.is_floating_point()
    }
    return [name for name, wrong in zip(bad, torch.stack(list(bad.values())).tolist(), strict=True) if wrong]


def check_shapes(path: Path, own: Mapping[str, Tensor]) -> None:
    """Compare names and shapes from the head of a safetensors file, before anything of that size is in memory.

    Raises:
        DamagedCheckpoint: They differ, or the file cannot be read.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
    with _readable(path), safe_open(path, framework="pt") as file:
        names = set(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names & expected.keys()}
    for name in sorted(names ^ expected.keys()):
        what = "is missing" if name in expected else "is not part of the model"
        raise DamagedCheckpoint(f"does not fit the settings: {name[:80]} {what}", where=path)
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise DamagedCheckpoint(f"does not fit the settings: {name} is {shape}, not {expected[name]}", where=path)


def _restore_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Moments and step counts alone: rates and decay come from the settings."""
    path, own = folder / OPTIMIZER, optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    with _readable(path):
        _refuse_compressed(path)
        content = torch.load(path, weights_only=True, map_location="cpu")
        moments = content["state"]
        if [group["params"] for group in content["param_groups"]] != [group["params"] for group in own["param_groups"]]:
            raise ValueError("of another model")
        for number, values in moments.items():
            _check_moments(values, parameters[number])
        optimizer.load_state_dict({"state": moments, "param_groups": own["param_groups"]})


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


def load_checkpoint(folder: Path) -> LoadedCheckpoint[Any]:
    """Config, model in eval mode with its weights, tokenizer and state of a checkpoint folder on a local disk.

    The model is what the run's task trained: an ``ECGScan`` or a ``Teacher``.

    Raises:
        RunError: No valid checkpoint there.
    """
    state = verify(str(folder), (WEIGHTS, CONFIG, TOKENIZER))
    config, tokenizer = read_config(str(folder)), _read_tokenizer(folder / TOKENIZER)
    model = _build_fitting(_without_downloads(config), tokenizer, folder / WEIGHTS)
    _restore_weights(folder, model)
    return LoadedCheckpoint(config, model.eval(), tokenizer, state)


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        content = path.read_bytes()
        if len(content) <= MAX_TEXT_BYTES:
            return text.parse_tokenizer(content, where=path)
    except (OSError, EcgscanError):
        pass
    raise DamagedCheckpoint("damaged", where=path)


def _build_fitting(config: Config, tokenizer: Tokenizer, weights: Path) -> ECGScan | Teacher:
    """The model, once its shapes (on a device without memory) are those of the weights.

    Towers that bring weights of their own cannot be built there; those have their size from their own files.
    """
    if config.model.text.name != "small" or config.teacher.encoder is not None:
        return build_trained(config, tokenizer)
    with _readable(weights.with_name(CONFIG)), torch.device("meta"):
        own = build_trained(config, tokenizer).state_dict()
    check_shapes(weights, own)
    return build_trained(config, tokenizer)


def _without_downloads(config: Config) -> Config:
    """The same config with the image tower built from its name: its weights are in the checkpoint."""
    if config.model.image.path is None:
        return config
    content = config.model_dump(mode="json")
    content["model"]["image"]["path"] = None
    return build(Config, content, where="checkpoint")


def load_run(run: str, which: Which = "best") -> LoadedCheckpoint[ECGScan]:
    """The best or last whole checkpoint of a run folder of ``pretrain``, local or in a bucket.

    Raises:
        RunError: The run has no checkpoint, none that is whole, or those of a teacher.
    """
    loaded = use_first_whole(run, which, _load)
    if loaded.config.task != "pretrain":
        raise RunError("holds a teacher, which reads no pages", where=run, fix="Give a run of 'ecgscan pretrain'.")
    return cast(LoadedCheckpoint[ECGScan], loaded)


def load_teacher(run: str, which: Which = "best") -> LoadedCheckpoint[Teacher]:
    """The best or last whole checkpoint of a run folder of ``teach``.

    Raises:
        RunError: The run has no checkpoint, none that is whole, or those of a page encoder.
    """
    loaded = use_first_whole(run, which, _load)
    if loaded.config.task != "teach":
        raise RunError("holds a page encoder, not a teacher", where=run, fix="Make a teacher by 'ecgscan teach'.")
    return cast(LoadedCheckpoint[Teacher], loaded)


def _load(uri: str) -> LoadedCheckpoint[Any]:
    if is_local(uri):
        return load_checkpoint(Path(open_filesystem(uri)[1]))
    with scratch(uri) as folder:
        for name in sorted({WEIGHTS, CONFIG, TOKENIZER, STATE} & set(list_files(uri))):
            (folder / name).write_bytes(read_bytes(join(uri, name)))
        return load_checkpoint(folder)
