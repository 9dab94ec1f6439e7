"""The report of one run: what the encoder learned, compared with chance, a random encoder and an oracle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors.numpy import save

from ecgscan_ray.config import Config, dump_yaml
from ecgscan_ray.evaluation.bootstrap import Estimate
from ecgscan_ray.evaluation.evaluate import Evaluation
from ecgscan_ray.evaluation.redraw import MASKS
from ecgscan_ray.evaluation.retrieval import RECALL_AT
from ecgscan_ray.filesystem import join, write_bytes_atomic
from ecgscan_ray.recording.labels import SUPERCLASSES
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.report import figures
from ecgscan_ray.report.html import bounds, number, render, write_report
from ecgscan_ray.runs.metrics import Line, training_figures
from ecgscan_ray.runs.names import REDRAWN_PICTURE, ROWS
from ecgscan_ray.store.manifest import Origin

Figures = Mapping[str, Estimate]

HEADLINE = (
    "evaluation.recordings",
    "retrieval.page_to_signal.recall_at_1",
    "retrieval.page_to_signal.mrr",
    "retrieval.page_to_text.mrr",
    "linear_probe.superclass.macro_auroc",
    "linear_probe.superclass.macro_auroc.minus_random",
    "linear_probe.label.macro_auroc",
    "linear_probe.label.macro_auroc.minus_random",
    "zero_shot.superclass.macro_auroc",
    "reconstruction.shown.pearson_r",
    "reconstruction.unseen.pearson_r",
)
"""The figures to look at first, as far as they were measured."""

UNKNOWN_PATIENTS = ("evaluation.unknown_patients", "training.unknown_patients")

DIRECTION_NAMES = {
    "page_to_signal": "page to signal",
    "page_to_text": "page to report",
    "signal_to_page": "signal to page",
}


@dataclass(frozen=True)
class RunFacts:
    """What a report states about the run besides figures.

    Attributes:
        name: Of the run, for the title.
        config: Its settings.
        step: Optimiser steps of the checkpoint that was measured.
        samples_seen: Pages until then.
        checkpoint: ``best`` or ``last``.
        origins: Where the recordings come from.
        same_store: Whether the recordings come from the store that the run was trained on.
        rows: Split -> recordings.
        environment: Hardware and versions.
    """

    name: str
    config: Config
    step: int
    samples_seen: int
    checkpoint: str = "last"
    origins: Sequence[Origin] = ()
    same_store: bool = True
    rows: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


def run_figures(evaluation: Evaluation, lines: Sequence[Line]) -> dict[str, Estimate]:
    """The figures of the evaluation and those of the training itself."""
    training = {name: Estimate(value) for name, value in training_figures(lines).items()}
    return {**evaluation.figures, **training}


def write_run_report(out_uri: str, evaluation: Evaluation, lines: Sequence[Line], facts: RunFacts) -> dict[str, Any]:
    """Write ``report.html``, ``report.json``, ``redrawn.png`` and ``rows.safetensors`` into the run folder.

    Args:
        out_uri: The run folder, local or in a bucket.
        evaluation: What was measured.
        lines: Metric lines of the run.
        facts: What else the report states.

    Returns:
        The content of ``report.json``: name -> value, low, high, n.
    """
    all_figures = run_figures(evaluation, lines)
    content = evaluation.as_dict() | {name: figure.as_dict() for name, figure in all_figures.items()}
    if evaluation.examples:
        picture = figures.redrawn_picture(evaluation.examples[0], facts.config.model.signal_fs)
        write_bytes_atomic(join(out_uri, REDRAWN_PICTURE), picture)
    rows = {name: np.ascontiguousarray(values) for name, values in evaluation.rows.items()}
    write_bytes_atomic(join(out_uri, ROWS), save(rows))
    write_report(out_uri, run_html(all_figures, evaluation, lines, facts), content)
    return content


def run_html(all_figures: Figures, evaluation: Evaluation, lines: Sequence[Line], facts: RunFacts) -> str:
    """The whole page as text; it loads no other file."""
    fs = facts.config.model.signal_fs
    return render(
        "run.html.j2",
        facts=facts,
        headline=_headline(all_figures, facts.name),
        patients=patients_sentence(all_figures, facts.same_store),
        not_measured=by_reason(evaluation.not_measured),
        f=all_figures,
        cards=_cards(all_figures),
        retrieval=_retrieval_rows(all_figures),
        recall_at=RECALL_AT,
        class_rows=_class_rows(all_figures),
        label_rows=_label_rows(all_figures),
        redraw_rows=_redraw_rows(all_figures),
        lead_rows=_lead_rows(all_figures),
        rejected=_reject_scores(all_figures),
        leads=LEADS,
        masks=MASKS,
        curves=figures.learning_curves(lines),
        sheet=figures.page_sheet(evaluation.training_pages),
        examples=[
            {"id": example.id, "page": figures.png_uri(example.page), "leads": figures.redrawn_leads(example, fs)}
            for example in evaluation.examples
        ],
        shades=figures.SHADES,
        colours={"truth": figures.INK, "redrawn": figures.ACCENT},
        skipped=evaluation.skipped,
        config_yaml=dump_yaml(facts.config),
    )


def patients_sentence(f: Figures, same_store: bool = True) -> str:
    """Whether the patients were trained on, as far as that is known, and what the intervals are resampled over."""
    tested, trained = (f[name].value if name in f else 0 for name in UNKNOWN_PATIENTS)
    if not same_store:
        return "This is not the store that the run was trained on: these patients may have been trained on."
    if not tested and not trained:
        return "None of these patients were trained on; 95 % intervals from resampling patients."
    return (
        f"The patient of {tested:.0f} of these recordings and of {trained:.0f} training recordings is not known: the same "
        "patient may have been trained on, and intervals count each such recording as a separate patient."
    )


def by_reason(not_measured: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason -> names of the figures that were not measured for it."""
    reasons: dict[str, list[str]] = {}
    for name, reason in not_measured.items():
        reasons.setdefault(reason, []).append(name)
    return reasons


def _headline(f: Figures, name: str) -> str:
    """The main result in one sentence; the intervals decide the wording."""
    recall = f.get("retrieval.page_to_signal.recall_at_1")
    if recall is None or recall.low is None:
        return f"Run {name}"
    chance, gallery = f["retrieval.page_to_signal.chance_at_1"].value, f["retrieval.page_to_signal.gallery"].value
    if recall.low <= chance:
        return f"Run {name}: pages do not find their own signals better than by chance"
    return f"Run {name}: {100 * recall.value:.0f} % of pages find their own signal first among {gallery:.0f}"


def _cards(f: Figures) -> list[dict[str, str]]:
    """The figures that a reader looks at first, each with what to compare it with."""
    cards = [_retrieval_card(f), *_class_cards(f), _label_card(f), _redraw_card(f)]
    return [card for card in cards if card]


def _card(title: str, value: str, interval: str, reference: str) -> dict[str, str]:
    return {"title": title, "value": value, "interval": interval, "reference": reference}


def _retrieval_card(f: Figures) -> dict[str, str] | None:
    name = "retrieval.page_to_signal"
    if f"{name}.recall_at_1" not in f:
        return None
    first, tenth, chance, gallery = (
        f[f"{name}.{key}"] for key in ("recall_at_1", "recall_at_10", "chance_at_1", "gallery")
    )
    reference = f"first among {gallery.value:.0f} recordings (chance {100 * chance.value:.1f} %); "
    reference += f"among the first ten: {100 * tenth.value:.0f} %"
    return _card("Page finds its own signal", f"{100 * first.value:.0f} %", _percent_interval(first), reference)


def _class_cards(f: Figures) -> list[dict[str, str]]:
    cards = []
    for task, title in (("linear_probe", "Linear probe, 5 classes"), ("zero_shot", "Zero-shot, 5 classes")):
        name = f"{task}.superclass.macro_auroc"
        if name not in f:
            continue
        reference = f"macro AUROC; random encoder {f[f'random.{name}'].value:.2f}"
        if task == "linear_probe":
            difference = f[f"{name}.minus_random"]
            reference += f", difference {number(difference.value)} {bounds(difference)}"
        cards.append(_card(title, number(f[name].value), bounds(f[name]), reference))
    return cards


def _label_card(f: Figures) -> dict[str, str] | None:
    name = "linear_probe.label.macro_auroc"
    if name not in f:
        return None
    count = len(_label_rows(f)) - 1
    title = f"Linear probe, {count} label{'s' if count > 1 else ''} of the archive"
    reference = f"macro AUROC; random encoder {number(f[f'random.{name}'].value)}"
    return _card(title, number(f[name].value), bounds(f[name]), reference)


def _redraw_card(f: Figures) -> dict[str, str] | None:
    figure = f.get("reconstruction.shown.pearson_r")
    if figure is None:
        return None
    reference = "correlation with the truth on what the page shows"
    return _card("Redrawn leads", number(figure.value), bounds(figure), reference)


def _percent_interval(figure: Estimate) -> str:
    return "" if figure.low is None or figure.high is None else f"({100 * figure.low:.0f} to {100 * figure.high:.0f} %)"


def _retrieval_rows(f: Figures) -> list[dict[str, Any]]:
    rows = []
    for direction, title in DIRECTION_NAMES.items():
        name = f"retrieval.{direction}"
        if f"{name}.mrr" not in f:
            continue
        size = f"{f[f'{name}.gallery'].value:.0f}"
        for who, prefix in (("trained", ""), ("random encoder", "random.")):
            cells = [f[f"{prefix}{name}.recall_at_{k}"] for k in RECALL_AT] + [f[f"{prefix}{name}.mrr"]]
            rank = f"{f[f'{prefix}{name}.median_rank'].value:.0f}"
            rows.append({"title": title if not prefix else "", "who": who, "cells": cells, "rank": rank, "among": size})
        cells = [f[f"{name}.chance_at_{k}"] for k in RECALL_AT] + [f[f"{name}.chance_mrr"]]
        middle = f"{(f[f'{name}.gallery'].value + 1) / 2:.0f}"
        rows.append({"title": "", "who": "chance", "cells": cells, "rank": middle, "among": size})
    return rows


def _class_rows(f: Figures) -> list[dict[str, Any]]:
    rows = []
    for title in (*SUPERCLASSES, "macro"):
        tail = "superclass.macro_auroc" if title == "macro" else f"superclass.{title}.auroc"
        names = [f"{prefix}{task}.{tail}" for task in ("linear_probe", "zero_shot") for prefix in ("", "random.")]
        if any(name in f for name in names):
            rows.append({"title": title, "cells": [f.get(name) for name in names]})
    return rows


def _label_rows(f: Figures) -> list[dict[str, Any]]:
    """One row for each label of the archive, most frequent first, then their mean."""
    stem = "linear_probe.label"
    names = [name.removeprefix(f"{stem}.").removesuffix(".positives") for name in f if name.endswith(".positives")]
    names.sort(key=lambda name: (-f[f"{stem}.{name}.positives"].value, name))
    rows = [
        {
            "title": name,
            "positives": f"{f[f'{stem}.{name}.positives'].value:.0f}",
            "cells": [f[f"{prefix}{stem}.{name}.auroc"] for prefix in ("", "random.")],
        }
        for name in names
    ]
    if rows:
        cells = [f[f"{prefix}{stem}.macro_auroc"] for prefix in ("", "random.")]
        rows.append({"title": "macro", "positives": "", "cells": cells})
    return rows


def _redraw_rows(f: Figures) -> list[dict[str, Any]]:
    rows = []
    for who, title in (
        ("reconstruction", "redrawn by the decoder"),
        ("projected", "projected on the lead laws"),
        ("mean_beat", "mean-beat oracle"),
    ):
        cells = [f.get(f"{who}.{mask}.{metric}") for metric in ("pearson_r", "rmse_mv") for mask in MASKS]
        rows.append({"title": title, "cells": cells})
    return rows


def _reject_scores(f: Figures) -> dict[str, Estimate]:
    """Score -> how well it finds wrongly redrawn pages; none where all pages are right, or all wrong."""
    scores = {name: f.get(f"reject.{name}.auroc") for name in ("lead_residual", "predicted_error", "constant")}
    return {name.replace("_", " "): score for name, score in scores.items() if score and score.value == score.value}


def _lead_rows(f: Figures) -> list[dict[str, Any]]:
    rows = []
    for mask in MASKS:
        cells = [f.get(f"reconstruction.{mask}.lead.{lead}.pearson_r") for lead in LEADS]
        rows.append({"title": mask, "cells": cells})
    cells = [f.get(f"mean_beat.unseen.lead.{lead}.pearson_r") for lead in LEADS]
    return [*rows, {"title": "unseen, mean-beat oracle", "cells": cells}]
