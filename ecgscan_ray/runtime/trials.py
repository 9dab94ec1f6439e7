"""Trials of a sweep or an ablation: Ray Tune around the same pretraining, one short run each.

The state of trials is kept in the folder (``TrialStore``) instead of Tune's: a command given again reads it, and goes on
with what was running. Tune starts the trials and asks a searcher for the next one.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from ecgscan_ray.config import AblationConfig, Config, SweepConfig, build, merge
from ecgscan_ray.errors import ConfigError, RunError, WorkError, near_miss
from ecgscan_ray.filesystem import delete_file, exists, join, open_filesystem, write_bytes_atomic
from ecgscan_ray.filesystem.lease import LEASE_NAME
from ecgscan_ray.runs import names
from ecgscan_ray.runs.folder import holds_same_work, read_json, setting_differences
from ecgscan_ray.runs.needs import Need, needs
from ecgscan_ray.runs.spec import total_steps
from ecgscan_ray.runs.trials import StopRule, TrialStore, of_the_search, trial_id
from ecgscan_ray.runtime import ray_quirks
from ecgscan_ray.runtime.attend import attend
from ecgscan_ray.runtime.cluster import start_ray
from ecgscan_ray.runtime.demand import await_room
from ecgscan_ray.runtime.failures import root_cause
from ecgscan_ray.store.manifest import Manifest, read_manifest
from ecgscan_ray.tasks.fit_to_store import fit_to_store
from ecgscan_ray.tasks.pretrain import Pretrain

logger = logging.getLogger(__name__)

Train = Callable[..., None]
"""Runs one trial and takes what ``pretrain`` takes."""

TRIAL_CPUS = 0.01
"""A trial's own process holds nearly nothing: the work is done by the workers that it starts."""

_MAY_CHANGE = {"trials", "final_seeds", "max_concurrent", "deadline_s"}
"""Settings in which a command may differ from the one that began the trials."""


@dataclass(frozen=True)
class TrialSettings:
    """What each trial gets.

    Attributes:
        base: Settings that every trial starts from.
        store: URI of the prepared store.
        trial_store: State of all trials.
        train: Runs one trial.
        deadline: No trial starts after it, seconds since 1970.
        prune_quantile: See ``StopRule``.
        reduction_factor: See ``StopRule``.
        prune_grace: See ``StopRule``.
        arms: Arm -> dotted keys; empty in a sweep.
    """

    base: dict[str, Any]
    store: str
    trial_store: TrialStore
    train: Train
    deadline: float
    prune_quantile: float = 0.0
    reduction_factor: int | None = None
    prune_grace: int = 1
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)

    def config(self, settings: dict[str, Any]) -> Config:
        """The whole settings of the trial that changes ``settings``."""
        changes = {key: value for key, value in settings.items() if key != "arm"}
        changes |= self.arms.get(settings.get("arm", ""), {})
        return build(Config, merge(self.base, changes), where="settings of a trial")


def check_trials(metric: str, base: Config) -> None:
    """Refuse a metric that no trial measures, and trials that would take each other's room.

    Raises:
        ConfigError: Unknown, ``training.validation_rows`` is 0, or the number of workers is not fixed.
    """
    if base.resources.min_workers is not None:
        fix = "Leave it out of the base."
        raise ConfigError("a trial has a fixed number of workers", where="resources.min_workers", fix=fix)
    known = [f"validation.{name}" for name in Pretrain.scores]
    if metric not in known:
        raise ConfigError(f"no trial measures '{metric}'", where="metric", fix=near_miss(metric, known))
    if not base.training.validation_rows:
        raise ConfigError("the metric is never measured: training.validation_rows is 0", where=metric)


def check_store(metric: str, base: Config, store: str, manifest: Manifest) -> Config:
    """The base as it fits the store, logged once: in the trials nobody reads it.

    Raises:
        ConfigError: The metric cannot be measured on this store.
    """
    fitted = fit_to_store(base, Pretrain(), store, manifest)
    measured = [f"validation.{name}" for name in Pretrain.scores if "text" not in name or fitted.objective.uses_text]
    if not fitted.training.validation_rows or metric not in measured:
        raise ConfigError(
            f"'{metric}' cannot be measured on this store",
            where=store,
            fix="Prepare it with validation recordings (--validation-folds, or a column 'split')."
            if not fitted.training.validation_rows
            else f"It has no reports; name another metric: {', '.join(measured)}.",
        )
    return fitted


def take_folder(
    config: SweepConfig | AblationConfig, base: dict[str, Any], digest: str, trial_store: TrialStore, fresh: bool
) -> None:
    """Take an empty folder, or one without a begun trial, or recognise the trials in it.

    Args:
        config: Of the sweep or ablation.
        base: Settings that every trial starts from.
        digest: Of the store's manifest.
        trial_store: Of the folder.
        fresh: Refuse a folder that is not empty.

    Raises:
        RunError: The folder holds other things.
    """
    kind = "sweep" if isinstance(config, SweepConfig) else "ablation"
    uri = join(trial_store.out, names.SWEEP)
    identity: dict[str, Any] = {
        kind: config.model_dump(mode="json", exclude=_MAY_CHANGE),
        "base": build(Config, base, where=f"base {config.base}").training_identity(),
        "manifest_digest": digest,
    }
    begun = holds_same_work(
        trial_store.out,
        kind,
        names.SWEEP,
        fresh=fresh,
        has_begun=lambda: bool(trial_store.names()) or exists(join(trial_store.out, names.SHARED_TEACHER)),
        differences=lambda: _refused_differences(read_json(uri), identity, kind, trial_store.out),
    )
    if not begun:
        write_bytes_atomic(uri, json.dumps(identity, indent=1).encode())


def _refused_differences(before: dict[str, Any], after: dict[str, Any], kind: str, out: str) -> list[str]:
    if kind not in before:
        raise RunError(f"holds no {kind}, but trials of another command", where=out, fix="Give another --out.")
    if before.get("manifest_digest") != after["manifest_digest"]:
        raise RunError(f"holds a {kind} on another store", where=out, fix="Give another --out.")
    return setting_differences(before, after)


def num_remaining(trial_store: TrialStore, trials: int) -> int:
    """Trials that have not ended; 0 where an earlier command ran as many (some may have been the same trial)."""
    uri = join(trial_store.out, names.FINISHED)
    if exists(uri) and read_json(uri).get("trials", 0) >= trials:
        return 0
    return max(0, trials - sum(trial.state != "running" for trial in of_the_search(trial_store.trials())))


class ListSearcher(Searcher):
    """Trials in the order of a list, none after the deadline."""

    def __init__(self, settings: list[dict[str, Any]], deadline: float) -> None:
        super().__init__()
        self._remaining, self._deadline = list(settings), deadline

    def suggest(self, trial_id: str) -> Any:
        return Searcher.FINISHED if not self._remaining or time.time() > self._deadline else self._remaining.pop(0)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Results do not change the list."""


def start_tune(config: SweepConfig | AblationConfig, base: dict[str, Any]) -> None:
    """Start Ray, and Tune without its output."""
    resources = build(Config, base, where="base").resources
    for name, value in ray_quirks.TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # every trial's blocks need their memory: in a full store Ray collects garbage in all processes, over and over
    start_ray(resources.model_copy(update={"object_store_mb": resources.object_store_mb * config.max_concurrent}))
    ray_quirks.silence_tune_warning()


def run_trials(
    config: SweepConfig | AblationConfig, settings: TrialSettings, searcher: Searcher, remaining: int, total: int
) -> None:
    """Run up to ``remaining`` of ``total`` trials, which ``searcher`` suggests, until the deadline."""
    base = build(Config, settings.base, where="base").validated_between_steps()
    need = [Need("trial", {"CPU": TRIAL_CPUS}), *needs(base)]
    await_room(need * config.max_concurrent, f"{config.max_concurrent} trials at a time")
    trial_store = settings.trial_store
    filesystem, path = open_filesystem(join(trial_store.out, names.TUNE), create=True)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, trials=settings), {"CPU": TRIAL_CPUS}),
        tune_config=tune.TuneConfig(
            metric=config.metric,
            mode="max",
            num_samples=remaining,
            max_concurrent_trials=config.max_concurrent,
            search_alg=searcher,
            reuse_actors=True,  # a trial's own process has imported all that the next one needs
        ),
        run_config=tune.RunConfig(
            name=f"session-{int(time.time())}",
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            # a lost process starts again, and its trial goes on from its own last checkpoint
            failure_config=tune.FailureConfig(max_failures=base.resources.max_failures),
            callbacks=[_TrialLogger(trial_store, total - remaining, total)],
        ),
    )
    attend(tuner.fit, trial_store.out, "The same command goes on with the remaining trials.")
    if time.time() < settings.deadline:
        write_bytes_atomic(join(trial_store.out, names.FINISHED), json.dumps({"trials": config.trials}).encode())


def _trial(settings: dict[str, Any], trials: TrialSettings) -> None:
    """One trial, in a process of its own, to its end: an error is kept, and not raised, which Tune would take for a loss."""
    trial_store, name, config = trials.trial_store, trial_id(settings), trials.config(settings)
    steps = total_steps(config, read_manifest(trials.store))
    rule = StopRule(
        trial_store, name, trials.prune_quantile, trials.reduction_factor, trials.prune_grace, steps, trials.deadline
    )
    trial_store.write(settings, "running")
    delete_file(join(trial_store.run_folder(name), LEASE_NAME))  # of its lost process, maybe on another machine
    try:
        trials.train(config, trials.store, trial_store.run_folder(name), stop_rule=rule, quiet=True)
    except Exception as error:
        trial_store.write(settings, "failed", str(root_cause(error, name)))
        return
    trial_store.write(settings, "done")
    score = trial_store.trial(name).score(trial_store.metric)
    if score is not None:
        tune.report({trial_store.metric: score})


class _TrialLogger(tune.Callback):
    """Writes the state of trials whose process died too often, and logs one line for each trial that ends."""

    def __init__(self, trial_store: TrialStore, ended: int, total: int) -> None:
        self._trial_store, self._ended, self._total = trial_store, ended, total

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._log(trial.config)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = trial_id(trial.config)
        if name not in self._trial_store.names() or self._trial_store.trial(name).state == "running":
            error = trial.get_error() or WorkError("its process died")
            self._trial_store.write(trial.config, "failed", str(root_cause(error, name)))
        self._log(trial.config)

    def _log(self, settings: dict[str, Any]) -> None:
        trial = self._trial_store.trial(trial_id(settings))
        self._ended += 1
        score = trial.score(self._trial_store.metric)
        measured = "not measured" if score is None else f"{score:.4f}"
        outcome = trial.error or f"{self._trial_store.metric} {measured}"
        values = "  ".join(f"{key}={_short(value)}" for key, value in settings.items())
        logger.info("%s (%d of %d) %s: %s  %s", trial.id, self._ended, self._total, trial.state, outcome, values)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
