"""The run folder: who it belongs to, and whether the same command may go on in it."""

from __future__ import annotations

import json
import logging
import math
import platform
import re
import subprocess
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ecgscan_ray.config import Config, dump_yaml
from ecgscan_ray.errors import RunError
from ecgscan_ray.filesystem import (
    absolute,
    delete_file,
    exists,
    join,
    list_files,
    list_names,
    open_filesystem,
    read_bytes,
    write_bytes_atomic,
)
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.training.checkpoint import list_checkpoints, read_config
from ecgscan_ray.training.optimizer import learning_rate

logger = logging.getLogger(__name__)

RunStatus = Literal["new", "unfinished", "finished"]

CONFIG, ENVIRONMENT, TOKENIZER, FINISHED = "config.yaml", "environment.json", "tokenizer.json", "finished.json"
CHECKPOINTS = "checkpoints"

_OF_A_RUN = {TOKENIZER, FINISHED, "progress.json", CHECKPOINTS, "metrics", "tensorboard"}
"""Files and folders of a run, beside its settings and environment."""

_UNFINISHED = re.compile(r"\.tmp-[0-9a-f]{32}$")

LENGTH = {"training.steps", "training.epochs"}
"""Settings that may change between two commands of a run."""

WARMUP = "training.warmup_steps"
"""May change with them: the warm-up of a very short run is shortened."""

_PACKAGES = (
    "ecgscan_ray",
    "ray",
    "torch",
    "timm",
    "transformers",
    "numpy",
    "pyarrow",
    "opencv-python",
    "opencv-python-headless",
)


def open_run(out: str, config: Config, manifest: Manifest, store: str, fresh: bool) -> RunStatus:
    """Take an empty folder for a new run, or recognise an earlier run of the same config and store.

    ``config.yaml`` makes a folder a run's, and comes last: a command that was cut before it takes the folder again. So does
    one with other settings, as long as no step was saved. A run may get another length, never less than it has done.

    Args:
        out: URI of the run folder.
        config: Resolved settings.
        manifest: Of the store.
        store: URI of the store; kept for ``evaluate``.
        fresh: Refuse a folder that holds anything.

    Raises:
        RunError: The folder holds another run (the keys that differ are named), or is not empty with ``fresh``.
        StoreError: It cannot be written.
    """
    open_filesystem(out, create=True)
    if not exists(join(out, CONFIG)):
        refuse_other_things(out, [ENVIRONMENT, CONFIG])
        _take(out, config, manifest, store)
        return "new"
    if fresh:
        raise RunError("--fresh needs an empty folder, this one holds a run", where=out)
    if not _has_begun(out):
        return _claim_unstarted(out, config, manifest, store)
    old = read_config(out)
    different = differences(old, config)
    names = {line.partition(":")[0] for line in different}
    may_change = LENGTH | {WARMUP} if names & LENGTH else set()
    changed = [line for line in different if line.partition(":")[0] not in may_change]
    if changed:
        raise RunError(f"holds a run with other settings: {'; '.join(changed)}", where=out, fix="Give another --out.")
    if read_environment(out).get("manifest_digest") != manifest.digest():
        raise RunError("holds a run on another store", where=out, fix="Give another --out.")
    if different:
        _change_length(out, old, config, manifest)
    return "finished" if exists(join(out, FINISHED)) else "unfinished"


def _take(out: str, config: Config, manifest: Manifest, store: str) -> None:
    write_bytes_atomic(join(out, ENVIRONMENT), json.dumps(environment(manifest, store), indent=1).encode())
    write_bytes_atomic(join(out, CONFIG), dump_yaml(config).encode())


def refuse_other_things(out: str, ours: Collection[str]) -> None:
    """Raise unless the folder is empty; hidden files, ``ours`` and what an interrupted writing of these left do not count.

    Raises:
        RunError: With the name of something that is there.
    """
    others = [name for name in list_names(out) if not name.startswith(".") and name.partition(".tmp-")[0] not in ours]
    if others:
        what = f"the folder holds other things ({others[0]}, ...)"
        raise RunError(what, where=out, fix="Give --out an empty folder.")


def remove_unfinished_writes(out: str) -> None:
    """Delete what a command killed in the middle of ``write_bytes_atomic`` left in a folder that is ours now."""
    for name in list_files(out, recursive=True):
        if _UNFINISHED.search(name):
            delete_file(join(out, name))


def _has_begun(out: str) -> bool:
    """Whether a step was ever saved; a finished run may have lost its checkpoints since."""
    return exists(join(out, FINISHED)) or any(
        name.endswith("/state.json") for name in list_files(join(out, CHECKPOINTS), recursive=True)
    )


def _claim_unstarted(out: str, config: Config, manifest: Manifest, store: str) -> RunStatus:
    """A run without a checkpoint has nothing to lose: it begins with these settings, whatever it was to be."""
    try:
        changes = differences(read_config(out), config)
        if read_environment(out).get("manifest_digest") != manifest.digest():
            changes.append("another store")
    except RunError as error:
        changes = [str(error)]
    if not changes:
        return "unfinished"
    logger.info("%s: the run here saved no step; it begins with other settings (%s)", out, "; ".join(changes))
    for name in list_files(out, recursive=True):
        if name.partition("/")[0] in _OF_A_RUN:
            delete_file(join(out, name))
    _take(out, config, manifest, store)
    return "new"


def _change_length(out: str, old: Config, config: Config, manifest: Manifest) -> None:
    """The same run to another number of steps; what is done stays as it is."""
    states = list(list_checkpoints(out).values())
    if not states:
        raise RunError("its checkpoints are gone, so that it cannot go on", where=out, fix="Give another --out.")
    before, after, done = total_steps(old, manifest), total_steps(config, manifest), states[0].step
    if after < done:
        what = f"the run has done {done} steps, more than the {after} asked for"
        raise RunError(what, where=out, fix="Ask for more steps, or give another --out.")
    rates = [learning_rate(min(done, steps - 1), steps, config.training) for steps in (before, after)]
    logger.info(
        "%s: %d steps instead of %d. From step %d on the learning rate follows the schedule of %d steps (%.2g, not %.2g), so "
        "the outcome is not that of %d steps from the start",
        *(out, after, before, done, after, rates[1], rates[0], after),
    )
    delete_file(join(out, FINISHED))
    write_bytes_atomic(join(out, CONFIG), dump_yaml(config).encode())


def total_steps(config: Config, manifest: Manifest) -> int:
    """Optimiser steps of the run."""
    if config.training.steps is not None:
        return config.training.steps
    assert config.training.epochs is not None  # the config has exactly one of the two
    return max(1, math.ceil(config.training.epochs * manifest.rows("train") / config.training.global_batch_size))


def read_environment(out: str) -> dict[str, Any]:
    """What ``environment.json`` of a run says.

    Raises:
        RunError: It is missing or damaged.
    """
    return read_json(join(out, ENVIRONMENT))


def read_json(uri: str) -> dict[str, Any]:
    """A small file of a run.

    Raises:
        RunError: It is missing, or no JSON object.
    """
    content = read_bytes(uri) if exists(uri) else b""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RunError("missing or damaged", where=uri, fix="Give another --out, or put the file back.")
    return found


def differences(old: Config, new: Config) -> list[str]:
    """``key: old -> new`` of each setting that decides the outcome and differs."""
    before, after = _flat(old.training_identity()), _flat(new.training_identity())
    keys = sorted(before.keys() | after.keys())
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def environment(manifest: Manifest, store: str) -> dict[str, Any]:
    """Versions, machine, git revision, store.

    Raises:
        InputError: The store's URI carries a credential, which is never kept.
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "git_revision": _git_revision(),
        "store": absolute(store),
        "manifest_digest": manifest.digest(),
    }


def _git_revision() -> str | None:
    try:
        here = Path(__file__).parent
        found = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
