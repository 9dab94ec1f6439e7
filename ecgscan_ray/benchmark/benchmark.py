"""All figures of a benchmark from the files of features: task after task, encoder after encoder, on the same test rows.

Figures are named ``[encoder.]task.measurement[.condition].metric``; the first run's own name and the condition ``mixed`` are left
out: ``superclass.probe.macro_auroc``, ``teacher.superclass.probe.macro_auroc``, ``superclass.probe.photo.minus_teacher``.
A fine-tuned run measures the encoder that it started from (``superclass.finetune.macro_auroc``); one from random weights is the
control ``supervised``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ecgscan_ray.benchmark.conditions import CONDITIONS, FIT, MIXED, RECORDING, SEED, Condition
from ecgscan_ray.benchmark.encoders import CLASSIFIER, RECORDING_CLASSIFIER, EncoderSpec
from ecgscan_ray.benchmark.facts import Facts
from ecgscan_ray.benchmark.feature_files import Tables, table_of
from ecgscan_ray.benchmark.figure import Resampled
from ecgscan_ray.benchmark.leaks import labels_in_reports
from ecgscan_ray.benchmark.learning_curve import MIN_SHARES, extrapolate
from ecgscan_ray.benchmark.measure import (
    SHARES,
    Figures,
    Split,
    auroc_figure,
    chance_figures,
    fit_probes,
    knn_scores,
    regression_figures,
    zero_shot_figures,
)
from ecgscan_ray.benchmark.retrieval import retrieval_figures
from ecgscan_ray.benchmark.task import Selection, Task, select
from ecgscan_ray.errors import InputError
from ecgscan_ray.evaluation.bootstrap import Estimate, row_weights

logger = logging.getLogger(__name__)

ClassVectors = Mapping[str, Mapping[str, Mapping[int, np.ndarray]]]
"""Encoder -> task -> index of a class -> unit vector of its prompts."""

NOT_PROBED = ("reports", CLASSIFIER, RECORDING_CLASSIFIER)
SUPERVISED, SUPERVISED_RECORDINGS, TUNED_RECORDINGS = "supervised", "supervised_recordings", "tuned_recordings"
TRAINED = (SUPERVISED, SUPERVISED_RECORDINGS, TUNED_RECORDINGS)
"""Controls that are fine-tuned runs: from random weights, on recordings, and the run's signal tower on recordings."""
EXTRAPOLATED = "macro_auroc_extrapolated"
"""Of training on all labels: along the learning curve, to as many recordings as the published figures were trained on."""


@dataclass(frozen=True)
class TaskFacts:
    """What a reader must know of a task.

    Attributes:
        title: Of the task.
        classes: That were measured.
        rows: Recordings of train, validation and test.
        positives: Class -> test recordings that have it.
        left_out: Class -> why it is none.
        notes: Flaws.
        unit: Of a regression.
    """

    title: str
    classes: tuple[str, ...]
    rows: tuple[int, int, int]
    positives: dict[str, int]
    left_out: dict[str, str]
    notes: tuple[str, ...]
    unit: str = ""


@dataclass
class BenchmarkResults:
    """What was measured.

    Attributes:
        figures: Dotted name -> figure, as in ``benchmark.json``.
        tasks: Task -> facts.
        not_measured: Task or measurement -> why it was not measured.
    """

    figures: dict[str, Estimate] = field(default_factory=dict)
    tasks: dict[str, TaskFacts] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)


def figure_name(encoder: str, headline: str, task: str, measurement: str, condition: str, metric: str) -> str:
    """The dotted name of a figure."""
    parts = ["" if encoder == headline else encoder, task, measurement, "" if condition == MIXED.name else condition]
    return ".".join([part for part in parts if part] + [metric])


def trained_name(spec: EncoderSpec, specs: Sequence[EncoderSpec]) -> str:
    """The encoder that a fine-tuned run measures: that of the run that it started from, or a control.

    Raises:
        InputError: It started from none of the runs.
    """
    assert spec.classifier is not None
    weights, of_recordings = spec.classifier.first_weights, spec.classifier.input == "recordings"
    if weights is None:
        return SUPERVISED_RECORDINGS if of_recordings else SUPERVISED
    name = next((each.name for each in specs if each.view == "run" and each.digest == weights), None)
    if name is None:
        what = "was fine-tuned from other weights than those of the runs that are measured"
        raise InputError(what, where=spec.uri, fix="Fine-tune the best checkpoint of one of them.")
    return TUNED_RECORDINGS if of_recordings else name


def finetune_name(share: float) -> str:
    """Measurement of a run that was fine-tuned on a share of the labels."""
    return "finetune" if share == 1 else f"finetune_{100 * share:g}"


@dataclass(frozen=True)
class Benchmark:
    """What is measured, on what.

    Attributes:
        facts: Of all recordings that have features.
        specs: Encoders; the first is the headline run.
        tables: Their features.
        vectors: Of the classes' prompts.
        resamples: Of the patients, behind each interval.
    """

    facts: Facts
    specs: Sequence[EncoderSpec]
    tables: Tables
    vectors: ClassVectors
    resamples: int = 1000

    @property
    def headline(self) -> str:
        """Name of the first run."""
        return self.specs[0].name

    def run(self, tasks: Sequence[Task]) -> BenchmarkResults:
        """Measure all tasks; one that cannot be measured is named with the reason.

        Raises:
            InputError: No task can be measured.
        """
        results = BenchmarkResults()
        for task in tasks:
            logger.info("benchmark: %s", task.title)
            try:
                selection = select(task, self.facts, self._usable())
                self._measure(selection, results)
            except InputError as error:
                results.not_measured[task.name] = error.what
                logger.warning("benchmark: %s is not measured: %s", task.name, error.what)
        if not results.tasks:
            what = "; ".join(f"{name}: {why}" for name, why in results.not_measured.items())
            raise InputError(f"no task can be measured ({what})", where="benchmark")
        rows = np.flatnonzero(self._usable() & (self.facts.split == "test"))
        results.figures |= retrieval_figures(self.specs, self.tables, self.facts, rows, self.resamples)
        return results

    def _usable(self) -> np.ndarray:
        """bool for each row of the facts: no encoder lacks features of it, so that all are compared on the same rows."""
        usable = np.ones(len(self.facts), bool)
        for table in self.tables.values():
            usable &= ~np.isin(self.facts.key, table.key[~table.ok])
        return usable

    def _measure(self, selection: Selection, results: BenchmarkResults) -> None:
        task, targets = selection.task, selection.targets
        patients = self.facts.patient_key[selection.test]
        weights = row_weights(patients, self.resamples, SEED)
        measured: dict[tuple[str, str, str], Figures] = {}
        for spec in self.specs:
            if spec.view not in NOT_PROBED:
                measured |= self._probe(spec, selection, weights)
        notes = list(selection.notes)
        if targets.classes:
            labels = targets.values[selection.test]
            notes += self._leaks(selection)
            for spec in self.specs:
                measured |= self._zero_shot(spec, selection, labels, weights)
            measured |= self._finetuned(selection, labels, weights)
        self._name_figures(task.name, measured, results)
        positives = targets.values[selection.test].sum(0).tolist() if targets.classes else []
        results.tasks[task.name] = TaskFacts(
            task.title,
            targets.classes,
            (len(selection.train), len(selection.validation), len(selection.test)),
            dict(zip(targets.classes, positives, strict=True)),
            dict(targets.left_out),
            tuple(notes),
            task.unit,
        )

    def _probe(
        self, spec: EncoderSpec, selection: Selection, weights: np.ndarray
    ) -> dict[tuple[str, str, str], Figures]:
        """(encoder, measurement, condition) -> figures, of probes and nearest neighbours."""
        split, values = self._split(spec, selection), selection.targets.values
        targets, classes = values[selection.test], selection.targets.classes
        tests = {c.name: self._features(spec, c, selection.test) for c in self._conditions(spec)}
        measured: dict[tuple[str, str, str], Figures] = {}
        if not classes:
            for condition, test in tests.items():
                of_condition = regression_figures(split, test, targets, weights)
                measured |= {(spec.name, name, condition): figures for name, figures in of_condition.items()}
            return measured
        probes = fit_probes(split)
        for name, fitted in probes.items():
            for condition, test in tests.items():
                scores = [probe.scores(test) for probe in fitted]
                figures = {"macro_auroc": auroc_figure(scores, targets, weights)}
                if SHARES[name] == 1 and condition == MIXED.name:
                    validation = fitted[0].scores(split.validation)
                    figures = chance_figures(validation, split.validation_targets, scores[0], targets, weights, classes)
                measured[spec.name, name, condition] = figures
        scores = [knn_scores(split, tests[MIXED.name])]
        measured[spec.name, "knn", MIXED.name] = {"macro_auroc": auroc_figure(scores, targets, weights)}
        return measured

    def _finetuned(
        self, selection: Selection, labels: np.ndarray, weights: np.ndarray
    ) -> dict[tuple[str, str, str], Figures]:
        """Of the fine-tuned runs of this task; several of one share, e.g. on different subsets, give their mean.

        Raises:
            InputError: One was trained for other classes.
        """
        groups: dict[tuple[str, str], list[EncoderSpec]] = {}
        for spec in self.specs:
            settings = spec.classifier
            if settings and settings.task == selection.task.name:
                if tuple(settings.classes) != selection.targets.classes:
                    what = f"the run {spec.uri} was fine-tuned for other classes"
                    raise InputError(what, where=f"task {selection.task.name}", fix="Fine-tune it on this store.")
                groups.setdefault((trained_name(spec, self.specs), finetune_name(settings.label_share)), []).append(
                    spec
                )
        measured: dict[tuple[str, str, str], Figures] = {}
        curves: dict[tuple[str, str], dict[float, Resampled]] = {}
        for (name, measurement), specs in groups.items():
            for condition in self._conditions(specs[0]):
                scores = [self._features(spec, condition, selection.test) for spec in specs]
                figures = {"macro_auroc": auroc_figure(scores, labels, weights)}
                if len(specs) == 1 and measurement == "finetune" and condition == MIXED:
                    fit = RECORDING if specs[0].takes(RECORDING) else FIT
                    validation = self._features(specs[0], fit, selection.validation)
                    validation_labels = selection.targets.values[selection.validation]
                    classes = selection.targets.classes
                    figures = chance_figures(validation, validation_labels, scores[0], labels, weights, classes)
                measured[name, measurement, condition.name] = figures
                share = specs[0].classifier.label_share if specs[0].classifier else 1.0
                curves.setdefault((name, condition.name), {})[share] = figures["macro_auroc"]
        rows, to_rows = len(selection.train), selection.task.published_rows
        for (name, pages), curve in curves.items():
            if len(curve) >= MIN_SHARES and 1 in curve and to_rows:
                counts = [round(share * rows) for share in curve]
                measured[name, "finetune", pages][EXTRAPOLATED] = extrapolate(counts, list(curve.values()), to_rows)
        return measured

    def _split(self, spec: EncoderSpec, selection: Selection) -> Split:
        fit = RECORDING if spec.takes(RECORDING) else FIT
        values, train, validation = selection.targets.values, selection.train, selection.validation
        features = self._features(spec, fit, train), self._features(spec, fit, validation)
        return Split(features[0], values[train], features[1], values[validation])

    def _conditions(self, spec: EncoderSpec) -> tuple[Condition, ...]:
        """A recording has no pages: what is measured on it stands under the headline condition."""
        return (MIXED,) if spec.takes(RECORDING) else CONDITIONS

    def _features(self, spec: EncoderSpec, condition: Condition, rows: np.ndarray) -> np.ndarray:
        return table_of(self.tables, spec, condition).features_of(self.facts.key[rows])

    def _zero_shot(
        self, spec: EncoderSpec, selection: Selection, labels: np.ndarray, weights: np.ndarray
    ) -> dict[tuple[str, str, str], Figures]:
        vectors = self.vectors.get(spec.name, {}).get(selection.task.name)
        if not vectors:
            return {}
        measured, keys = {}, self.facts.key[selection.test]
        for condition in self._conditions(spec):
            aligned = table_of(self.tables, spec, condition).aligned_of(keys)
            measured[spec.name, "zero_shot", condition.name] = zero_shot_figures(aligned, vectors, labels, weights)
        return measured

    def _leaks(self, selection: Selection) -> list[str]:
        reports = [self.facts.reports[row] for row in selection.train]
        values, classes = selection.targets.values[selection.train], selection.targets.classes
        in_reports = labels_in_reports(reports, values, classes, selection.task.codes)
        if in_reports.leaks:
            names = ", ".join(in_reports.classes[:8])
            return [
                f"leaks: the reports contain the labels ({names}): zero-shot and retrieval by text are no such thing here"
            ]
        if in_reports.classes:
            return [
                f"most reports of {', '.join(in_reports.classes[:8])} contain the class's code, as clinicians write it"
            ]
        return []

    def _name_figures(
        self, task: str, measured: Mapping[tuple[str, str, str], Figures], results: BenchmarkResults
    ) -> None:
        """Names figures, and adds the headline run's differences from the others, under the same condition where they have it."""
        for (encoder, measurement, condition), figures in measured.items():
            for metric, figure in figures.items():
                name = figure_name(encoder, self.headline, task, measurement, condition, metric)
                results.figures[name] = figure.estimate
        others = [*(spec.name for spec in self.specs[1:] if spec.view not in NOT_PROBED), *TRAINED]
        for (encoder, measurement, condition), figures in measured.items():
            if encoder != self.headline:
                continue
            metric = next(iter(figures))
            for name in others:
                other = self._counterpart(measured, name, measurement, condition)
                if other:
                    difference = figures[metric].minus(other[metric])
                    named = figure_name(encoder, self.headline, task, measurement, condition, f"minus_{name}")
                    results.figures[named] = difference

    def _counterpart(
        self, measured: Mapping[tuple[str, str, str], Figures], encoder: str, measurement: str, condition: str
    ) -> Figures | None:
        """What another encoder has of the same kind; a probe is compared with training on the same labels too."""
        names = [measurement]
        if encoder in TRAINED and measurement in SHARES:
            names.append(finetune_name(SHARES[measurement]))
        for name in names:
            for pages in (condition, MIXED.name if self._is_of_recordings(encoder) else condition):
                if figures := measured.get((encoder, name, pages)):
                    return figures
        return None

    def _is_of_recordings(self, encoder: str) -> bool:
        """Recordings have no pages: their one figure counts for all."""
        of_spec = any(spec.name == encoder and spec.takes(RECORDING) for spec in self.specs)
        return of_spec or encoder in (SUPERVISED_RECORDINGS, TUNED_RECORDINGS)
