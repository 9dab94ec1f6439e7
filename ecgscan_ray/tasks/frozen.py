"""Settings of a run whose pages are aligned to a frozen teacher: its side of the model is the teacher's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from ecgscan_ray.config import Config, build, merge
from ecgscan_ray.errors import ConfigError, RunError
from ecgscan_ray.filesystem import absolute, join, list_names, read_bytes
from ecgscan_ray.runs import names
from ecgscan_ray.runs.checkpoints import find_checkpoint, list_checkpoints, read_config, verify, weights_digest
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.names import TOKENIZER
from ecgscan_ray.tasks.task import get_task

TEACHER_MODEL_KEYS = ("embed_dim", "timing_dim", "timing_share", "signal_fs", "input", "signal", "text")
"""Settings of ``model`` that are the teacher's."""

_MAKE_ONE = "Give the folder of a finished 'ecgscan teach', or make one with it."


def with_teacher_settings(config: Config) -> tuple[Config, str]:
    """The settings of a run under ``teacher.run``, and the sha256 of the teacher's weights.

    Settings of the teacher's side that were not given are the teacher's; those that were given must agree with it.

    Raises:
        RunError: No finished teacher there.
        ConfigError: Settings differ from the teacher's; all of them are named.
    """
    run = absolute(config.teacher.run or "")
    if not list_checkpoints(run):
        raise RunError(f"is no teacher: it is {_kind(run)}", where=run, fix=_MAKE_ONE)
    uri = find_checkpoint(run)
    if (task := verify(uri, ()).task) != "teach":
        what = f"is no teacher: it is a run of 'ecgscan {task}', {get_task(task).contents}"
        raise RunError(what, where=run, fix=_MAKE_ONE)
    if not RunFolder(run).is_finished():
        raise RunError("the teacher is not finished", where=run, fix="Go on with it: 'ecgscan teach --out' once more.")
    ours, teachers = _teacher_side(config), _teacher_side(read_config(uri))
    differing = {key for key in ours.keys() | teachers.keys() if ours.get(key) != teachers.get(key)}
    refused = sorted(differing & _given(config))
    if refused:
        values = ", ".join(f"{key}={ours.get(key)} (the teacher's: {teachers.get(key)})" for key in refused)
        raise ConfigError(
            f"settings differ from the teacher's: {values}",
            where=f"teacher.run={run}",
            fix="Leave them out (then they are the teacher's), give the teacher's values, or make another teacher.",
        )
    changes = {key: teachers.get(key) for key in differing} | {"teacher.run": run}
    return build(Config, merge(config.model_dump(mode="json"), changes), where=f"teacher {run}"), weights_digest(uri)


def teacher_tokenizer(run: str) -> str:
    """The teacher's tokenizer as JSON."""
    return read_bytes(join(find_checkpoint(run), TOKENIZER)).decode()


def _teacher_side(config: Config) -> dict[str, Any]:
    """Dotted key -> value of each setting that decides the teacher's side of the model."""
    content = config.model_dump(mode="json")
    sections = {f"model.{name}": content["model"][name] for name in TEACHER_MODEL_KEYS}
    leaves = {key: value for name, section in sections.items() for key, value in _leaves(name, section)}
    return leaves | {"teacher.encoder": content["teacher"]["encoder"]}


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, entry in value.items():
            yield from _leaves(f"{key}.{name}", entry)
    else:
        yield key, value


def _given(section: BaseModel, prefix: str = "") -> set[str]:
    """Dotted keys that were set by a preset, a file or the command line, not by a default."""
    keys: set[str] = set()
    for name in section.model_fields_set:
        value = getattr(section, name)
        keys |= {f"{prefix}{name}"}
        if isinstance(value, BaseModel):
            keys |= _given(value, f"{prefix}{name}.")
    return keys


def _kind(uri: str) -> str:
    """What a folder without a checkpoint is, in words."""
    files = set(list_names(uri))
    known = {
        "a run without a checkpoint yet": names.ENVIRONMENT,
        "a store": "manifest.json",
        "an exported encoder": names.WEIGHTS,
        "a sweep": names.SWEEP,
    }
    return next(
        (kind for kind, name in known.items() if name in files),
        "a folder of something else" if files else "empty, or not there",
    )
