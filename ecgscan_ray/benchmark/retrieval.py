"""Retrieval between pages, recordings and reports, for each run of a benchmark, on all test recordings of the store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecgscan_ray import text
from ecgscan_ray.batch import stable_key
from ecgscan_ray.benchmark.conditions import CONDITIONS, MIXED, RECORDING, SEED, Condition
from ecgscan_ray.benchmark.encoders import EncoderSpec
from ecgscan_ray.benchmark.facts import Facts
from ecgscan_ray.benchmark.feature_files import Tables, table_of
from ecgscan_ray.evaluation.bootstrap import Estimate, PatientBootstrap
from ecgscan_ray.evaluation.evaluators import ranking_figures
from ecgscan_ray.evaluation.retrieval import Ranking, rank_matches


def retrieval_figures(
    specs: Sequence[EncoderSpec], tables: Tables, facts: Facts, rows: np.ndarray, resamples: int
) -> dict[str, Estimate]:
    """Name -> figure of pages to recordings and reports, and back, for each run, with the first run's paired differences.

    Args:
        specs: Encoders; the first is the headline run.
        tables: Their features.
        facts: Of all recordings.
        rows: Those of the test, which are queries and gallery.
        resamples: Of the patients, behind each interval.
    """
    if not len(rows):
        return {}
    bootstrap = PatientBootstrap(facts.patient_key[rows], resamples, SEED)
    headline = specs[0].name
    of_run = {spec.name: _rankings(spec, specs, tables, facts, rows) for spec in specs if spec.view == "run"}
    figures: dict[str, Estimate] = {}
    for run, rankings in of_run.items():
        own = "" if run == headline else f"{run}."
        for name, ranking in rankings.items():
            figures |= ranking_figures(f"{own}{name}", ranking, bootstrap)
            ours = of_run[headline].get(name)
            if own and ours:
                difference = bootstrap.mean_difference(ours.reciprocal, ranking.reciprocal, ranking.rows)
                figures[f"{name}.minus_{run}"] = difference
    return figures


def _rankings(
    run: EncoderSpec, specs: Sequence[EncoderSpec], tables: Tables, facts: Facts, rows: np.ndarray
) -> dict[str, Ranking]:
    """Name of a direction and its pages -> where a run finds what belongs together; empty where a tower is missing."""
    sides = {spec.view: spec for spec in specs if spec.uri == run.uri}
    if not {"teacher", "reports"} <= sides.keys():
        return {}
    report_key = _report_keys([facts.reports[row] for row in rows])
    keys = facts.key[rows]
    signal, report = (table_of(tables, sides[view], RECORDING).aligned_of(keys) for view in ("teacher", "reports"))
    rankings = {}
    for condition in CONDITIONS:
        page = table_of(tables, run, condition).aligned_of(keys)
        pairs = {
            "page_to_signal": (page, signal, keys, keys >= 0),
            "signal_to_page": (signal, page, keys, keys >= 0),
            "page_to_text": (page, report, report_key, report_key >= 0),
            "text_to_page": (report, page, report_key, report_key >= 0),
        }
        for direction, (queries, gallery, key, valid) in pairs.items():
            ranking = rank_matches(queries, gallery, key, key, has_query=valid, has_gallery=valid)
            if len(ranking.rank):
                rankings[retrieval_name(direction, condition)] = ranking
    return rankings


def retrieval_name(direction: str, condition: Condition) -> str:
    """Stem of the names of figures of retrieval; those of other runs than the first have the run's name before it."""
    return f"retrieval.{direction}" + ("" if condition == MIXED else f".{condition.name}")


def _report_keys(reports: Sequence[str]) -> np.ndarray:
    return np.array([stable_key(text.normalise(report) if text.is_finding(report) else "") for report in reports])
