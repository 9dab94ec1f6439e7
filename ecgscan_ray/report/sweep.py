"""The report of a sweep: ranking, learning curves, settings against the score, and what was stopped or failed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ecgscan_ray.config import SearchRange
from ecgscan_ray.filesystem import join, write_bytes_atomic
from ecgscan_ray.report import figures
from ecgscan_ray.report.html import render, write_report
from ecgscan_ray.runs.trials import Trial

CSV_NAME = "trials.csv"


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Best first: finished trials by score, then stopped ones, then those without a score.

    A stopped trial had fewer steps, so that its score cannot be compared with a finished one's.
    """
    order = {"done": 0, "running": 1, "stopped": 1, "failed": 2}

    def key(trial: Trial) -> tuple[int, float, str]:
        score = trial.score(metric)
        return (3 if score is None else order[trial.state], -(score or 0.0), trial.id)

    return sorted(trials, key=key)


def noise(trials: Sequence[Trial], metric: str) -> float | None:
    """Standard deviation of one trial's score, estimated from the trials; ``None`` where they are too few.

    With repeated seeds: pooled over groups of trials that differ only in their seed. Otherwise from second differences
    over the last half of each curve: a lower bound, since it does not include the variation between seeds.
    """
    groups: dict[str, list[float]] = {}
    for trial in trials:
        score = trial.score(metric)
        if trial.state == "done" and score is not None:
            settings = sorted((k, repr(v)) for k, v in trial.config.items() if k.rpartition(".")[2] != "seed")
            groups.setdefault(repr(settings), []).append(score)
    repeated = [np.array(values) for values in groups.values() if len(values) > 1]
    if repeated:
        squares = sum(float(((values - values.mean()) ** 2).sum()) for values in repeated)
        return math.sqrt(squares / sum(len(values) - 1 for values in repeated))
    jitter = []
    for trial in trials:
        values = np.array(trial.curve(metric)[1])
        if len(values) >= 4:
            jitter.append(np.diff(values[-max(4, len(values) // 2) :], 2))
    return float(np.sqrt(np.mean(np.concatenate(jitter) ** 2) / 6)) if jitter else None


@dataclass(frozen=True)
class Comparison:
    """Whether the ranking of the best two means anything."""

    text: str
    gap: float | None = None
    noise: float | None = None
    within_noise: bool | None = None


def compare_best(trials: Sequence[Trial], metric: str) -> Comparison:
    """The gap of the best two finished trials, compared with the noise of a difference (2 standard errors)."""
    best = [trial for trial in ranked(trials, metric) if trial.state == "done" and trial.score(metric) is not None][:2]
    if len(best) < 2:
        return Comparison("Fewer than two trials finished with a score: there is nothing to rank.")
    gap = (best[0].score(metric) or 0.0) - (best[1].score(metric) or 0.0)
    level = noise(trials, metric)
    names = f"{best[0].id} leads {best[1].id} by {gap:.4f}"
    if level is None:
        return Comparison(f"{names}. The noise is unknown: too few reports and no repeated seeds.", gap)
    margin = 2 * math.sqrt(2) * level
    within = gap <= margin
    word = "within the noise: they are not distinguishable" if within else "more than the noise"
    return Comparison(f"{names}, {word} (2 standard errors of a difference: {margin:.4f}).", gap, level, within)


def write_sweep_report(
    out_uri: str, trials: Sequence[Trial], space: Mapping[str, SearchRange], metric: str
) -> dict[str, Any]:
    """Write ``report.html``, ``report.json`` and ``trials.csv``.

    Args:
        out_uri: The sweep's folder, local or in a bucket.
        trials: All trials, of any state.
        space: Dotted key -> range that was searched.
        metric: What they are ranked by; higher is better.

    Returns:
        The content of ``report.json``: best trial, counts, verdict and the list of trials.
    """
    order, verdict = ranked(trials, metric), compare_best(trials, metric)
    best = next((trial for trial in order if trial.state == "done" and trial.score(metric) is not None), None)
    states = ("done", "stopped", "failed", "running")
    content = {
        "metric": metric,
        "best": best and {"id": best.id, "score": best.score(metric), "config": best.config},
        "counts": {state: sum(trial.state == state for trial in trials) for state in states},
        "verdict": asdict(verdict),
        "trials": [_entry(rank, trial, metric) for rank, trial in enumerate(order, start=1)],
    }
    write_bytes_atomic(join(out_uri, CSV_NAME), trials_csv(order, list(space), metric).encode())
    write_report(out_uri, _html(order, best, verdict, space, metric), content)
    return content


def _entry(rank: int, trial: Trial, metric: str) -> dict[str, Any]:
    steps, values = trial.curve(metric)
    return {
        "rank": rank,
        "id": trial.id,
        "state": trial.state,
        "score": trial.score(metric),
        "step": max((int(r["step"]) for r in trial.reports if "step" in r), default=0),
        "config": trial.config,
        "curve": [list(pair) for pair in zip(steps, values, strict=True)],
        "error": trial.error,
        "reason": trial.reason,
    }


def trials_csv(order: Sequence[Trial], keys: Sequence[str], metric: str) -> str:
    """One row a trial, best first."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(csv_row(["rank", "trial", "state", metric, "step", *keys, "error"]))
    for rank, trial in enumerate(order, start=1):
        entry = _entry(rank, trial, metric)
        score = "" if entry["score"] is None else f"{entry['score']:.6f}"
        settings = [trial.config.get(key, "") for key in keys]
        why = trial.error or trial.reason or ""
        writer.writerow(csv_row([rank, trial.id, trial.state, score, entry["step"], *settings, why]))
    return buffer.getvalue()


def csv_row(row: Sequence[Any]) -> list[Any]:
    """A row for a CSV file: text that a spreadsheet would take for a formula gets an apostrophe before it."""
    return [
        f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
        for cell in row
    ]


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Dotted key -> its last part, where that names it alone."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _html(
    order: Sequence[Trial], best: Trial | None, verdict: Comparison, space: Mapping[str, SearchRange], metric: str
) -> str:
    curves = {trial.id: trial.curve(metric) for trial in order}
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    scored = [(trial, trial.score(metric)) for trial in order if trial.state == "done"]
    points: dict[str, list[tuple[object, float]]] = {
        key: [(trial.config[key], score) for trial, score in scored if key in trial.config and score is not None]
        for key in space
    }
    points = {key: pairs for key, pairs in points.items() if pairs}
    logs = {key: search.log for key, search in space.items()}
    return render(
        "sweep.html.j2",
        metric=metric,
        best=best,
        best_score=best.score(metric) if best else None,
        verdict=verdict,
        rows=[_entry(rank, trial, metric) for rank, trial in enumerate(order, start=1)],
        keys=_short_names(list(space)),
        space=space,
        curves=figures.trial_curves(curves, best.id if best else None, metric) if curves else None,
        scatter=figures.scatter_grid(points, logs, metric) if points else None,
        lost=[trial for trial in order if trial.state in ("failed", "stopped")],
    )
