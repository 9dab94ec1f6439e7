"""The report of a benchmark: one page for people, and the same figures as JSON, CSV and a LaTeX table.

Figures of others stand in a table of their own: they were measured on other recordings, or with other probes.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any

import yaml

from ecgscan_ray.benchmark.benchmark import (
    EXTRAPOLATED,
    SUPERVISED,
    SUPERVISED_RECORDINGS,
    TUNED_RECORDINGS,
    BenchmarkResults,
    figure_name,
)
from ecgscan_ray.benchmark.conditions import CONDITIONS, MIXED
from ecgscan_ray.benchmark.measure import SHARES
from ecgscan_ray.benchmark.registry import PTBXL
from ecgscan_ray.benchmark.retrieval import retrieval_name
from ecgscan_ray.evaluation.bootstrap import Estimate
from ecgscan_ray.filesystem import join, write_bytes_atomic
from ecgscan_ray.report.html import number, render
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.store.manifest import SPLITS, Manifest

VIEW_TITLES = {
    "run": "pages",
    "random": "random encoder of the same shape",
    "generic": "generic image encoder",
    "digitised": "digitised, then signal tower",
    "teacher": "signal tower on recordings (ceiling)",
}
TRAINED_TITLES = {
    SUPERVISED: "supervised from scratch on pages",
    SUPERVISED_RECORDINGS: "supervised from scratch on recordings",
    TUNED_RECORDINGS: "signal tower fine-tuned on recordings",
}
METRIC_TITLES = {
    "macro_auroc": "AUROC",
    "macro_auprc": "AUPRC",
    "macro_f1": "F1",
    "brier": "Brier score",
    "calibration_error": "calibration error",
}
DIRECTION_TITLES = {
    "page_to_signal": "page to recording",
    "signal_to_page": "recording to page",
    "page_to_text": "page to report",
    "text_to_page": "report to page",
}
HTML, JSON, CSV, LATEX = "benchmark.html", "benchmark.json", "benchmark.csv", "benchmark.tex"

Figures = Mapping[str, Estimate]


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        title: For people.
        encoder: As in the names of figures.
        measured: ``probe`` or ``finetune``: how its classifier was trained.
    """

    title: str
    encoder: str
    measured: str

    def figure(self, figures: Figures, headline: str, task: str, measurement: str, pages: str, metric: str) -> Any:
        """Its figure; of a trained one, that of training on as many labels as the probe."""
        name = measurement.replace("probe", self.measured)
        if measurement == name and self.measured != "probe":
            return None
        return figures.get(figure_name(self.encoder, headline, task, name, pages, metric))


@dataclass(frozen=True)
class BenchmarkFacts:
    """What a report states besides figures.

    Attributes:
        suite: Name of the suite.
        runs: URIs of the runs.
        views: Encoder -> its view (see ``benchmark.encoders``); the headline run first.
        manifest: Of the store.
        notes: What a reader must know of the runs.
    """

    suite: str
    runs: Sequence[str]
    views: Mapping[str, str]
    manifest: Manifest
    notes: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """The encoder whose name is left out of figures."""
        return next(iter(self.views))

    @property
    def measured(self) -> dict[str, str]:
        """Encoder -> its title, of those with features for a classifier."""
        titles = {}
        for name, view in self.views.items():
            if view in VIEW_TITLES:
                title = VIEW_TITLES[view] + (f" ({name})" if "." in name else "")
                titles[name] = f"{name}: pages" if self.has_many and view == "run" else title
        return titles

    @property
    def has_many(self) -> bool:
        """Whether several runs are compared."""
        return len(self.runs) > 1

    @property
    def rows(self) -> list[Row]:
        """Rows of tables of probes: frozen encoders, then those that were trained on the labels."""
        frozen = [Row(title, encoder, "probe") for encoder, title in self.measured.items()]
        runs = [name for name, view in self.views.items() if view == "run"]
        tuned = [
            Row(f"{name}: fine-tuned" if self.has_many else "fine-tuned on pages", name, "finetune") for name in runs
        ]
        return frozen + tuned + [Row(title, encoder, "finetune") for encoder, title in TRAINED_TITLES.items()]


def write_benchmark(out: str, results: BenchmarkResults, facts: BenchmarkFacts) -> dict[str, Any]:
    """Write the four files into ``out``; gives the content of ``benchmark.json``."""
    content: dict[str, Any] = {name: figure.as_dict() for name, figure in results.figures.items()}
    content |= {name: Estimate(float("nan"), n=0, reason=why).as_dict() for name, why in results.not_measured.items()}
    write_bytes_atomic(join(out, HTML), benchmark_html(results, facts).encode())
    write_bytes_atomic(join(out, CSV), figures_csv(results.figures).encode())
    write_bytes_atomic(join(out, LATEX), latex_table(results, facts).encode())
    write_bytes_atomic(join(out, JSON), (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return content


def figures_csv(figures: Figures) -> str:
    """One row for each figure."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["figure", "value", "low", "high", "n"])
    for name, figure in figures.items():
        row = figure.as_dict()
        writer.writerow([name, *("" if row[key] is None else row[key] for key in ("value", "low", "high", "n"))])
    return sink.getvalue()


def benchmark_html(results: BenchmarkResults, facts: BenchmarkFacts) -> str:
    """The whole page as text; it loads no other file."""
    classified = {name: task for name, task in results.tasks.items() if task.classes}
    shares = shares_measured(results.figures)
    return render(
        "benchmark.html.j2",
        facts=facts,
        name=RunFolder(facts.runs[0]).name,
        rows={split: facts.manifest.rows(split) for split in SPLITS},
        tasks=results.tasks,
        classified=classified,
        regressions={name: task for name, task in results.tasks.items() if task.unit},
        cards=_cards(results, facts),
        main=_main_table(results.figures, list(classified), facts),
        efficiency=_table(results.figures, list(classified), facts, shares, [MIXED.name], "macro_auroc"),
        robustness=_table(results.figures, list(classified), facts, ["probe"], _condition_names(), "macro_auroc"),
        zero_shot=_table(results.figures, list(classified), facts, ["zero_shot"], _condition_names(), "macro_auroc"),
        neighbours=_table(results.figures, list(classified), facts, ["knn"], [MIXED.name], "macro_auroc"),
        others=_other_metrics(results.figures, list(classified)),
        errors=_table(results.figures, _regressions(results), facts, SHARES, [MIXED.name], "mean_absolute_error"),
        retrieval=_retrieval(results.figures, facts),
        shares=shares,
        curves=_learning_curves(results, facts),
        regression_shares=[f"{100 * share:g} %" for share in SHARES.values()],
        conditions={condition.name: condition.title for condition in CONDITIONS},
        metrics=METRIC_TITLES,
        directions=DIRECTION_TITLES,
        published=published_rows(list(classified)),
        not_measured=results.not_measured,
    )


def shares_measured(figures: Figures) -> dict[str, str]:
    """Measurement -> share of the labels in words, the largest first: those of probes, and others of trained encoders."""
    others = {float(share) for name in figures for share in re.findall(r"\.finetune_([\d.]+?)\.(?!\d)", name)}
    shares = {100 * share for share in SHARES.values()} | others
    return {"probe" if share == 100 else f"probe_{share:g}": f"{share:g} %" for share in sorted(shares, reverse=True)}


def _regressions(results: BenchmarkResults) -> list[str]:
    return [name for name, task in results.tasks.items() if task.unit]


def _condition_names() -> list[str]:
    return [condition.name for condition in CONDITIONS]


def _cards(results: BenchmarkResults, facts: BenchmarkFacts) -> list[dict[str, Any]]:
    """Each task's probe, and how far it is from its ceiling."""
    cards = []
    for name, task in results.tasks.items():
        figure = results.figures.get(f"{name}.probe.macro_auroc")
        if figure is not None:
            difference = results.figures.get(f"{name}.probe.minus_teacher")
            cards.append({"title": task.title, "figure": figure, "difference": difference})
    return cards


def _main_table(figures: Figures, tasks: Sequence[str], facts: BenchmarkFacts) -> list[dict[str, Any]]:
    """One row for each encoder: AUROC of each task, and the headline run's difference from it."""
    rows = []
    for row in facts.rows:
        cells = {}
        for task in tasks:
            value = row.figure(figures, facts.headline, task, "probe", MIXED.name, "macro_auroc")
            cells[task] = {"value": value, "minus": figures.get(f"{task}.probe.minus_{row.encoder}")}
        if any(cell["value"] for cell in cells.values()):
            rows.append({"title": row.title, "cells": cells})
    return rows


def _table(
    figures: Figures,
    tasks: Sequence[str],
    facts: BenchmarkFacts,
    measurements: Collection[str],
    conditions: Sequence[str],
    metric: str,
) -> dict[str, list[dict[str, Any]]]:
    """Task -> rows of encoders, with a cell for each measurement and condition; encoders without a figure are left out."""
    tables = {}
    for task in tasks:
        rows = []
        for row in facts.rows:
            cells = [
                row.figure(figures, facts.headline, task, measurement, condition, metric)
                for measurement in measurements
                for condition in conditions
            ]
            if any(cells):
                rows.append({"title": row.title, "cells": cells})
        tables[task] = rows
    return {task: rows for task, rows in tables.items() if rows}


def _learning_curves(results: BenchmarkResults, facts: BenchmarkFacts) -> list[dict[str, Any]]:
    """Trained encoders whose figures on shares of the labels were extrapolated."""
    rows = []
    for row in facts.rows:
        for task in results.tasks:
            find = partial(row.figure, results.figures, facts.headline, task, "probe", MIXED.name)
            if row.measured == "finetune" and find(EXTRAPOLATED):
                title, to_rows = PTBXL[task]
                cells = [find("macro_auroc"), find(EXTRAPOLATED)]
                rows.append({"title": row.title, "task": title, "cells": cells, "rows": to_rows})
    return rows


def _other_metrics(figures: Figures, tasks: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"task": task, "cells": [figures.get(f"{task}.probe.{metric}") for metric in METRIC_TITLES]} for task in tasks
    ]


def _retrieval(figures: Figures, facts: BenchmarkFacts) -> list[dict[str, Any]]:
    rows = []
    runs = [name for name, view in facts.views.items() if view == "run"]
    for direction, title in DIRECTION_TITLES.items():
        for condition, run in itertools.product(CONDITIONS, runs):
            stem = ("" if run == facts.headline else f"{run}.") + retrieval_name(direction, condition)
            if f"{stem}.mrr" in figures:
                cells = [figures[f"{stem}.{metric}"] for metric in ("recall_at_1", "recall_at_10", "mrr")]
                gallery, chance = figures[f"{stem}.gallery"].value, figures[f"{stem}.chance_at_10"].value
                row = {"title": title, "pages": condition.title, "run": run, "cells": cells}
                rows.append(row | {"gallery": gallery, "chance": chance})
    return rows


def published_rows(tasks: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Task -> published figures, in percent as they were published."""
    content = yaml.safe_load((resources.files("ecgscan_ray.benchmark") / "published.yaml").read_text(encoding="utf-8"))
    return {task: content[task] for task in tasks if task in content}


def latex_table(results: BenchmarkResults, facts: BenchmarkFacts) -> str:
    """Probes and trained encoders as the field prints them: macro AUROC in percent, for 1, 10 and 100 % of each task's labels."""
    tasks = [name for name, task in results.tasks.items() if task.classes]
    shares = ("probe_1", "probe_10", "probe")
    head = " & ".join(f"\\multicolumn{{3}}{{c}}{{{_escaped(results.tasks[task].title)}}}" for task in tasks)
    lines = [
        "% macro AUROC x 100 on mixed test pages; small: half the width of the 95 % interval",
        f"\\begin{{tabular}}{{l{'ccc' * len(tasks)}}}",
        "\\hline",
        f" & {head} \\\\",
        "Encoder" + " & 1\\% & 10\\% & 100\\%" * len(tasks) + " \\\\",
        "\\hline",
    ]
    for row in facts.rows:
        cells = [
            row.figure(results.figures, facts.headline, task, share, MIXED.name, "macro_auroc")
            for task in tasks
            for share in shares
        ]
        if any(cells):
            lines.append(" & ".join([_escaped(row.title), *map(_latex_cell, cells)]) + " \\\\")
    return "\n".join([*lines, "\\hline", "\\end{tabular}", ""])


def _latex_cell(figure: Estimate | None) -> str:
    if figure is None:
        return "--"
    text = number(100 * figure.value, 1)
    if figure.low is None or figure.high is None:
        return text
    return f"{text} {{\\scriptsize $\\pm$ {number(50 * (figure.high - figure.low), 1)}}}"


def _escaped(text: str) -> str:
    for sign in "\\&%$#_{}":
        text = text.replace(sign, f"\\{sign}" if sign != "\\" else "/")
    return text
