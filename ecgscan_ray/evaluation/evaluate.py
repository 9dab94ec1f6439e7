"""Every figure of a run's report, for the trained and a randomly initialised model, on patients never trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.evaluation.bootstrap import Estimate, PatientBootstrap
from ecgscan_ray.evaluation.evaluators import EVALUATORS, EvaluationData, Evaluator
from ecgscan_ray.evaluation.features import Example, Features, extract
from ecgscan_ray.evaluation.model import PageModel
from ecgscan_ray.paper import Renderer
from ecgscan_ray.recording.recording import Recording

logger = logging.getLogger(__name__)

RecordingsOf = Callable[[str], Iterable[Recording]]


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and what the report's pictures are made from.

    Attributes:
        figures: Dotted name -> figure.
        examples: Test recordings with their redrawn leads.
        training_pages: (n, H, W, C) uint8, pages that the run was trained on.
        skipped: Test recordings whose page could not be drawn.
        not_measured: Figure, or group of figures -> why it was not measured.
        rows: Figure -> its value for each of the N test recordings, NaN where it has none: (N,), or scores of classes
            (N, C); and their keys and labels. Runs are compared recording by recording from these.
    """

    figures: dict[str, Estimate]
    examples: list[Example]
    training_pages: np.ndarray
    skipped: list[str]
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, dict[str, float | int | str | None]]:
        """The figures as ``report.json`` has them, and null with a reason for what was not measured."""
        missing = {name: Estimate(float("nan"), n=0, reason=why) for name, why in self.not_measured.items()}
        return {name: figure.as_dict() for name, figure in (self.figures | missing).items()}


def evaluate_run(
    model: PageModel,
    random_model: PageModel,
    maker: BatchMaker,
    recordings_of: RecordingsOf,
    *,
    probe_maker: BatchMaker | None = None,
    device: str = "cpu",
    evaluators: Sequence[Evaluator] = EVALUATORS,
) -> Evaluation:
    """Measure a trained model and a random one.

    Args:
        model: The trained ``ECGScan``.
        random_model: The same architecture with fresh weights: what the architecture gives without training.
        maker: Draws the pages; its config says how (and holds the ``evaluation`` section).
        recordings_of: Split name -> its recordings in the store's order; called more than once.
        probe_maker: Makes what probes and thresholds are fitted on, and draws the report's training pages; none = ``maker``.
        device: Where the models live.
        evaluators: What is measured.
    """
    models = {"trained": model.eval(), "random": random_model.eval()}
    data = _extract(models, maker, probe_maker or maker, recordings_of, device)
    evaluation = Evaluation(
        figures={},
        examples=data.test.examples,
        training_pages=_training_pages(maker, recordings_of, maker.config.evaluation.pages_shown),
        skipped=data.test.skipped,
        rows={name: data.test[name] for name in ("recording_key", "patient_key", "labels")},
    )
    for evaluator in evaluators:
        logger.info("evaluation: %s", evaluator.name.replace("_", " "))
        results = evaluator.run(data)
        evaluation.figures.update(results.figures)
        evaluation.rows.update(results.rows)
        evaluation.not_measured.update(evaluator.unmet(data))
    return evaluation


def _extract(
    models: Mapping[str, PageModel],
    maker: BatchMaker,
    probe_maker: BatchMaker,
    recordings_of: RecordingsOf,
    device: str,
) -> EvaluationData:
    """Features of the split under test, and for the probe ``probe_views`` pages per training recording and one per
    validation recording."""
    config, settings = maker.config, maker.config.evaluation
    common: dict[str, Any] = {"batch_size": settings.batch_size, "fs": config.model.signal_fs, "device": device}
    logger.info("evaluation: %s pages", settings.split)
    test = extract(models, maker, recordings_of(settings.split), num_examples=settings.redrawn_shown, **common)

    def probe_pages(split: str, view: int) -> Features:
        recordings = islice(recordings_of(split), settings.probe_rows)  # a store's rows are in random order
        return extract(models, probe_maker, recordings, view=view, everything=False, **common)

    logger.info("evaluation: pages for the probe")
    return EvaluationData(
        test=test,
        train=[probe_pages("train", view) for view in range(settings.probe_views)],
        validation=probe_pages("validation", 0),
        bootstrap=PatientBootstrap(test["patient_key"], settings.bootstrap, config.seed),
        models={"": models["trained"], "random.": models["random"]},
        maker=maker,
        device=device,
    )


def _training_pages(maker: BatchMaker, recordings_of: RecordingsOf, count: int) -> np.ndarray:
    """Pages of the run's first epoch, as the trainer saw them or would have seen them."""
    recordings = list(islice(recordings_of("train"), count))
    return Renderer(maker.config.page).render(recordings, maker.keys(recordings, [0] * len(recordings))).image
