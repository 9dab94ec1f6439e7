"""The trials of a sweep: state of each, and the rule by which one stops itself.

A trial's id is the digest of its settings, so the same settings are the same trial in any process or session. Layout:
``trials/<id>.json`` (settings and state), ``trials/<id>.stopped.json`` (why), ``trials/<id>/`` (its run).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ecgscan_ray.errors import RunError
from ecgscan_ray.filesystem import exists, join, list_files, write_bytes_atomic
from ecgscan_ray.filesystem.threads import in_order
from ecgscan_ray.runs.folder import read_json
from ecgscan_ray.runs.metrics import read_metrics, series
from ecgscan_ray.runs.names import TRIALS

STATES = ("running", "done", "failed")

MIN_PEERS = 2
"""A trial is compared with earlier ones only where so many reached the same step."""
READ_THREADS = 16
"""Trials whose files are read at a time."""
SEED = "seed"
"""The setting in which a repeated trial differs from the one of the search."""


def trial_id(settings: dict[str, Any]) -> str:
    """Short name of the trial with these settings."""
    return "trial-" + hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        id: Short and stable.
        state: ``done``, ``stopped`` (pruned, or at the deadline), ``failed``, or ``running``.
        config: Dotted key -> value, what this trial changed.
        reports: Metrics of each report in order; each with ``step``.
        error: One line, if it failed.
        reason: Why it was stopped.
    """

    id: str
    state: Literal["done", "stopped", "failed", "running"]
    config: dict[str, Any]
    reports: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None
    reason: str | None = None

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and finite values of ``metric``."""
        pairs = [(int(r["step"]), float(r[metric])) for r in self.reports if is_finite(r.get(metric))]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def score(self, metric: str) -> float | None:
        """The best value it reported."""
        return max(self.curve(metric)[1], default=None)


def is_finite(value: object) -> bool:
    """Whether a figure of a report is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


@dataclass(frozen=True)
class TrialStore:
    """The files of the trials of a sweep or an ablation.

    Attributes:
        out: URI of the sweep's folder.
        metric: What trials are ranked by.
    """

    out: str
    metric: str

    def run_folder(self, name: str) -> str:
        """URI of the trial's run."""
        return join(self.out, TRIALS, name)

    def write(self, settings: dict[str, Any], state: str, error: str | None = None) -> None:
        """Write the state of the trial with these settings: ``running``, ``done`` or ``failed``."""
        content = {"config": settings, "state": state, "error": error}
        write_bytes_atomic(f"{self.run_folder(trial_id(settings))}.json", json.dumps(content, indent=1).encode())

    def write_stop(self, name: str, reason: str) -> None:
        """Write why the trial stopped itself."""
        write_bytes_atomic(f"{self.run_folder(name)}.stopped.json", json.dumps({"reason": reason}).encode())

    def names(self) -> list[str]:
        """Ids of all trials that began."""
        files = list_files(join(self.out, TRIALS))
        return [
            file[: -len(".json")] for file in files if file.endswith(".json") and not file.endswith(".stopped.json")
        ]

    def trial(self, name: str) -> Trial:
        """One trial with its reports so far."""
        entry = self._entry(name)
        lines = [line for line in read_metrics(self.run_folder(name)) if line["kind"] == "validation"]
        state, reason, stopped = entry["state"], None, f"{self.run_folder(name)}.stopped.json"
        if state == "done" and exists(stopped):
            state, reason = "stopped", read_json(stopped).get("reason")
        return Trial(name, state, entry["config"], lines, entry["error"], reason)

    def _entry(self, name: str) -> dict[str, Any]:
        uri = f"{self.run_folder(name)}.json"
        entry = read_json(uri)
        if not isinstance(entry.get("config"), dict) or entry.get("state") not in STATES:
            raise RunError("damaged", where=uri, fix="Delete this file: the trial runs again.")
        return {"error": None, **entry}

    def trials(self) -> list[Trial]:
        """All trials that began."""
        return list(in_order(self.trial, self.names(), READ_THREADS))


def of_the_search(trials: Sequence[Trial]) -> list[Trial]:
    """Without those that repeat another one with a further seed."""
    repeats = {trial.id for group in repeats_of(trials).values() for trial in group}
    return [trial for trial in trials if trial.id not in repeats]


def repeats_of(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Id of a trial of the search -> the trials that repeat it with a further seed."""
    names = {trial.id for trial in trials}
    repeats: dict[str, list[Trial]] = {}
    for trial in trials:
        original = trial_id({key: value for key, value in trial.config.items() if key != SEED})
        if original != trial.id and original in names:
            repeats.setdefault(original, []).append(trial)
    return repeats


@dataclass(frozen=True)
class StopRule:
    """Lets a trial stop itself at a report; a trial killed from outside would leave its reserved CPUs behind.

    With a factor: asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) in its form without pauses, where a trial
    that is not promoted ends.

    Attributes:
        trial_store: Of the sweep.
        name: The trial's id.
        quantile: It stops when its metric lies below this quantile of the other trials at the same step; 0 = never.
        factor: It stops at report ``prune_grace`` times a power of this when it is not among the best 1 / ``factor`` of the
            trials that got there, itself included; ``None`` = never.
        prune_grace: Reports that it may make in any case; with a factor, those before the first comparison, which is included.
        last_step: Of a whole trial, at which there is nothing left to stop.
        deadline: Of the sweep, seconds since 1970.
    """

    trial_store: TrialStore
    name: str
    quantile: float
    factor: int | None
    prune_grace: int
    last_step: int
    deadline: float

    def __call__(self, step: int, metrics: dict[str, float]) -> bool:
        reason = None if step >= self.last_step else self._reason(step, metrics)
        if reason:
            self.trial_store.write_stop(self.name, reason)
        return reason is not None

    def _reason(self, step: int, metrics: dict[str, float]) -> str | None:
        if time.time() > self.deadline:
            return f"the sweep's deadline came at step {step}"
        score = metrics.get(self.trial_store.metric)
        if score is None or not self._compares(
            len({**self._curve(self.name), step: score})
        ):  # its line may not be stored yet
            return None
        others = [name for name in self.trial_store.names() if name != self.name]
        scores = [curve[step] for curve in in_order(self._curve, others, READ_THREADS) if step in curve]
        if self.factor:
            return self._halved(score, scores, step)
        if len(scores) < MIN_PEERS:
            return None
        threshold = float(np.quantile(scores, self.quantile))
        if score >= threshold:
            return None
        return (
            f"{score:.4f} at step {step} lies below {threshold:.4f}, quantile {self.quantile:g} of {len(scores)} trials"
        )

    def _compares(self, reports: int) -> bool:
        """Whether a trial with so many reports is compared with others."""
        if not self.factor:
            return bool(self.quantile) and reports > self.prune_grace
        while reports > self.prune_grace and reports % self.factor == 0:
            reports //= self.factor
        return reports == self.prune_grace

    def _halved(self, score: float, scores: Sequence[float], step: int) -> str | None:
        """Why it is not promoted; ``None`` where it is, or where it is one of the first."""
        assert self.factor
        rank, trials = 1 + sum(other > score for other in scores), len(scores) + 1
        if trials < self.factor or rank <= trials // self.factor:
            return None
        return (
            f"{score:.4f} at step {step} is rank {rank} of {trials} trials, and the best {trials // self.factor} go on"
        )

    def _curve(self, name: str) -> dict[int, float]:
        steps, values = series(read_metrics(self.trial_store.run_folder(name)), "validation", self.trial_store.metric)
        return dict(zip(steps, values, strict=True))
