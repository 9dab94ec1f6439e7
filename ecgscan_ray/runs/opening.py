"""Whether a command may start or go on with a run in a folder."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ecgscan_ray.config import Config, dump_yaml
from ecgscan_ray.errors import RunError
from ecgscan_ray.filesystem import absolute, delete_file, join, list_files, write_bytes_atomic
from ecgscan_ray.runs import names
from ecgscan_ray.runs.checkpoints import list_checkpoints, read_config
from ecgscan_ray.runs.folder import RunFolder, holds_same_work, setting_differences
from ecgscan_ray.runs.spec import Facts, RunSpec, total_steps
from ecgscan_ray.store.manifest import Manifest

logger = logging.getLogger(__name__)

RunStatus = Literal["new", "unfinished", "finished"]

LENGTH = {"training.steps", "training.epochs"}
"""Settings that may change between two commands of a run."""

WARMUP = "training.warmup_steps"
"""May change with them: the warm-up of a very short run is shortened."""

_OF_A_RUN = {
    names.TOKENIZER,
    names.FINISHED,
    names.PROGRESS,
    names.METRICS,
    names.TENSORBOARD,
    names.WANDB,
    names.SINKS,
    names.CHECKPOINTS,
}
"""Removed when a folder whose run saved no step is taken with other settings."""

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


def check_run(out: str, config: Config, manifest: Manifest, fresh: bool, facts: Facts) -> RunStatus:
    """Whether a folder may be used for a run with these settings, and how far the run is. Nothing is written.

    Settings that saved no step may be replaced. A run may get another length, never less than it has done.

    Args:
        out: URI of the run folder.
        config: Resolved settings.
        manifest: Of the store.
        fresh: Refuse a folder that is not empty.
        facts: Compared like settings.

    Raises:
        RunError: The folder holds another run (the keys that differ are named), or is not empty with ``fresh``.
        StoreError: It cannot be written.
    """
    folder = RunFolder(out)
    begun = holds_same_work(
        out,
        "run",
        names.CONFIG,
        fresh=fresh,
        also=[names.ENVIRONMENT],
        has_begun=lambda: _has_begun(folder),
        differences=lambda: _refused_differences(folder, config, manifest, facts),
    )
    if not begun:
        return "new"
    if _differences(folder, config):
        _check_length(folder, config, manifest)
        return "unfinished"
    return "finished" if folder.is_finished() else "unfinished"


def take_run(spec: RunSpec) -> None:
    """Write settings and environment into a folder that ``check_run`` has accepted.

    ``config.yaml`` holds the settings of the last start, also where they may differ from those before. Each checkpoint keeps
    those that it was made with.

    ``config.yaml`` makes a folder a run's, and is written last: a command that was killed before takes the folder again.
    """
    folder = spec.folder
    if folder.is_run() and _has_begun(folder):
        if _differences(folder, spec.config):
            _change_length(folder, spec.config, spec.manifest)
        else:
            _change_free_settings(folder, spec.config)
    else:
        _take_new(spec)
    folder.remove_unfinished_writes()


def _has_begun(folder: RunFolder) -> bool:
    """Whether a step was ever saved; a finished run may have lost its checkpoints since."""
    files = list_files(join(folder.uri, names.CHECKPOINTS), recursive=True)
    return folder.is_finished() or any(name.endswith(f"/{names.STATE}") for name in files)


def _differences(folder: RunFolder, config: Config) -> list[str]:
    return setting_differences(read_config(folder.uri).training_identity(), config.training_identity())


def _fact_differences(folder: RunFolder, facts: Facts) -> list[str]:
    before = folder.environment()
    return setting_differences({name: before.get(name) for name in facts}, facts)


def _refused_differences(folder: RunFolder, config: Config, manifest: Manifest, facts: Facts) -> list[str]:
    lines = _differences(folder, config) + _fact_differences(folder, facts)
    changed = {line.partition(":")[0] for line in lines}
    may_change = LENGTH | {WARMUP} if changed & LENGTH else set()
    refused = [line for line in lines if line.partition(":")[0] not in may_change]
    if not refused and folder.environment().get("manifest_digest") != manifest.digest():
        raise RunError("holds a run on another store", where=folder.uri, fix="Give another --out.")
    return refused


def _take_new(spec: RunSpec) -> None:
    """Write settings and environment; other settings that saved no step are named in the log and removed."""
    folder = spec.folder
    content = {**environment(spec.manifest, spec.store), **spec.facts}
    if folder.is_run():
        changes = _changes_of_unstarted(spec)
        if not changes:
            return
        logger.info(
            "%s: the run here saved no step; it begins with other settings (%s)", folder.uri, "; ".join(changes)
        )
        for name in list_files(folder.uri, recursive=True):
            if name.partition("/")[0] in _OF_A_RUN:
                delete_file(join(folder.uri, name))
    write_bytes_atomic(join(folder.uri, names.ENVIRONMENT), json.dumps(content, indent=1).encode())
    write_bytes_atomic(join(folder.uri, names.CONFIG), dump_yaml(spec.config).encode())


def _changes_of_unstarted(spec: RunSpec) -> list[str]:
    try:
        changes = _differences(spec.folder, spec.config) + _fact_differences(spec.folder, spec.facts)
        if spec.folder.environment().get("manifest_digest") != spec.manifest.digest():
            changes.append("another store")
    except RunError as error:
        changes = [str(error)]
    return changes


def _check_length(folder: RunFolder, config: Config, manifest: Manifest) -> int:
    """Steps that the run has done, which another number of steps may not undercut."""
    states = list(list_checkpoints(folder.uri).values())
    if not states:
        raise RunError("its checkpoints are gone, it cannot go on", where=folder.uri, fix="Give another --out.")
    steps, done = total_steps(config, manifest), states[0].step
    if steps < done:
        what = f"the run has done {done} steps, more than the {steps} asked for"
        raise RunError(what, where=folder.uri, fix="Ask for more steps, or give another --out.")
    return done


def _change_length(folder: RunFolder, config: Config, manifest: Manifest) -> None:
    """The same run with another number of steps; what is done stays."""
    done, steps = _check_length(folder, config, manifest), total_steps(config, manifest)
    logger.info(
        "%s: %d steps instead of %d. From step %d on the learning rate follows the schedule of %d steps, so the result "
        "differs from that of a run of %d steps from the start",
        *(folder.uri, steps, total_steps(read_config(folder.uri), manifest), done, steps, steps),
    )
    folder.mark_unfinished()
    write_bytes_atomic(join(folder.uri, names.CONFIG), dump_yaml(config).encode())


def _change_free_settings(folder: RunFolder, config: Config) -> None:
    """Keep what may differ between two starts, such as logging or workers, as it is from now on."""
    before, now = (each.model_dump(mode="json") for each in (read_config(folder.uri), config))
    if changes := setting_differences(before, now):
        logger.info("%s: goes on with other settings (%s)", folder.uri, "; ".join(changes))
        write_bytes_atomic(join(folder.uri, names.CONFIG), dump_yaml(config).encode())


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
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return output.stdout.strip()
