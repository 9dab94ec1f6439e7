"""A search over settings: Optuna suggests trials, each a short pretraining run by Ray Tune."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import Any

import optuna
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from ecgscan_ray.config import (
    Config,
    SweepConfig,
    build,
    dump_yaml,
    merge,
    read_settings,
    unknown_setting,
)
from ecgscan_ray.filesystem import absolute, join, write_bytes_atomic
from ecgscan_ray.filesystem.lease import exclusive
from ecgscan_ray.report.sweep import best_two, write_sweep_report
from ecgscan_ray.runs import names
from ecgscan_ray.runs.folder import flat
from ecgscan_ray.runs.search_space import bounds, distributions
from ecgscan_ray.runs.trials import SEED, TrialStore, of_the_search, trial_id
from ecgscan_ray.runtime.cluster import check_address
from ecgscan_ray.runtime.pretrain import pretrain
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


def sweep(
    config: SweepConfig, store: str, out: str, *, fresh: bool = False, train: Train | None = None
) -> dict[str, Any]:
    """Search a space; the same call on an unfinished sweep goes on where it stopped.

    Trials that ended, however they ended, stay as they are; one that was running goes on from its own last checkpoint.

    Args:
        config: What to search.
        store: URI of a prepared store.
        out: URI of the sweep's folder; gets the report, ``trials/`` and ``best.yaml``.
        fresh: Refuse a folder that is not empty.
        train: Runs one trial and takes what ``pretrain`` takes; by default that.

    Returns:
        The content of ``report.json``.

    Raises:
        InputError: Settings, store or folder cannot be used.
    """
    check_address()
    store, out = absolute(store), absolute(out)
    base = merge(read_settings(config.base), config.base_overrides)
    resolved = build(Config, base, where=f"base {config.base}")
    _check_space(config, base, resolved)
    manifest = read_manifest(store)
    if train is None:
        fitted = check_store(config.metric, resolved, store, manifest)
        if "objective.gram_weight" in config.space and not fitted.objective.uses_text:
            logger.warning("objective.gram_weight is in the space, and has no effect without reports")
    trial_store = TrialStore(out, config.metric)
    with exclusive(out, "ecgscan sweep"):
        take_folder(config, base, manifest.digest(), trial_store, fresh)
        settings = TrialSettings(
            base,
            store,
            trial_store,
            train or pretrain,
            time.time() + config.deadline_s,
            config.prune_quantile,
            config.reduction_factor,
            config.prune_grace,
        )
        began = [_search(config, settings), _repeat_best(config, settings)]
        if not any(began):
            logger.info("%s: finished already; nothing to do", out)
        return _write_report(config, trial_store)


def _search(config: SweepConfig, settings: TrialSettings) -> bool:
    """Run the trials that remain; whether there were any."""
    remaining = num_remaining(settings.trial_store, config.trials)
    if remaining:
        start_tune(config, settings.base)
        searcher = _searcher(config, settings.trial_store, settings.deadline)
        run_trials(config, settings, searcher, remaining, config.trials)
    return bool(remaining)


def _repeat_best(config: SweepConfig, settings: TrialSettings) -> bool:
    """Run the best two trials with further seeds, to their end; whether any of these runs remained."""
    if not config.final_seeds or time.time() > settings.deadline:
        return False
    trials, base_seed = settings.trial_store.trials(), build(Config, settings.base, where="base").seed
    ended = {trial.id for trial in trials if trial.state != "running"}
    repeats = [
        {**trial.config, SEED: base_seed + number}
        for number in range(1, config.final_seeds + 1)
        for trial in best_two(trials, config.metric)
    ]
    remaining = [point for point in repeats if trial_id(point) not in ended]
    if remaining:
        start_tune(config, settings.base)
        logger.info("the best two trials run again, with %d further seeds", config.final_seeds)
        whole = replace(settings, prune_quantile=0.0, reduction_factor=None)
        run_trials(config, whole, ListSearcher(remaining, settings.deadline), len(remaining), len(repeats))
    return bool(remaining)


def _check_space(config: SweepConfig, base: dict[str, Any], resolved: Config) -> None:
    """Every value that a trial may get is tried on the config before any trial starts."""
    check_trials(config.metric, resolved)
    known = flat(resolved.model_dump(mode="json"))
    for key, span in config.space.items():
        if key not in known:
            raise unknown_setting(key, known, where="space")
        if span.choices is not None:
            values = span.choices
        else:
            low, high = bounds(span)
            values = [low, high, low + (high - low) * 0.3737]
        for value in values:
            build(Config, merge(base, {key: value}), where="space")


class _DeadlineOptuna(OptunaSearch):
    """Optuna, which suggests nothing after the deadline: running trials end by themselves, none is killed."""

    deadline: float

    def suggest(self, trial_id: str) -> Any:
        return Searcher.FINISHED if time.time() > self.deadline else super().suggest(trial_id)


def _searcher(config: SweepConfig, trial_store: TrialStore, deadline: float) -> OptunaSearch:
    """Optuna with what is known: ended trials as points with their score, trials that were running first of all."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = of_the_search(trial_store.trials())
    searcher = _DeadlineOptuna(
        space=distributions(config.space),
        metric=config.metric,
        mode="max",
        points_to_evaluate=[trial.config for trial in trials if trial.state == "running"] or None,
        seed=config.seed + len(trials),  # else a second session would draw the first one's points again
    )
    searcher.deadline = deadline
    for trial in trials:
        score = trial.score(config.metric)
        if trial.state in ("done", "stopped") and score is not None:
            searcher.add_evaluated_point(trial.config, score)
    return searcher


def _write_report(config: SweepConfig, trial_store: TrialStore) -> dict[str, Any]:
    """Report, and the best trial's settings as a config for a whole run."""
    trials = trial_store.trials()
    content = write_sweep_report(trial_store.out, trials, config.space, config.metric)
    if content["best"]:
        settings = merge(read_settings(config.base), content["best"]["config"])
        best = build(Config, settings, where=f"base {config.base}")
        shortened = ", ".join(f"{key}={value}" for key, value in config.base_overrides.items()) or "nothing"
        name, score = content["best"]["id"], content["best"]["score"]
        head = (
            f"# The best of {len(of_the_search(trials))} trials ({name}, {config.metric} {score:.4f})\n"
            f"# on {config.base}, for a whole run, without what made the trials short ({shortened}).\n"
        )
        write_bytes_atomic(join(trial_store.out, names.BEST_CONFIG), (head + dump_yaml(best)).encode())
    return content
