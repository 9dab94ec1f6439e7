"""Ray Train's list of a run's checkpoints: the run resumes from its last entry.

Ray resumes from the last checkpoint in its list, even if it is damaged or gone, and writes the list in place. So before a
run resumes, the list is compared with the checkpoints in the folder, and written again if it is damaged, names a missing
checkpoint, or does not end with the newest whole one.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import ray

from ecgscan_ray.errors import RunError
from ecgscan_ray.filesystem import delete_file, exists, join, read_bytes, write_bytes_atomic
from ecgscan_ray.runs.checkpoints import DamagedCheckpoint, TrainingState, list_checkpoints, verify
from ecgscan_ray.runs.names import CHECKPOINTS
from ecgscan_ray.runtime.ray_quirks import CHECKPOINT_LIST

logger = logging.getLogger(__name__)

States = dict[str, TrainingState]
"""Name of a checkpoint's folder -> its state, the newest first."""


def registered_step(out: str) -> int:
    """Step of the checkpoint that a new group of workers gets, 0 without one."""
    uri = _list_uri(out)
    latest = json.loads(read_bytes(uri)).get("latest_checkpoint_result") if exists(uri) else None
    return int(latest["metrics"]["step"]) if latest else 0


def use_newest_whole(out: str, validate: bool = False) -> int:
    """Make the newest whole checkpoint the one that the run goes on from; its step, 0 where there is no checkpoint.

    Args:
        out: URI of the run folder, which no other command works in.
        validate: Whether checkpoints without a score are measured beside training.

    Raises:
        RunError: There are checkpoints, but none is whole.
    """
    states = _from_newest_whole(out)
    if not states:
        delete_file(_list_uri(out))
        return 0
    if not _is_listed(out, states):
        write_bytes_atomic(_list_uri(out), json.dumps(_list(states, validate)).encode())
    return next(iter(states.values())).step


def _list_uri(out: str) -> str:
    return join(out, CHECKPOINTS, CHECKPOINT_LIST)


def _from_newest_whole(out: str) -> States:
    """Checkpoints of the run without those that are newer than the newest whole one, which are named in the log."""
    states = {uri.rpartition("/")[2]: state for uri, state in list_checkpoints(out).items()}
    damaged: list[DamagedCheckpoint] = []
    for name in list(states):
        try:
            verify(join(out, CHECKPOINTS, name))
            break
        except DamagedCheckpoint as error:
            damaged.append(error)
            del states[name]
    if damaged and not states:
        raise RunError(
            f"no checkpoint is whole ({damaged[0].where}: {damaged[0].what})",
            where=out,
            fix="Give another --out to start again.",
        )
    for skipped in damaged:
        logger.warning("passed over: %s: %s", skipped.where, skipped.what)
    return states


def _is_listed(out: str, states: States) -> bool:
    uri, newest = _list_uri(out), next(iter(states))
    try:
        listed = json.loads(read_bytes(uri)) if exists(uri) else {}
        names = {entry["checkpoint_dir_name"] for entry in listed["checkpoint_results"]}
        latest = listed["latest_checkpoint_result"]
        last = (latest["checkpoint_dir_name"], int(latest["metrics"]["step"]))
    except (ValueError, RecursionError, KeyError, TypeError):
        return False
    return names == set(states) and last == (newest, states[newest].step)


def _list(states: States, validate: bool) -> dict[str, Any]:
    """The list as Ray Train 2.60 reads it: worst score first, as far as there are scores."""
    pending = [name for name in states if validate and states[name].score is None]
    order = sorted(states, key=lambda name: (_score(states[name]), states[name].step))
    reports = sorted(states, key=lambda name: states[name].step)
    return {
        "ray_version": ray.__version__,
        "checkpoint_results": [_entry(name, states[name]) for name in order],
        "checkpoint_report_indices": [reports.index(name) for name in order],
        "latest_checkpoint_result": _entry(reports[-1], states[reports[-1]]),
        "pending_training_results": [_entry(name, states[name]) for name in pending],
        "pending_validation_specs": [True] * len(pending),
        "current_report_index": len(reports),
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }


def _score(state: TrainingState) -> float:
    return -math.inf if state.score is None else state.score


def _entry(name: str, state: TrainingState) -> dict[str, Any]:
    score = {} if state.score is None else {"validation.score": state.score}
    return {"version": 0, "checkpoint_dir_name": name, "metrics": {"step": state.step, **score}}
