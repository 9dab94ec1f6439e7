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
from ecgscan_ray.runs.search_space import MIN_TRIALS, importances
from ecgscan_ray.runs.trials import SEED, Trial, of_the_search, repeats_of

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


def best_two(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """The two trials of the search that finished with the best scores, or fewer."""
    order = ranked(of_the_search(trials), metric)
    return [trial for trial in order if trial.state == "done" and trial.score(metric) is not None][:2]


@dataclass(frozen=True)
class Repeated:
    """One of the best two, and what it scored with further seeds.

    Attributes:
        trial: Of the search.
        scores: Seed -> score of each repetition that finished.
    """

    trial: Trial
    scores: dict[int, float]

    @property
    def mean(self) -> float:
        """Over the further seeds alone: the search's own score is the best of many, and so too high."""
        return float(np.mean(list(self.scores.values())))


def repeated_best(trials: Sequence[Trial], metric: str) -> list[Repeated]:
    """The best two with the scores of their further seeds, the better mean first; empty unless both have some."""
    repeats, both = repeats_of(trials), []
    for trial in best_two(trials, metric):
        done = [other for other in repeats.get(trial.id, []) if other.state == "done"]
        scores = {other.config[SEED]: score for other in done if (score := other.score(metric)) is not None}
        both.append(Repeated(trial, scores))
    return sorted(both, key=lambda one: -one.mean) if len(both) == 2 and all(one.scores for one in both) else []


@dataclass(frozen=True)
class Comparison:
    """Whether the ranking of the best two means anything."""

    text: str
    gap: float | None = None
    noise: float | None = None
    within_noise: bool | None = None


def compare_best(trials: Sequence[Trial], metric: str) -> Comparison:
    """The gap of the best two finished trials, compared with the noise of a difference (2 standard errors).

    With further seeds: the gap of their means.
    """
    best, repeated = best_two(trials, metric), repeated_best(trials, metric)
    if len(best) < 2:
        return Comparison("Fewer than two trials finished with a score: there is nothing to rank.")
    if repeated:
        best, gap = [one.trial for one in repeated], repeated[0].mean - repeated[1].mean
        variance = sum(1 / len(one.scores) for one in repeated)
    else:
        gap, variance = (best[0].score(metric) or 0.0) - (best[1].score(metric) or 0.0), 2.0
    level = noise(trials, metric)
    names = f"{best[0].id} leads {best[1].id} by {gap:.4f}"
    if level is None:
        return Comparison(f"{names}. The noise is unknown: too few reports and no repeated seeds.", gap)
    margin = 2 * math.sqrt(variance) * level
    within = gap <= margin
    word = "within the noise: they are not distinguishable" if within else "more than the noise"
    return Comparison(f"{names}, {word} (2 standard errors of a difference: {margin:.4f}).", gap, level, within)


def at_shared_step(trials: Sequence[Trial], metric: str) -> tuple[int, list[tuple[Trial, float]]]:
    """Scores that can be compared where trials were stopped early: at the last step that three of four trials reached.

    Returns:
        The step, and each trial that reported there with its score; 0 and none where no trial reported.
    """
    curves = [(trial, dict(zip(*trial.curve(metric), strict=True))) for trial in trials]
    curves = [(trial, curve) for trial, curve in curves if curve]
    steps = sorted({step for _, curve in curves for step in curve}, reverse=True)
    for step in steps:
        points = [(trial, curve[step]) for trial, curve in curves if step in curve]
        if len(points) >= 0.75 * len(curves):
            return step, points
    return 0, []


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
    order, repeated = ranked(of_the_search(trials), metric), repeated_best(trials, metric)
    best = repeated[0].trial if repeated else next(iter(best_two(trials, metric)), None)
    step, points = at_shared_step([trial for trial in order if set(space) <= set(trial.config)], metric)
    states = ("done", "stopped", "failed", "running")
    content = {
        "metric": metric,
        "best": best and {"id": best.id, "score": best.score(metric), "config": best.config},
        "counts": {state: sum(trial.state == state for trial in order) for state in states},
        "verdict": asdict(compare_best(trials, metric)),
        "seeds": [_seeds_entry(one, metric) for one in repeated],
        "importance": {
            "step": step,
            "trials": len(points),
            "shares": importances(space, [(trial.config, score) for trial, score in points]),
        },
        "trials": [_entry(rank, trial, metric) for rank, trial in enumerate(order, start=1)],
    }
    write_bytes_atomic(join(out_uri, CSV_NAME), trials_csv(order, list(space), metric).encode())
    pictures = _pictures(order, points, best, space, metric)
    lost = [trial for trial in trials if trial.state in ("failed", "stopped")]
    html = render(
        "sweep.html.j2",
        report=content,
        keys=_short_names(list(space)),
        space=space,
        lost=lost,
        min_trials=MIN_TRIALS,
        **pictures,
    )
    write_report(out_uri, html, content)
    return content


def _seeds_entry(one: Repeated, metric: str) -> dict[str, Any]:
    scores = {str(seed): score for seed, score in sorted(one.scores.items())}
    return {"id": one.trial.id, "searched": one.trial.score(metric), "scores": scores, "mean": one.mean}


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


def _pictures(
    order: Sequence[Trial],
    points: Sequence[tuple[Trial, float]],
    best: Trial | None,
    space: Mapping[str, SearchRange],
    metric: str,
) -> dict[str, str | None]:
    """Name in the template -> ``data:`` URI, or ``None`` where there is nothing to draw."""
    curves = {trial.id: trial.curve(metric) for trial in order}
    curves = {name: curve for name, curve in curves.items() if curve[0]}
    scored = [(trial, trial.score(metric)) for trial in order if trial.state == "done"]
    by_setting: dict[str, list[tuple[object, float]]] = {
        key: [(trial.config[key], score) for trial, score in scored if key in trial.config and score is not None]
        for key in space
    }
    by_setting = {key: pairs for key, pairs in by_setting.items() if pairs}
    logs, names = {key: search.log for key, search in space.items()}, _short_names(list(space))
    lines = [(trial.config, score, trial == best) for trial, score in points]
    return {
        "curves": figures.trial_curves(curves, best.id if best else None, metric) if curves else None,
        "scatter": figures.scatter_grid(by_setting, logs, metric) if by_setting else None,
        "parallel": figures.parallel_coordinates(lines, logs, names, metric) if len(lines) > 1 else None,
    }
