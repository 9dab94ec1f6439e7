"""An ablation: named arms, each trained with each seed and measured on test patients, then compared with the first."""

from __future__ import annotations

import logging
import time
from typing import Any

from safetensors.numpy import load

from ecgscan_ray.config import AblationConfig, Config, build, merge, read_settings, unknown_setting
from ecgscan_ray.cores import set_torch_threads
from ecgscan_ray.evaluation.ablation import Rows, compare
from ecgscan_ray.filesystem import absolute, join, read_bytes
from ecgscan_ray.filesystem.lease import exclusive
from ecgscan_ray.report.ablation import write_ablation_report
from ecgscan_ray.report.evaluate import evaluate
from ecgscan_ray.runs.folder import flat
from ecgscan_ray.runs.names import ROWS, SHARED_TEACHER
from ecgscan_ray.runs.trials import TrialStore, trial_id
from ecgscan_ray.runtime.cluster import check_address
from ecgscan_ray.runtime.pretrain import pretrain, teach
from ecgscan_ray.runtime.trials import (
    ListSearcher,
    Train,
    TrialSettings,
    check_store,
    check_trials,
    num_remaining,
    run_trials,
    start_tune,
    take_folder,
)
from ecgscan_ray.store.manifest import read_manifest

logger = logging.getLogger(__name__)

SHARED = "shared"
"""``teacher.run`` of an arm: the ablation's own teacher."""


def ablate(
    config: AblationConfig, store: str, out: str, *, fresh: bool = False, train: Train | None = None
) -> dict[str, Any]:
    """Compare arms; the same call on an unfinished ablation goes on where it stopped.

    Args:
        config: Arms and seeds.
        store: URI of a prepared store.
        out: URI of the ablation's folder; gets the report, ``trials/`` and the shared teacher.
        fresh: Refuse a folder that is not empty.
        train: Runs one trial and takes what ``pretrain`` takes; by default that, followed by an evaluation.

    Returns:
        The content of ``report.json``.

    Raises:
        InputError: Settings, store or folder cannot be used.
    """
    check_address()
    store, out = absolute(store), absolute(out)
    base = merge(read_settings(config.base), config.base_overrides)
    resolved = build(Config, base, where=f"base {config.base}")
    _check_arms(config, base, resolved)
    manifest = read_manifest(store)
    if train is None:
        check_store(config.metric, resolved, store, manifest)
    trial_store = TrialStore(out, config.metric)
    with exclusive(out, "ecgscan ablate"):
        take_folder(config, base, manifest.digest(), trial_store, fresh)
        remaining, deadline = num_remaining(trial_store, config.trials), time.time() + config.deadline_s
        if remaining:
            arms = _arms_with_teacher(config, out)
            settings = TrialSettings(base, store, trial_store, train or train_and_measure, deadline, arms=arms)
            start_tune(config, base)
            _teach_shared(config, base, store, out)
            searcher = ListSearcher(_remaining_grid(config, trial_store), deadline)
            run_trials(config, settings, searcher, remaining, config.trials)
        else:
            logger.info("%s: finished already; nothing to do", out)
        return _write_report(config, trial_store)


def train_and_measure(config: Config, store: str, out: str, **options: Any) -> None:
    """One trial: all arms have as many steps, so that the last checkpoint is measured."""
    pretrain(config, store, out, **options)
    set_torch_threads(config.resources.torch_threads)
    evaluate(out, store=store, which="last")


def _check_arms(config: AblationConfig, base: dict[str, Any], resolved: Config) -> None:
    """Every arm's settings are tried on the config before any trial starts."""
    check_trials(config.metric, resolved)
    known = flat(resolved.model_dump(mode="json"))
    for arm, changes in config.arms.items():
        for key in changes:
            if key not in known:
                raise unknown_setting(key, known, where=f"arm '{arm}'")
        build(Config, merge(base, changes), where=f"arm '{arm}'")


def _remaining_grid(config: AblationConfig, trial_store: TrialStore) -> list[dict[str, Any]]:
    """Trials that have not ended, seed after seed: an early deadline still leaves arms of equal seeds."""
    ended = {trial.id for trial in trial_store.trials() if trial.state != "running"}
    grid: list[dict[str, Any]] = [{"arm": arm, "seed": seed} for seed in config.seeds for arm in config.arms]
    return [settings for settings in grid if trial_id(settings) not in ended]


def _arms_with_teacher(config: AblationConfig, out: str) -> dict[str, dict[str, Any]]:
    """The arms' changes, with the URI of the shared teacher for ``SHARED``."""
    teacher = {"teacher.run": join(out, SHARED_TEACHER)}
    return {
        arm: {**changes, **teacher} if changes.get("teacher.run") == SHARED else changes
        for arm, changes in config.arms.items()
    }


def _teach_shared(config: AblationConfig, base: dict[str, Any], store: str, out: str) -> None:
    """Train the teacher of all arms that name it; nothing to do where none does, or where it is finished."""
    if any(changes.get("teacher.run") == SHARED for changes in config.arms.values()):
        settings = build(Config, merge(base, config.teacher_overrides), where="teacher_overrides")
        teach(settings, store, join(out, SHARED_TEACHER), quiet=True)


def _write_report(config: AblationConfig, trial_store: TrialStore) -> dict[str, Any]:
    """Compare the trials that are done, and write the report; its content."""
    trials = trial_store.trials()
    runs: dict[str, dict[int, Rows]] = {arm: {} for arm in config.arms}
    for trial in trials:
        if trial.state == "done":
            rows = load(read_bytes(join(trial_store.run_folder(trial.id), ROWS)))
            runs[trial.config["arm"]][trial.config["seed"]] = rows
    return write_ablation_report(trial_store.out, compare(runs, config.baseline), config, trials)
