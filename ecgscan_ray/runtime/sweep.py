"""A search over settings, or an ablation over named arms: Ray Tune around the same pretraining, one short run a trial.

The sweep keeps its own book (``trials.py``) instead of Tune's: a command given again reads the book, hands Optuna what
is known, and goes on with what was running. Tune is left with what it does well: starting trials, and asking Optuna or,
for an ablation, a list.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from ecgscan_ray.config import Config, SearchRange, SweepConfig, build, dump_yaml, merge, read_yaml, unknown_setting
from ecgscan_ray.errors import ConfigError, RunError, WorkError, near_miss
from ecgscan_ray.filesystem import absolute, delete_file, exists, join, open_filesystem, write_bytes_atomic
from ecgscan_ray.filesystem.lease import LEASE_NAME, exclusive
from ecgscan_ray.report.sweep import write_sweep_report
from ecgscan_ray.runs import names
from ecgscan_ray.runs.folder import flat, holds_same_work, read_json, setting_differences
from ecgscan_ray.runs.needs import Need, needs
from ecgscan_ray.runs.spec import total_steps
from ecgscan_ray.runs.trials import StopRule, Trial, TrialStore, trial_id
from ecgscan_ray.runtime import ablation, ray_quirks
from ecgscan_ray.runtime.attend import attend
from ecgscan_ray.runtime.cluster import check_address, start_ray
from ecgscan_ray.runtime.demand import await_room
from ecgscan_ray.runtime.failures import root_cause
from ecgscan_ray.runtime.pretrain import pretrain
from ecgscan_ray.store.manifest import Manifest, read_manifest
from ecgscan_ray.tasks.fit_to_store import fit_to_store
from ecgscan_ray.tasks.pretrain import Pretrain

logger = logging.getLogger(__name__)

Train = Callable[..., None]

TRIAL_CPUS = 0.01
"""A trial's own process holds nearly nothing: the work is done by the workers that it starts."""

_MAY_CHANGE = {"trials", "max_concurrent", "deadline_s"}
"""Settings in which a command may differ from the one that began the sweep."""


@dataclass(frozen=True)
class _TrialSettings:
    """What each trial gets."""

    base: dict[str, Any]
    store: str
    book: TrialStore
    quantile: float
    prune_grace: int
    deadline: float
    train: Train
    arms: dict[str, dict[str, Any]]

    def config(self, settings: dict[str, Any]) -> Config:
        changes = {key: value for key, value in settings.items() if key != "arm"}
        changes |= self.arms.get(settings.get("arm", ""), {})
        return build(Config, merge(self.base, changes), where="the sweep's space")


def sweep(
    config: SweepConfig, store: str, out: str, *, fresh: bool = False, train: Train | None = None
) -> dict[str, Any]:
    """Search a space, or set arms beside each other; the same call on an unfinished sweep goes on where it stopped.

    Trials that ended, however they ended, stay as they are; one that was running goes on from its own last checkpoint.

    Args:
        config: What to search.
        store: URI of a prepared store.
        out: URI of the sweep's folder; gets the report, ``trials/``, and ``best.yaml`` of a search.
        fresh: Refuse a folder that is not empty.
        train: Runs one trial and takes what ``pretrain`` takes; by default that, with an evaluation where there are arms.

    Returns:
        The content of ``report.json``.

    Raises:
        InputError: Settings, store or folder cannot be used.
    """
    check_address()
    store, out = absolute(store), absolute(out)
    base = merge(read_yaml(config.base), config.base_overrides)
    _check_space(config, base)
    manifest = read_manifest(store)
    if train is None:
        _check_store(config, build(Config, base, where=f"base {config.base}"), store, manifest)
    book = TrialStore(out, config.metric)
    with exclusive(out, "ecgscan sweep"):
        return _sweep(config, base, store, manifest.digest(), book, fresh, train)


def _sweep(
    config: SweepConfig,
    base: dict[str, Any],
    store: str,
    digest: str,
    book: TrialStore,
    fresh: bool,
    train: Train | None,
) -> dict[str, Any]:
    """The rest of the sweep in a folder that is ours."""
    out = book.out
    _claim(config, base, digest, book, fresh)
    left = config.length - sum(trial.state != "running" for trial in book.trials())
    if left > 0 and not _exhausted(out, config):
        deadline = time.time() + config.deadline_s
        train = train or (ablation.train_and_measure if config.arms else pretrain)
        arms = ablation.arms_with_teacher(config, out)
        plan = _TrialSettings(base, store, book, config.prune_quantile, config.prune_grace, deadline, train, arms)
        _start(config, base)
        ablation.teach_shared(config, base, store, out)
        _search(config, plan, left)
    else:
        logger.info("%s: finished already; nothing to do", out)
    return ablation.write_report(config, book) if config.arms else _write_report(config, book)


def _check_space(config: SweepConfig, base: dict[str, Any]) -> None:
    """Every value that a trial may get is tried on the config now, not in the middle of the night."""
    resolved = build(Config, base, where=f"base {config.base}")
    _check_metric(config.metric, resolved)
    known = flat(resolved.model_dump(mode="json"))
    for key, span in config.space.items():
        if key not in known:
            raise unknown_setting(key, known, where="space")
        if span.choices is not None:
            values = span.choices
        else:
            assert span.low is not None  # the config's own check
            assert span.high is not None
            values = [span.low, span.high, span.low + (span.high - span.low) * 0.3737]
        for value in values:
            build(Config, merge(base, {key: value}), where="space")
    for arm, changes in config.arms.items():
        for key in changes:
            if key not in known:
                raise unknown_setting(key, known, where=f"arm '{arm}'")
        build(Config, merge(base, changes), where=f"arm '{arm}'")


def _check_metric(metric: str, base: Config) -> None:
    known = [f"validation.{name}" for name in Pretrain.scores]
    if metric not in known:
        raise ConfigError(f"no trial measures '{metric}'", where="metric", fix=near_miss(metric, known))
    if not base.training.validation_rows:
        raise ConfigError("the metric is never measured: training.validation_rows is 0", where=metric)


def _check_store(config: SweepConfig, base: Config, store: str, manifest: Manifest) -> None:
    """Says once what every trial would leave out on this store, where nobody reads it."""
    fitted = fit_to_store(base, Pretrain(), store, manifest)
    measured = [f"validation.{name}" for name in Pretrain.scores if "text" not in name or fitted.objective.uses_text]
    if not fitted.training.validation_rows or config.metric not in measured:
        raise ConfigError(
            f"'{config.metric}' cannot be measured on this store",
            where=store,
            fix="Prepare it with validation recordings (--validation-folds, or a column 'split')."
            if not fitted.training.validation_rows
            else f"It has no reports; name another metric: {', '.join(measured)}.",
        )
    if "objective.gram_weight" in config.space and not fitted.objective.uses_text:
        logger.warning("objective.gram_weight is in the space, and has no effect without reports")


def _claim(config: SweepConfig, base: dict[str, Any], digest: str, book: TrialStore, fresh: bool) -> None:
    """Take an empty folder, or one whose sweep never began a trial, or recognise the sweep that is in it."""
    uri = join(book.out, names.SWEEP)
    identity: dict[str, Any] = {
        "sweep": config.model_dump(mode="json", exclude=_MAY_CHANGE),
        "base": build(Config, base, where=f"base {config.base}").training_identity(),
        "manifest_digest": digest,
    }
    begun = holds_same_work(
        book.out,
        "sweep",
        names.SWEEP,
        fresh=fresh,
        has_begun=lambda: bool(book.names()) or exists(join(book.out, names.SHARED_TEACHER)),
        differences=lambda: _refused_differences(read_json(uri), identity, book.out),
    )
    if not begun:
        write_bytes_atomic(uri, json.dumps(identity, indent=1).encode())


def _refused_differences(before: dict[str, Any], after: dict[str, Any], out: str) -> list[str]:
    if before.get("manifest_digest") != after["manifest_digest"]:
        raise RunError("holds a sweep on another store", where=out, fix="Give another --out.")
    return setting_differences(before, after)


def _exhausted(out: str, config: SweepConfig) -> bool:
    """Whether an earlier command asked for as many trials and ran them all (some may have been the same trial)."""
    uri = join(out, names.FINISHED)
    return exists(uri) and read_json(uri).get("trials", 0) >= config.length


def _start(config: SweepConfig, base: dict[str, Any]) -> None:
    """Ray, and Tune without its noise."""
    resources = build(Config, base, where="base").resources
    for name, value in ray_quirks.TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # every trial's blocks want their room: in a full store Ray collects garbage in all processes, over and over
    start_ray(resources.model_copy(update={"object_store_mb": resources.object_store_mb * config.max_concurrent}))
    ray_quirks.silence_tune_warning()


def _search(config: SweepConfig, plan: _TrialSettings, left: int) -> None:
    _preflight(config, plan)
    for name in plan.book.names():  # of an earlier command, whose trials may have run on other machines
        delete_file(join(plan.book.run_folder(name), LEASE_NAME))
    filesystem, path = open_filesystem(join(plan.book.out, names.TUNE), create=True)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, plan=plan), {"CPU": TRIAL_CPUS}),
        tune_config=tune.TuneConfig(
            metric=config.metric,
            mode="max",
            num_samples=left,
            max_concurrent_trials=config.max_concurrent,
            search_alg=_ListSearcher(_points_left(config, plan), plan.deadline)
            if config.arms
            else _searcher(config, plan),
        ),
        run_config=tune.RunConfig(
            name=f"session-{int(time.time())}",
            storage_path=path,
            storage_filesystem=filesystem,
            verbose=0,
            callbacks=[_TrialLogger(plan.book, config.length)],
        ),
    )
    attend(tuner.fit, plan.book.out, "The same command goes on with what is left.")
    if time.time() < plan.deadline:
        write_bytes_atomic(join(plan.book.out, names.FINISHED), json.dumps({"trials": config.length}).encode())


def _preflight(config: SweepConfig, plan: _TrialSettings) -> None:
    each = [Need("trial", {"CPU": TRIAL_CPUS}), *needs(build(Config, plan.base, where="base"))]
    await_room(each * config.max_concurrent, f"{config.max_concurrent} trials at a time")


def _distribution(span: SearchRange) -> BaseDistribution:
    if span.choices is not None:
        return CategoricalDistribution(span.choices)
    assert span.low is not None  # the config's own check
    assert span.high is not None
    return FloatDistribution(span.low, span.high, log=span.log)


class _DeadlineOptuna(OptunaSearch):
    """Optuna, which suggests nothing after the deadline: running trials end by themselves, none is killed."""

    deadline: float

    def suggest(self, trial_id: str) -> Any:
        return Searcher.FINISHED if time.time() > self.deadline else super().suggest(trial_id)


class _ListSearcher(Searcher):
    """Trials in the order of a list, none after the deadline."""

    def __init__(self, settings: list[dict[str, Any]], deadline: float) -> None:
        super().__init__()
        self._left, self._deadline = list(settings), deadline

    def suggest(self, trial_id: str) -> Any:
        return Searcher.FINISHED if not self._left or time.time() > self._deadline else self._left.pop(0)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """The list stays as it is, whatever comes out."""


def _points_left(config: SweepConfig, plan: _TrialSettings) -> list[dict[str, Any]]:
    """Trials of an ablation that have not ended."""
    ended = {trial.id for trial in plan.book.trials() if trial.state != "running"}
    return [settings for settings in ablation.grid(config) if trial_id(settings) not in ended]


def _searcher(config: SweepConfig, plan: _TrialSettings) -> OptunaSearch:
    """Optuna with what is known: ended trials as points with their score, trials that were running first of all."""
    trials = plan.book.trials()
    searcher = _DeadlineOptuna(
        space={key: _distribution(span) for key, span in config.space.items()},
        metric=config.metric,
        mode="max",
        points_to_evaluate=[trial.config for trial in trials if trial.state == "running"] or None,
        seed=config.seed + len(trials),  # else a second session would draw the first one's points again
    )
    searcher.deadline = plan.deadline
    for trial in trials:
        score = trial.score(config.metric)
        if trial.state in ("done", "stopped") and score is not None:
            searcher.add_evaluated_point(trial.config, score)
    return searcher


def _trial(settings: dict[str, Any], plan: _TrialSettings) -> None:
    """One trial, in a process of its own."""
    name, config = trial_id(settings), plan.config(settings)
    steps = total_steps(config, read_manifest(plan.store))
    rule = StopRule(plan.book, name, plan.quantile, plan.prune_grace, steps, plan.deadline)
    plan.book.write(settings, "running")
    try:
        plan.train(config, plan.store, plan.book.run_folder(name), stop_rule=rule, quiet=True)
    except Exception as error:
        plan.book.write(settings, "failed", str(root_cause(error, name)))
        raise
    plan.book.write(settings, "done")
    score = plan.book.trial(name).score(plan.book.metric)
    if score is not None:
        tune.report({plan.book.metric: score})


class _TrialLogger(tune.Callback):
    """Notes trials whose process died before it could, and says one log line on each that ends."""

    def __init__(self, book: TrialStore, total: int) -> None:
        self._book, self._total = book, total

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._tell(trial.config)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name = trial_id(trial.config)
        if name not in self._book.names() or self._book.trial(name).state == "running":
            error = trial.get_error() or WorkError("its process died")
            self._book.write(trial.config, "failed", str(root_cause(error, name)))
        self._tell(trial.config)

    def _tell(self, settings: dict[str, Any]) -> None:
        known = self._book.trial(trial_id(settings))
        ended = sum(other.state != "running" for other in self._book.trials())
        score = known.score(self._book.metric)
        found = known.error or f"{self._book.metric} " + ("not measured" if score is None else f"{score:.4f}")
        values = "  ".join(f"{key}={_short(value)}" for key, value in settings.items())
        logger.info("%s (%d of %d) %s: %s  %s", known.id, ended, self._total, known.state, found, values)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _write_report(config: SweepConfig, book: TrialStore) -> dict[str, Any]:
    """Report, and the best trial's settings as a config for a whole run."""
    trials: list[Trial] = book.trials()
    content = write_sweep_report(book.out, trials, config.space, config.metric)
    if content["best"]:
        best = build(Config, merge(read_yaml(config.base), content["best"]["config"]), where=f"base {config.base}")
        shortened = ", ".join(f"{key}={value}" for key, value in config.base_overrides.items()) or "nothing"
        name, score = content["best"]["id"], content["best"]["score"]
        head = (
            f"# The best of {len(trials)} trials ({name}, {config.metric} {score:.4f})\n"
            f"# on {config.base}, for a whole run; what the trials changed to be short is left out ({shortened}).\n"
        )
        write_bytes_atomic(join(book.out, names.BEST_CONFIG), (head + dump_yaml(best)).encode())
    return content
