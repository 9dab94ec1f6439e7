"""The checkpoints of a run: the state of each, whether its files are whole, and which one is the best or the last."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ecgscan_ray import strict_yaml
from ecgscan_ray.config import Config, build
from ecgscan_ray.errors import EcgscanError, RunError
from ecgscan_ray.filesystem import join, list_files, open_filesystem, read_bytes, write_bytes_atomic
from ecgscan_ray.runs.names import CHECKPOINT_FILES, CHECKPOINTS, CONFIG, SCORE, STATE, THRESHOLDS, WEIGHTS

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 6

MAX_TEXT_BYTES = 32 * 2**20
"""No config, tokenizer or state of ours is larger."""

Result = TypeVar("Result")
Which = Literal["best", "last"]


class DamagedCheckpoint(RunError):
    """A checkpoint that is incomplete, damaged or made by hand; another one of the run may be whole."""


@dataclass(frozen=True)
class TrainingState:
    """How far a run is.

    Attributes:
        step: Optimiser steps done.
        samples_seen: Plan positions that these steps have consumed, over all workers.
        config_digest: Of the run's settings.
        task: Name of what the run trains (``tasks/``).
        score: ``validation.score``, where it was measured.
        precision: Arithmetic of the towers, ``fp32`` or ``bf16``; ``None`` in checkpoints from before it was kept.
    """

    step: int
    samples_seen: int
    config_digest: str
    task: str
    score: float | None = None
    precision: Literal["fp32", "bf16"] | None = None


class StateFile(BaseModel):
    """Content of ``state.json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    schema_version: int
    step: int = Field(ge=0, le=2**53)
    samples_seen: int = Field(ge=0, le=2**62)
    config_digest: str
    task: str
    score: float | None = Field(None, allow_inf_nan=False)
    precision: Literal["fp32", "bf16"] | None = None
    digests: dict[str, str]

    def state(self) -> TrainingState:
        """The content without schema version and digests."""
        return TrainingState(**self.model_dump(exclude={"schema_version", "digests"}))


class ScoreFile(BaseModel):
    """Content of ``score.json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    score: float = Field(allow_inf_nan=False)
    weights: str
    """sha256 of the weights that it is the score of: a run that goes back makes the checkpoints of some steps again."""


class ThresholdsFile(BaseModel):
    """Content of ``thresholds.json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    thresholds: dict[str, float | None]
    weights: str
    """As in ``ScoreFile``."""


def sha256(uri: str) -> str:
    """Digest of a file's content."""
    filesystem, path = open_filesystem(uri)
    digest = hashlib.sha256()
    with filesystem.open_input_stream(path) as stream:
        while block := stream.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def _read_state_file(uri: str) -> StateFile:
    where = join(uri, STATE)
    data = read_bytes(where)
    try:
        content = json.loads(data[:MAX_TEXT_BYTES])
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version != SCHEMA_VERSION:
            raise RunError(f"checkpoint of schema version {version}, not {SCHEMA_VERSION}", where=uri)
        return StateFile.model_validate(content)
    except (ValueError, RecursionError, ValidationError):
        raise DamagedCheckpoint("damaged", where=where, fix="Use another checkpoint of the run.") from None


def _state(uri: str, content: StateFile, files: Collection[str]) -> TrainingState:
    """The state of a checkpoint with these files, and its score, wherever it was measured."""
    state = content.state()
    if SCORE not in files:
        return state
    try:
        measured = ScoreFile.model_validate_json(read_bytes(join(uri, SCORE))[:MAX_TEXT_BYTES])
    except ValidationError:
        logger.warning("passed over: %s: damaged", join(uri, SCORE))
        return state
    return replace(state, score=measured.score) if measured.weights == content.digests.get(WEIGHTS) else state


def write_score(uri: str, score: float) -> None:
    """Keep the ``validation.score`` of a stored checkpoint, in a file of its own: the checkpoint stays as it is."""
    measured = ScoreFile(score=score, weights=weights_digest(uri))
    write_bytes_atomic(join(uri, SCORE), measured.model_dump_json().encode())


def write_thresholds(uri: str, thresholds: dict[str, float | None]) -> None:
    """Keep the classes' thresholds of a stored checkpoint, in a file of its own."""
    content = ThresholdsFile(thresholds=thresholds, weights=weights_digest(uri))
    write_bytes_atomic(join(uri, THRESHOLDS), content.model_dump_json().encode())


def read_thresholds(uri: str) -> dict[str, float | None] | None:
    """The classes' thresholds of a checkpoint; ``None`` where they were not chosen for its weights."""
    if THRESHOLDS not in list_files(uri):
        return None
    try:
        content = ThresholdsFile.model_validate_json(read_bytes(join(uri, THRESHOLDS))[:MAX_TEXT_BYTES])
    except ValidationError:
        logger.warning("passed over: %s: damaged", join(uri, THRESHOLDS))
        return None
    return content.thresholds if content.weights == weights_digest(uri) else None


def verify(uri: str, names: Collection[str] | None = None) -> TrainingState:
    """Compare a checkpoint's files with their digests; its state.

    Args:
        uri: Of the checkpoint's folder.
        names: Files to compare; none = all.

    Raises:
        DamagedCheckpoint: One is missing or differs, or ``state.json`` is not readable.
        RunError: No checkpoint, or one of another schema version.
    """
    files = list_files(uri)
    if STATE not in files:
        raise DamagedCheckpoint(f"no checkpoint here ({STATE} is missing)", where=uri)
    content = _read_state_file(uri)
    for name in dict.fromkeys((*CHECKPOINT_FILES, *content.digests)) if names is None else names:
        if name not in files or sha256(join(uri, name)) != content.digests.get(name):
            fix = "Use another checkpoint of the run."
            raise DamagedCheckpoint(f"{name} is missing or damaged", where=uri, fix=fix)
    return _state(uri, content, files)


def read_config(uri: str) -> Config:
    """The settings in a checkpoint or a run folder.

    Raises:
        RunError: They are missing or not readable.
    """
    where = join(uri, CONFIG)
    if CONFIG not in list_files(uri):
        raise DamagedCheckpoint(f"has no {CONFIG}", where=uri)
    data = read_bytes(where)
    try:
        content = strict_yaml.parse(data, where=where)
        if isinstance(content, dict):
            return build(Config, content, where=where)
    except EcgscanError as error:
        raise DamagedCheckpoint(f"damaged ({error.what})", where=where) from None
    raise DamagedCheckpoint("damaged", where=where)


def weights_digest(uri: str) -> str:
    """sha256 of a checkpoint's weights, as its state says."""
    return _read_state_file(uri).digests[WEIGHTS]


def list_checkpoints(run: str) -> dict[str, TrainingState]:
    """URI -> state of each checkpoint of a run, the newest first; unreadable ones are named in the log.

    Raises:
        RunError: There are some, but none is readable.
    """
    folder, states, errors = join(run, CHECKPOINTS), {}, []
    names = set(list_files(folder, recursive=True))
    for name in sorted(names):
        if name.count("/") == 1 and name.endswith(f"/{STATE}"):
            checkpoint = name.rpartition("/")[0]
            uri = join(folder, checkpoint)
            try:
                states[uri] = _state(uri, _read_state_file(uri), {SCORE} if f"{checkpoint}/{SCORE}" in names else ())
            except RunError as error:
                errors.append(error)
    if errors and not states:
        raise errors[0]
    for unreadable in errors:
        logger.warning("passed over: %s: %s", unreadable.where, unreadable.what)
    return dict(sorted(states.items(), key=lambda entry: -entry[1].step))


def _ranked(run: str, which: Which) -> list[str]:
    """Checkpoints in the order of choice; where none was scored, the best is the last."""
    states = list_checkpoints(run)
    if not states:
        raise RunError("no run with a checkpoint here", where=run, fix="Make one by 'ecgscan pretrain --out'.")
    if which == "last":
        return list(states)
    return sorted(states, key=lambda uri: -math.inf if (score := states[uri].score) is None else score, reverse=True)


def use_first_whole(run: str, which: Which, use: Callable[[str], Result]) -> Result:
    """The result of ``use`` for the first checkpoint, in the order of choice, that it accepts as whole.

    Args:
        run: URI of the run folder.
        which: Best (by ``validation.score``; the last where none was measured) or last.
        use: Takes the URI of a checkpoint; raises ``DamagedCheckpoint`` to go to the next one.

    Raises:
        RunError: The run has no checkpoint, or none that is whole.
    """
    errors: list[DamagedCheckpoint] = []
    for uri in _ranked(run, which):
        try:
            result = use(uri)
        except DamagedCheckpoint as error:
            errors.append(error)
            continue
        for skipped in errors:
            logger.warning("passed over: %s: %s", skipped.where, skipped.what)
        if errors:
            logger.warning("%s: taken instead", uri)
        return result
    raise RunError(f"none of its checkpoints is whole ({errors[0].where}: {errors[0].what})", where=run)


def find_checkpoint(run: str, which: Which = "best") -> str:
    """URI of a run's best or last whole checkpoint; arguments and errors as ``use_first_whole``."""

    def whole(uri: str) -> str:
        verify(uri)
        return uri

    return use_first_whole(run, which, whole)
