"""What is measured on a run, one evaluator each: retrieval, redrawn leads, counts, rejection, linear probe, zero-shot.

Another evaluator is a class with the three members of ``Evaluator``, and an entry in ``EVALUATORS``. Figures are named as in
``report.json``: flat and dotted, each with a 95 % interval over patients where it has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.evaluation.bootstrap import Estimate, PatientBootstrap
from ecgscan_ray.evaluation.classes import MIN_RECORDINGS, SUPERCLASS_TASK, Classes, label_task
from ecgscan_ray.evaluation.features import Features
from ecgscan_ray.evaluation.model import PageModel
from ecgscan_ray.evaluation.probe import Probe, fit_probe
from ecgscan_ray.evaluation.redraw import MASKS
from ecgscan_ray.evaluation.reject import reject_figures
from ecgscan_ray.evaluation.retrieval import RECALL_AT, Ranking, rank_matches
from ecgscan_ray.evaluation.zero_shot import class_vectors, zero_shot_scores
from ecgscan_ray.recording.leads import LEADS

DIRECTIONS = {
    "page_to_signal": ("page", "signal", "recording_key", "has_signal"),
    "page_to_text": ("page", "text", "report_key", "has_text"),
    "signal_to_page": ("signal", "page", "recording_key", "has_signal"),
}
"""Direction of retrieval -> columns of queries, gallery, keys, and of which rows have both."""
NO_TEXT = "the run learned from no reports"
TOO_FEW = f"fewer than {MIN_RECORDINGS} recordings with it, or without it, in training or test"


@dataclass(frozen=True)
class EvaluationData:
    """What evaluators measure on. Columns of the random model have the prefix ``random.``.

    Attributes:
        test: The split under test.
        train: Features of the training recordings, one entry per page drawn of them.
        validation: Features of the validation recordings.
        bootstrap: One draw of the test patients, shared by all figures.
        models: Prefix -> model: ``""`` the trained one, ``"random."`` the random one.
        maker: Draws pages; its config is that of the run.
        device: Where the models live.
    """

    test: Features
    train: Sequence[Features]
    validation: Features
    bootstrap: PatientBootstrap
    models: Mapping[str, PageModel]
    maker: BatchMaker
    device: str = "cpu"

    @property
    def uses_text(self) -> bool:
        """Whether the run learned from reports."""
        return self.maker.config.objective.uses_text


@dataclass
class Results:
    """What one evaluator measured.

    Attributes:
        figures: Dotted name -> figure.
        rows: Figure -> the trained model's value for each test recording, NaN where it has none: (N,), or scores of
            classes (N, C).
    """

    figures: dict[str, Estimate] = field(default_factory=dict)
    rows: dict[str, np.ndarray] = field(default_factory=dict)


class Evaluator(Protocol):
    """One thing to measure."""

    @property
    def name(self) -> str:
        """First part of the names of its figures."""
        ...

    def unmet(self, data: EvaluationData) -> dict[str, str]:
        """Figure, or group of figures -> why it cannot be measured on these data; empty where all can."""
        ...

    def run(self, data: EvaluationData) -> Results:
        """Measure all figures but those that ``unmet`` names."""
        ...


class Retrieval:
    """Do pages find their own signals and reports, and signals their pages?"""

    name = "retrieval"

    def unmet(self, data: EvaluationData) -> dict[str, str]:
        reasons = {}
        for direction, (_, gallery, _, has) in DIRECTIONS.items():
            if gallery == "text" and not data.uses_text:
                reasons[f"retrieval.{direction}"] = NO_TEXT
            elif not data.test[has].any():
                kind = "reports" if gallery == "text" else "signals"
                reasons[f"retrieval.{direction}"] = f"no {kind} in the split"
        return reasons

    def run(self, data: EvaluationData) -> Results:
        results, test, unmet = Results(), data.test, self.unmet(data)
        for direction, (query, gallery, key, has) in DIRECTIONS.items():
            if f"retrieval.{direction}" in unmet:
                continue
            for prefix in data.models:
                queries, items, keys, valid = test[f"{prefix}{query}"], test[f"{prefix}{gallery}"], test[key], test[has]
                ranking = rank_matches(queries, items, keys, keys, has_query=valid, has_gallery=valid)
                if not len(ranking.rank):
                    continue
                results.figures |= ranking_figures(f"{prefix}retrieval.{direction}", ranking, data.bootstrap)
                if not prefix:
                    results.rows[f"retrieval.{direction}.mrr"] = _spread(ranking.reciprocal, ranking.rows, len(test))
        return results


def ranking_figures(name: str, ranking: Ranking, bootstrap: PatientBootstrap) -> dict[str, Estimate]:
    """The gallery is fixed; patients are resampled among the queries."""
    figures, n = {}, len(ranking.rank)
    for k in RECALL_AT:
        figures[f"{name}.recall_at_{k}"] = bootstrap.mean(ranking.hits(k), ranking.rows)
        figures[f"{name}.chance_at_{k}"] = Estimate(ranking.chance(k), n=n)
    figures[f"{name}.mrr"] = bootstrap.mean(ranking.reciprocal, ranking.rows)
    figures[f"{name}.chance_mrr"] = Estimate(ranking.chance_mrr, n=n)
    figures[f"{name}.median_rank"] = bootstrap.median(ranking.rank, ranking.rows)
    figures[f"{name}.hub_share"] = Estimate(ranking.hub_share, n=n)
    figures[f"{name}.gallery"] = Estimate(float(ranking.gallery_size), n=n)
    return figures


class RedrawnLeads:
    """How well the decoder redraws the leads, compared with the mean-beat oracle."""

    name = "reconstruction"

    def unmet(self, data: EvaluationData) -> dict[str, str]:
        return {}

    def run(self, data: EvaluationData) -> Results:
        test, bootstrap = data.test, data.bootstrap
        rows = {"lead_residual_mv": test["lead_residual_mv"]}
        rows |= {f"reconstruction.{mask}.pearson_r": _row_mean(test[f"{mask}.r"]) for mask in MASKS}
        rows |= {f"reconstruction.{mask}.rmse_mv": test[f"{mask}.rmse_mv"] for mask in MASKS}
        figures = {"lead_residual_mv": bootstrap.mean(test["lead_residual_mv"])}
        for source, prefix in (("reconstruction", ""), ("projected", "projected."), ("mean_beat", "mean_beat.")):
            for mask in MASKS:
                r = test[f"{prefix}{mask}.r"]
                figures[f"{source}.{mask}.pearson_r"] = bootstrap.mean(_row_mean(r))
                figures[f"{source}.{mask}.rmse_mv"] = bootstrap.mean(test[f"{prefix}{mask}.rmse_mv"])
                for index, lead in enumerate(LEADS):
                    if np.isfinite(r[:, index]).any():
                        figures[f"{source}.{mask}.lead.{lead}.pearson_r"] = bootstrap.mean(r[:, index])
        decoder_r, oracle_r = _row_mean(test["unseen.r"]), _row_mean(test["mean_beat.unseen.r"])
        figures["reconstruction.unseen.pearson_r.minus_mean_beat"] = bootstrap.mean_difference(decoder_r, oracle_r)
        return Results({name: figure for name, figure in figures.items() if figure.n}, rows)


class Counts:
    """How many recordings and patients were measured, and how many of them are unknown."""

    name = "evaluation"

    def unmet(self, data: EvaluationData) -> dict[str, str]:
        return {}

    def run(self, data: EvaluationData) -> Results:
        test, train = data.test, data.train[0]
        known = test["patient_key"][test["patient_key"] >= 0]
        counts = {
            "evaluation.recordings": len(test),
            "evaluation.patients": len(np.unique(known)),
            "evaluation.unknown_patients": len(test) - len(known),
            "evaluation.skipped": len(test.skipped),
        }
        figures = {name: Estimate(float(value), n=len(test)) for name, value in counts.items()}
        unknown = float((train["patient_key"] < 0).sum())
        return Results({**figures, "training.unknown_patients": Estimate(unknown, n=len(train))})


class Reject:
    """Which scores find wrongly redrawn pages."""

    name = "reject"

    def unmet(self, data: EvaluationData) -> dict[str, str]:
        return {} if len(data.validation) else {"reject": "no validation recordings"}

    def run(self, data: EvaluationData) -> Results:
        results = Results()
        if len(data.validation):
            results.figures = reject_figures(data.validation, data.test, data.bootstrap, results.rows)
        return results


@dataclass(frozen=True)
class LinearProbe:
    """Macro AUROC, and that of each class, of a linear probe on frozen features.

    Attributes:
        kind: ``superclass``, or ``label`` for the labels as the archive gives them.
    """

    kind: str
    name = "linear_probe"

    def unmet(self, data: EvaluationData) -> dict[str, str]:
        task, too_few = self._task(data)
        reasons = {f"linear_probe.label.{label}": TOO_FEW for label in too_few}
        if reason := _not_probed(task, data):
            reasons[f"linear_probe.{self.kind}.macro_auroc"] = reason
        return reasons

    def run(self, data: EvaluationData) -> Results:
        task, _ = self._task(data)
        if _not_probed(task, data):
            return Results()
        labels, known = task.of(data.test)
        scores, figures, name = {}, {}, f"linear_probe.{self.kind}"
        for prefix in data.models:
            probe = _fit(task, data, prefix)
            scores[prefix] = probe.scores(data.test[f"{prefix}features"][known])
            figures[f"{prefix}{name}.strength"] = Estimate(probe.strength, n=len(known))
        if self.kind == "label":
            counts = zip(task.names, labels[known].sum(0), strict=True)
            figures |= {f"{name}.{label}.positives": Estimate(float(n), n=len(known)) for label, n in counts}
        results = _auroc_results(data, name, task, scores)
        return Results(figures | results.figures, results.rows)

    def _task(self, data: EvaluationData) -> tuple[Classes, list[str]]:
        """The classes to probe, and the labels with too few recordings."""
        return (SUPERCLASS_TASK, []) if self.kind == "superclass" else label_task(data.train[0], data.test)


def _not_probed(task: Classes, data: EvaluationData) -> str | None:
    """Why these classes cannot be probed, or ``None``."""
    train, test = data.train[0], data.test
    if not task.names:
        return "no labels" if not any(train.codes) and not any(test.codes) else "no label has enough recordings"
    if not len(data.validation):
        return "no validation recordings, on which the probe's strength is chosen"
    parts = {"training": train, "validation": data.validation, "tested": test}
    return next((reason for split, part in parts.items() if (reason := _one_sided(task, split, part))), None)


def _one_sided(task: Classes, split: str, features: Features) -> str | None:
    """Why no class of the task divides these recordings, or ``None``."""
    labels, known = task.of(features)
    if not len(known):
        return f"no {split} recording has a {task.kind}"
    if not (labels[known].any(0) & ~labels[known].all(0)).any():
        return f"no {task.kind} that some {split} recordings have and others do not"
    return None


def _fit(task: Classes, data: EvaluationData, prefix: str) -> Probe:
    def labelled(part: Features) -> tuple[np.ndarray, np.ndarray]:
        labels, rows = task.of(part)
        return part[f"{prefix}features"][rows], labels[rows]

    features, labels = zip(*map(labelled, data.train), strict=True)
    return fit_probe(np.concatenate(features), np.concatenate(labels), *labelled(data.validation))


def _auroc_results(data: EvaluationData, name: str, task: Classes, scores: Mapping[str, np.ndarray]) -> Results:
    """Macro AUROC and that of each class, from scores (M, C) of the recordings whose labels are known."""
    labels, known = task.of(data.test)
    labels, bootstrap = labels[known], data.bootstrap.of(known)
    figures: dict[str, Estimate] = {}
    for prefix, score in scores.items():
        figures[f"{prefix}{name}.macro_auroc"] = bootstrap.macro_auroc(score, labels)
        for label, figure in zip(task.names, bootstrap.per_class_auroc(score, labels), strict=True):
            figures[f"{prefix}{name}.{label}.auroc"] = figure
    difference = bootstrap.macro_auroc_difference(scores[""], scores["random."], labels)
    figures[f"{name}.macro_auroc.minus_random"] = difference
    is_label = task.kind == "label"
    return Results(figures, {} if is_label else {f"{name}.macro_auroc": _spread(scores[""], known, len(data.test))})


class ZeroShot:
    """Classes named in words and compared with the page."""

    name = "zero_shot"

    def unmet(self, data: EvaluationData) -> dict[str, str]:
        reason = _one_sided(SUPERCLASS_TASK, "tested", data.test) or (None if data.uses_text else NO_TEXT)
        return {"zero_shot.superclass.macro_auroc": reason} if reason else {}

    def run(self, data: EvaluationData) -> Results:
        if self.unmet(data):
            return Results()
        task, maker = SUPERCLASS_TASK, data.maker
        _, known = task.of(data.test)
        prompts = text.superclass_prompts()
        ordered = {label: prompts[label] for label in task.names}
        scores = {}
        for prefix, model in data.models.items():
            vectors = class_vectors(model, maker.tokenizer, ordered, maker.config.model.text.max_length, data.device)
            scores[prefix] = zero_shot_scores(data.test[f"{prefix}page"][known], vectors)
        return _auroc_results(data, "zero_shot.superclass", task, scores)


def _row_mean(r: np.ndarray) -> np.ndarray:
    """(N,) mean over the leads that have an r."""
    known = np.isfinite(r)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, r, 0).sum(1) / known.sum(1)


def _spread(values: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """Values of some rows as an array over all, NaN elsewhere."""
    spread = np.full((count, *values.shape[1:]), np.nan)
    spread[rows] = values
    return spread


EVALUATORS: tuple[Evaluator, ...] = (
    Retrieval(),
    RedrawnLeads(),
    Counts(),
    Reject(),
    LinearProbe("superclass"),
    LinearProbe("label"),
    ZeroShot(),
)
"""In the order of ``report.json``."""
