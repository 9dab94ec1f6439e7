"""Every figure of a run's report, beside that of a randomly initialised encoder, on patients never trained on.

Figures are named as in ``report.json``: flat and dotted, each with a 95 % interval over patients where it has one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.config import EvaluationConfig
from ecgscan_ray.evaluation.bootstrap import Estimate, PatientBootstrap
from ecgscan_ray.evaluation.classes import MIN_RECORDINGS, SUPERCLASS_TASK, Classes, label_task
from ecgscan_ray.evaluation.features import Example, Features, extract
from ecgscan_ray.evaluation.probe import Probe, fit_probe
from ecgscan_ray.evaluation.redraw import MASKS
from ecgscan_ray.evaluation.reject import reject_figures
from ecgscan_ray.evaluation.retrieval import RECALL_AT, Ranking, rank_matches
from ecgscan_ray.evaluation.zero_shot import class_vectors, zero_shot_scores
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.recording.recording import Recording

logger = logging.getLogger(__name__)

DIRECTIONS = {
    "page_to_signal": ("page", "signal", "recording_key", "has_signal"),
    "page_to_text": ("page", "text", "report_key", "has_text"),
    "signal_to_page": ("signal", "page", "recording_key", "has_signal"),
}
NO_TEXT = "the run learned from no reports"
TOO_FEW = f"fewer than {MIN_RECORDINGS} recordings with it, or without it, in training or test"
RecordingsOf = Callable[[str], Iterable[Recording]]


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and what the report's pictures are made from.

    Attributes:
        figures: Dotted name -> figure.
        examples: Test recordings with their redrawn leads.
        training_pages: (n, H, W, C) uint8, pages that the run was trained on.
        skipped: Test recordings whose page could not be drawn.
        not_measured: Figure, or group of figures -> why there is none.
        rows: Figure -> its value for each of the N test recordings, NaN where it has none: (N,), or scores of classes
            (N, C); and their keys and labels. From these, runs are compared recording by recording.
    """

    figures: dict[str, Estimate]
    examples: list[Example]
    training_pages: np.ndarray
    skipped: list[str]
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, dict[str, float | int | str | None]]:
        """The figures as ``report.json`` has them, and null with a reason for what could not be measured."""
        missing = {name: Estimate(float("nan"), n=0, reason=why) for name, why in self.not_measured.items()}
        return {name: figure.as_dict() for name, figure in (self.figures | missing).items()}


@dataclass(frozen=True)
class _Bench:
    """The split under test and its one draw of patients, shared by all figures."""

    test: Features
    bootstrap: PatientBootstrap
    prefixes: tuple[str, ...]


def evaluate_run(
    model: Any,
    random_model: Any,
    maker: BatchMaker,
    recordings_of: RecordingsOf,
    *,
    device: str = "cpu",
) -> Evaluation:
    """Measure a trained model beside a random one.

    Args:
        model: The trained ``ECGScan``.
        random_model: The same architecture with fresh weights: what the architecture gives for nothing.
        maker: Draws the pages; its config says how (and holds the ``evaluation`` section).
        recordings_of: Split name -> its recordings in the store's order; called more than once.
        device: Where the models live.
    """
    config, settings = maker.config, maker.config.evaluation
    models = {"trained": model.eval(), "random": random_model.eval()}
    common: dict[str, Any] = {"batch_size": settings.batch_size, "fs": config.model.signal_fs, "device": device}
    logger.info("evaluation: %s pages", settings.split)
    test = extract(models, maker, recordings_of(settings.split), num_examples=settings.redrawn_shown, **common)
    bench = _Bench(test, PatientBootstrap(test["patient_key"], settings.bootstrap, config.seed), ("", "random."))
    rows = {name: test[name] for name in ("recording_key", "patient_key", "labels")}
    missing: dict[str, str] = {}
    figures = _retrieval_figures(bench, config.objective.uses_text, rows, missing)
    figures |= _redraw_figures(bench, rows)
    logger.info("evaluation: pages for the probe")
    train, validation = _probe_pages(models, maker, recordings_of, settings, common)
    figures |= _counts(test, train[0])
    if len(validation):
        figures |= reject_figures(validation, test, bench.bootstrap, rows)
    else:
        missing["reject"] = "no validation recordings"
    labels, too_few = label_task(train[0], test)
    missing |= {f"linear_probe.label.{name}.auroc": TOO_FEW for name in too_few}
    for task in (SUPERCLASS_TASK, labels):
        figures |= _probe_figures(bench, task, train, validation, rows, missing)
    figures |= _zero_shot_figures(bench, models, maker, device, rows, missing)
    pages = _training_pages(maker, recordings_of, settings.pages_shown)
    return Evaluation(figures, test.examples, pages, test.skipped, rows, missing)


def _counts(test: Features, train: Features) -> dict[str, Estimate]:
    known = test["patient_key"][test["patient_key"] >= 0]
    count = {
        "evaluation.recordings": len(test),
        "evaluation.patients": len(np.unique(known)),
        "evaluation.unknown_patients": len(test) - len(known),
        "evaluation.skipped": len(test.skipped),
    }
    unknown_trained = Estimate(float((train["patient_key"] < 0).sum()), n=len(train))
    figures = {name: Estimate(float(value), n=len(test)) for name, value in count.items()}
    return figures | {"training.unknown_patients": unknown_trained}


def _retrieval_figures(
    bench: _Bench, text_trained: bool, rows: dict[str, np.ndarray], missing: dict[str, str]
) -> dict[str, Estimate]:
    """Figures; ``rows`` gets the trained model's reciprocal ranks, ``missing`` the directions that have none."""
    figures: dict[str, Estimate] = {}
    test = bench.test
    for direction, (query, gallery, key, has) in DIRECTIONS.items():
        if gallery == "text" and not text_trained:
            missing[f"retrieval.{direction}"] = NO_TEXT
            continue
        if not test[has].any():
            missing[f"retrieval.{direction}"] = f"no {'reports' if gallery == 'text' else 'signals'} in the split"
            continue
        for prefix in bench.prefixes:
            ranking = rank_matches(
                test[f"{prefix}{query}"],
                test[f"{prefix}{gallery}"],
                test[key],
                test[key],
                has_query=test[has],
                has_gallery=test[has],
            )
            if len(ranking.rank):
                figures |= _ranking_figures(f"{prefix}retrieval.{direction}", ranking, bench.bootstrap)
                if not prefix:
                    rows[f"retrieval.{direction}.mrr"] = each = np.full(len(test), np.nan)
                    each[ranking.rows] = ranking.reciprocal
    return figures


def _ranking_figures(name: str, ranking: Ranking, bootstrap: PatientBootstrap) -> dict[str, Estimate]:
    """The gallery stays as it is; patients are drawn among the queries."""
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


def _redraw_figures(bench: _Bench, rows: dict[str, np.ndarray]) -> dict[str, Estimate]:
    """Figures; ``rows`` gets the decoder's r and lead-law residuals."""
    test, bootstrap = bench.test, bench.bootstrap
    figures = {"lead_residual_mv": bootstrap.mean(test["lead_residual_mv"])}
    rows["lead_residual_mv"] = test["lead_residual_mv"]
    rows |= {f"reconstruction.{mask}.pearson_r": _row_mean(test[f"{mask}.r"]) for mask in MASKS}
    rows |= {f"reconstruction.{mask}.rmse_mv": test[f"{mask}.rmse_mv"] for mask in MASKS}
    for who, prefix in (("reconstruction", ""), ("projected", "projected."), ("mean_beat", "mean_beat.")):
        for mask in MASKS:
            r = test[f"{prefix}{mask}.r"]
            figures[f"{who}.{mask}.pearson_r"] = bootstrap.mean(_row_mean(r))
            figures[f"{who}.{mask}.rmse_mv"] = bootstrap.mean(test[f"{prefix}{mask}.rmse_mv"])
            for index, lead in enumerate(LEADS):
                if np.isfinite(r[:, index]).any():
                    figures[f"{who}.{mask}.lead.{lead}.pearson_r"] = bootstrap.mean(r[:, index])
    own, oracle = _row_mean(test["unseen.r"]), _row_mean(test["mean_beat.unseen.r"])
    figures["reconstruction.unseen.pearson_r.minus_mean_beat"] = bootstrap.mean_difference(own, oracle)
    return {name: figure for name, figure in figures.items() if figure.n}


def _row_mean(r: np.ndarray) -> np.ndarray:
    """(N,) mean over the leads that have an r."""
    known = np.isfinite(r)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, r, 0).sum(1) / known.sum(1)


def _probe_pages(
    models: dict[str, Any],
    maker: BatchMaker,
    recordings_of: RecordingsOf,
    settings: EvaluationConfig,
    common: dict[str, Any],
) -> tuple[list[Features], Features]:
    """``probe_views`` pages of each training recording, and one of each validation recording."""

    def pages(split: str, view: int) -> Features:
        recordings = _first(recordings_of(split), settings.probe_rows)
        return extract(models, maker, recordings, view=view, everything=False, **common)

    return [pages("train", view) for view in range(settings.probe_views)], pages("validation", 0)


def _first(recordings: Iterable[Recording], count: int) -> Iterable[Recording]:
    """At most ``count`` recordings; a store's rows are in random order."""
    for index, recording in enumerate(recordings):
        if index == count:
            return
        yield recording


def _probe_figures(
    bench: _Bench,
    task: Classes,
    train: list[Features],
    validation: Features,
    rows: dict[str, np.ndarray],
    missing: dict[str, str],
) -> dict[str, Estimate]:
    """Linear probe of the classes; ``rows`` gets the scores of the superclasses, ``missing`` why there is none."""
    name = f"linear_probe.{task.kind}"
    why = _not_probed(task, train[0], validation, bench.test)
    if why:
        missing[f"{name}.macro_auroc"] = why
        return {}
    labels, known = task.of(bench.test)
    scores, figures = {}, {}
    for prefix in bench.prefixes:
        probe = _fit_probe(task, train, validation, prefix)
        scores[prefix] = probe.scores(bench.test[f"{prefix}features"][known])
        figures[f"{prefix}{name}.strength"] = Estimate(probe.strength, n=len(known))
    if task.kind == "label":
        counts = zip(task.names, labels[known].sum(0), strict=True)
        figures |= {f"{name}.{label}.positives": Estimate(float(n), n=len(known)) for label, n in counts}
    return figures | _auroc_figures(bench, name, task, scores, rows)


def _not_probed(task: Classes, train: Features, validation: Features, test: Features) -> str | None:
    """Why these classes cannot be probed, or ``None``."""
    if not task.names:
        return "no labels" if not any(train.codes) and not any(test.codes) else TOO_FEW
    if not len(validation):
        return "no validation recordings, on which the probe's strength is chosen"
    for split, features in {"training": train, "validation": validation, "tested": test}.items():
        if not len(task.of(features)[1]):
            return f"no {split} recording has a {task.kind}"
    return None


def _fit_probe(task: Classes, train: list[Features], validation: Features, prefix: str) -> Probe:
    def known(part: Features) -> tuple[np.ndarray, np.ndarray]:
        labels, rows = task.of(part)
        return part[f"{prefix}features"][rows], labels[rows]

    features, labels = zip(*map(known, train), strict=True)
    return fit_probe(np.concatenate(features), np.concatenate(labels), *known(validation))


def _auroc_figures(
    bench: _Bench, name: str, task: Classes, scores: dict[str, np.ndarray], rows: dict[str, np.ndarray]
) -> dict[str, Estimate]:
    """Macro AUROC and that of each class, from scores (M, C) of the recordings whose labels are known."""
    labels, known = task.of(bench.test)
    labels, bootstrap = labels[known], bench.bootstrap.of(known)
    figures: dict[str, Estimate] = {}
    for prefix, score in scores.items():
        figures[f"{prefix}{name}.macro_auroc"] = bootstrap.macro_auroc(score, labels)
        for label, figure in zip(task.names, bootstrap.per_class_auroc(score, labels), strict=True):
            figures[f"{prefix}{name}.{label}.auroc"] = figure
    figures[f"{name}.macro_auroc.minus_random"] = bootstrap.macro_auroc_difference(
        scores[""], scores["random."], labels
    )
    if task.kind == "superclass":
        rows[f"{name}.macro_auroc"] = each = np.full((len(bench.test), len(task.names)), np.nan)
        each[known] = scores[""]
    return figures


def _zero_shot_figures(
    bench: _Bench,
    models: dict[str, Any],
    maker: BatchMaker,
    device: str,
    rows: dict[str, np.ndarray],
    missing: dict[str, str],
) -> dict[str, Estimate]:
    """Zero-shot over the recordings that have a superclass; ``rows`` gets the scores."""
    test, task, name = bench.test, SUPERCLASS_TASK, "zero_shot.superclass"
    _, known = task.of(test)
    if not maker.config.objective.uses_text or not len(known):
        missing[f"{name}.macro_auroc"] = "no tested recording has a superclass" if not len(known) else NO_TEXT
        return {}
    prompts = text.superclass_prompts()
    ordered = {label: prompts[label] for label in task.names}
    scores = {}
    for prefix, model in zip(bench.prefixes, models.values(), strict=True):
        vectors = class_vectors(model, maker.tokenizer, ordered, maker.config.model.text.max_length, device)
        scores[prefix] = zero_shot_scores(test[f"{prefix}page"][known], vectors)
    return _auroc_figures(bench, name, task, scores, rows)


def _training_pages(maker: BatchMaker, recordings_of: RecordingsOf, count: int) -> np.ndarray:
    """Pages of the run's first epoch, as the trainer saw them."""
    recordings = list(_first(recordings_of("train"), count))
    return maker.make(recordings, range(len(recordings)), [0] * len(recordings))["image"]
