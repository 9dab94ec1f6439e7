"""Checkpoint folders: safetensors, optimiser, config, tokenizer, and ``state.json`` written last.

A folder without a ``state.json`` whose digests agree is no checkpoint. What is read back is checked by itself too (names,
shapes and values of weights), so that a folder made by hand ends in one line, whatever is in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import pickle
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from ecgscan_ray import strict_yaml, text
from ecgscan_ray.config import Config, build, dump_yaml
from ecgscan_ray.errors import EcgscanError, RunError, WorkError
from ecgscan_ray.filesystem import is_local, join, list_files, open_filesystem, read_bytes
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.teacher import Teacher
from ecgscan_ray.training.scratch import scratch

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 4

WEIGHTS, OPTIMIZER, CONFIG, TOKENIZER = "model.safetensors", "optimizer.pt", "config.yaml", "tokenizer.json"
FILES = (WEIGHTS, OPTIMIZER, CONFIG, TOKENIZER)
"""Of a checkpoint, beside ``state.json``."""

MAX_TEXT_BYTES = 32 * 2**20
"""No config, tokenizer or state of ours is larger."""

Model = TypeVar("Model", ECGScan, Teacher)
Result = TypeVar("Result")


class DamagedCheckpoint(RunError):
    """A checkpoint that is incomplete, damaged or made by hand; another one of the run may be whole."""


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


class _StateFile(BaseModel):
    """Content of ``state.json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    schema_version: int
    step: int = Field(ge=0, le=2**53)
    cursor: int = Field(ge=0, le=2**62)
    samples_seen: int = Field(ge=0, le=2**62)
    world_size: int = Field(ge=1, le=2**31)
    config_digest: str
    manifest_digest: str
    score: float | None = Field(None, allow_inf_nan=False)
    digests: dict[str, str]

    def state(self) -> TrainingState:
        return TrainingState(**self.model_dump(exclude={"schema_version", "digests"}))


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
        digests = {name: _sha256(str(folder / name)) for name in FILES}
        content = {"schema_version": SCHEMA_VERSION, **asdict(state), "digests": digests}
        (folder / "state.json").write_text(json.dumps(content, indent=1))


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


def _sha256(uri: str) -> str:
    filesystem, path = open_filesystem(uri)
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path) as stream:
        while block := stream.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def _read_state_file(uri: str) -> _StateFile:
    where = join(uri, "state.json")
    content = read_bytes(where)
    try:
        found = json.loads(content[:MAX_TEXT_BYTES])
        version = found.get("schema_version") if isinstance(found, dict) else None
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise RunError(f"checkpoint of schema version {version}, not {SCHEMA_VERSION}", where=uri)
        return _StateFile.model_validate(found)
    except (ValueError, RecursionError, ValidationError):
        raise DamagedCheckpoint("damaged", where=where, fix="Use another checkpoint of the run.") from None


def verify(uri: str, names: Collection[str] = FILES) -> TrainingState:
    """Compare a checkpoint's files with their digests; its state.

    Args:
        uri: Of the checkpoint's folder.
        names: Files to compare.

    Raises:
        DamagedCheckpoint: One is missing or differs, or ``state.json`` is not readable.
        RunError: No checkpoint, or one of another schema version.
    """
    there = list_files(uri)
    if "state.json" not in there:
        raise DamagedCheckpoint("no checkpoint here (state.json is missing)", where=uri)
    content = _read_state_file(uri)
    for name in names:
        if name not in there or _sha256(join(uri, name)) != content.digests.get(name):
            fix = "Use another checkpoint of the run."
            raise DamagedCheckpoint(f"{name} is missing or damaged", where=uri, fix=fix)
    return content.state()


def read_state(folder: Path) -> TrainingState:
    """The state of a checkpoint folder, all of whose files agree with their digests; raises as ``verify``."""
    return verify(str(folder))


def read_config(uri: str) -> Config:
    """The settings in a checkpoint or a run folder.

    Raises:
        RunError: They are missing or not readable.
    """
    where = join(uri, CONFIG)
    if CONFIG not in list_files(uri):
        raise DamagedCheckpoint("has no config.yaml", where=uri)
    content = read_bytes(where)
    try:
        found = strict_yaml.parse(content, where=where)
        if isinstance(found, dict):
            return build(Config, found, where=where)
    except EcgscanError as error:
        raise DamagedCheckpoint(f"damaged ({_line(error)})", where=where) from None
    raise DamagedCheckpoint("damaged", where=where)


def weights_digest(uri: str) -> str:
    """sha256 of a checkpoint's weights, as its state says."""
    return _read_state_file(uri).digests[WEIGHTS]


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> TrainingState:
    """Load weights (and the optimiser's state) in place.

    Raises:
        DamagedCheckpoint: A file is missing or damaged, or does not fit the model.
    """
    state = verify(str(folder), FILES if optimizer is not None else (WEIGHTS,))
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


def list_checkpoints(run: str) -> dict[str, TrainingState]:
    """URI -> state of each checkpoint of a run, the newest first; those whose state cannot be read are named in the log.

    Raises:
        RunError: There are some, but none is readable.
    """
    folder, states, errors = join(run, "checkpoints"), {}, []
    for name in list_files(folder, recursive=True):
        if name.count("/") == 1 and name.endswith("/state.json"):
            uri = join(folder, name.rpartition("/")[0])
            try:
                states[uri] = _read_state_file(uri).state()
            except RunError as error:
                errors.append(error)
    if errors and not states:
        raise errors[0]
    for other in errors:
        logger.warning("passed over: %s: %s", other.where, other.what)
    return dict(sorted(states.items(), key=lambda entry: -entry[1].step))


def _ranked(run: str, which: Literal["best", "last"]) -> list[str]:
    """Checkpoints in the order of choice; where none was scored, the best is the last."""
    states = list_checkpoints(run)
    if not states:
        raise RunError("no run with a checkpoint here", where=run, fix="Make one by 'ecgscan pretrain --out'.")
    if which == "last":
        return list(states)
    return sorted(states, key=lambda uri: -math.inf if (score := states[uri].score) is None else score, reverse=True)


def _first_whole(run: str, which: Literal["best", "last"], use: Callable[[str], Result]) -> Result:
    """What ``use`` makes of the first checkpoint in the order of choice that it finds whole."""
    errors: list[DamagedCheckpoint] = []
    for uri in _ranked(run, which):
        try:
            found = use(uri)
        except DamagedCheckpoint as error:
            errors.append(error)
            continue
        for other in errors:
            logger.warning("passed over: %s: %s", other.where, other.what)
        if errors:
            logger.warning("%s: taken instead", uri)
        return found
    raise RunError(f"none of its checkpoints is whole ({errors[0].where}: {errors[0].what})", where=run)


def find_checkpoint(run: str, which: Literal["best", "last"] = "best") -> str:
    """URI of a run's best (by ``validation.score``; the last where none was measured) or last whole checkpoint.

    Raises:
        RunError: The run has no checkpoint, or none that is whole.
    """

    def whole(uri: str) -> str:
        verify(uri)
        return uri

    return _first_whole(run, which, whole)


def load_run(run: str, which: Literal["best", "last"] = "best") -> LoadedCheckpoint[ECGScan]:
    """The best or last whole checkpoint of a run folder of ``pretrain``, local or in a bucket.

    Raises:
        RunError: The run has no checkpoint, none that is whole, or those of a teacher.
    """
    loaded = _first_whole(run, which, _load)
    if loaded.config.task != "pretrain":
        raise RunError("holds a teacher, which reads no pages", where=run, fix="Give a run of 'ecgscan pretrain'.")
    return cast(LoadedCheckpoint[ECGScan], loaded)


def load_teacher(run: str, which: Literal["best", "last"] = "best") -> LoadedCheckpoint[Teacher]:
    """The best or last whole checkpoint of a run folder of ``teach``.

    Raises:
        RunError: The run has no checkpoint, none that is whole, or those of a page encoder.
    """
    loaded = _first_whole(run, which, _load)
    if loaded.config.task != "teach":
        raise RunError("holds a page encoder, not a teacher", where=run, fix="Make a teacher by 'ecgscan teach'.")
    return cast(LoadedCheckpoint[Teacher], loaded)


def _load(uri: str) -> LoadedCheckpoint[Any]:
    if is_local(uri):
        return load_checkpoint(Path(open_filesystem(uri)[1]))
    with scratch(uri) as folder:
        for name in sorted({WEIGHTS, CONFIG, TOKENIZER, "state.json"} & set(list_files(uri))):
            (folder / name).write_bytes(read_bytes(join(uri, name)))
        return load_checkpoint(folder)
