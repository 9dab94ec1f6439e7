"""Reports open offline, say what was measured, and come whole."""

import csv
import json
import re
from dataclasses import replace
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest

from ecgscan_ray.config import Config, SearchRange
from ecgscan_ray.evaluation.bootstrap import Estimate
from ecgscan_ray.evaluation.evaluate import Evaluation
from ecgscan_ray.evaluation.features import Example
from ecgscan_ray.report.card import recordings_without_patient
from ecgscan_ray.report.figures import learning_curves, scatter_grid, trial_curves
from ecgscan_ray.report.run import RunFacts, patients_sentence, write_run_report
from ecgscan_ray.report.sweep import at_shared_step, compare_best, csv_row, ranked, write_sweep_report
from ecgscan_ray.runs.trials import Trial, trial_id
from ecgscan_ray.store.manifest import Manifest, Origin

METRIC = "validation.score"


def figures(recall: float) -> dict[str, Estimate]:
    found = {
        "evaluation.recordings": Estimate(20.0),
        "evaluation.patients": Estimate(18.0),
        "lead_residual_mv": Estimate(0.01, 0.009, 0.011, 20),
        "reconstruction.shown.pearson_r": Estimate(-0.001, -0.004, 0.7, 20),
    }
    for prefix in ("", "random."):
        name = f"{prefix}retrieval.page_to_signal"
        for k in (1, 5, 10):
            found[f"{name}.recall_at_{k}"] = Estimate(recall, recall - 0.1, recall + 0.1, 20)
            found[f"{name}.chance_at_{k}"] = Estimate(k / 20)
        found |= {f"{name}.mrr": Estimate(0.5, 0.4, 0.6, 20), f"{name}.chance_mrr": Estimate(0.18)}
        found |= {f"{name}.median_rank": Estimate(1.0, 1.0, 2.0, 20), f"{name}.gallery": Estimate(20.0)}
    return found


def evaluation(recall: float = 0.6) -> Evaluation:
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 300), bool)
    mask[:, :120] = True
    signal = rng.normal(size=(12, 300))
    page = rng.integers(0, 255, (40, 52, 1), dtype=np.uint8)
    example = Example("<b>4711</b>", page, signal, signal * 0.9, np.ones_like(mask), mask, ~mask)
    return Evaluation(figures(recall), [example], np.stack([page] * 5), ["0815"])


LINES = [
    {
        "kind": "train",
        "step": s,
        "loss": 3 / s,
        "pair_loss": 1 / s,
        "seconds": 1.0,
        "images_per_s": 9.0,
        "data_wait_share": 0.1,
    }
    for s in (10, 20)
] + [{"kind": "validation", "step": 20, METRIC: 0.4}]


def assert_self_contained(html: str) -> None:
    assert html.startswith("<!doctype html>")
    sources = re.findall(r"""(?:src|href|url|srcset|action)\s*[=(]\s*["']?([^"')\s>]+)""", html)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"<script|<link|<iframe|@import", html)


def test_run_report(tmp_path):
    origins = [Origin("PTB-XL", "CC BY 4.0", 29), Origin("mine", None, 5)]
    facts = RunFacts("demo", Config(), 20, 480, origins=origins, rows={"train": 9, "test": 20})
    content = write_run_report(str(tmp_path), evaluation(), LINES, facts)
    assert json.loads((tmp_path / "report.json").read_text()) == content
    assert content["data_wait_share"]["value"] == pytest.approx(0.1)
    html = (tmp_path / "report.html").read_text()
    assert_self_contained(html)
    assert "60 % of pages find their own signal first among 20" in html
    assert "Not for clinical use" in html
    assert "PTB-XL: 29 recordings (CC BY 4.0)" in html and "mine: 5 recordings (licence not stated)" in html
    assert "0815" in html
    assert "<b>4711" not in html, "names from data are escaped"
    assert "-0.00<" not in html
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "redrawn.png",
        "report.html",
        "report.json",
        "rows.safetensors",
    ]
    assert (tmp_path / "redrawn.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_explains_its_figures_and_fits_a_dark_screen_and_a_phone(tmp_path):
    write_run_report(str(tmp_path), evaluation(), LINES, RunFacts("demo", Config(), 20, 480))
    html = (tmp_path / "report.html").read_text()
    for term in ("r", "MRR", "hub share", "volume", "AUROC", "NORM, MI, STTC, CD, HYP"):
        assert f"<dt>{term}</dt>" in html
    assert "prefers-color-scheme: dark" in html
    assert re.search(r"\.scroll tr > :first-child \{ position: sticky; left: 0; background: var\(--paper\)", html)


@pytest.mark.parametrize("name", ["run", "sweep", "ablation"])
def test_every_table_scrolls_by_itself_on_a_phone(name):
    template = (resources.files("ecgscan_ray.report") / "templates" / f"{name}.html.j2").read_text()
    tables = re.findall(r".*<table", template)
    assert len(tables) >= 3 and all(table.startswith('<div class="scroll"><table') for table in tables)


def drawn_figures(monkeypatch):
    """The figures that are drawn from now on, instead of their images."""
    drawn = []
    monkeypatch.setattr("ecgscan_ray.report.figures.data_uri", lambda figure, *_: drawn.append(figure))
    return drawn


def test_no_legend_lies_on_a_curve(monkeypatch):
    drawn = drawn_figures(monkeypatch)
    names = ("validation.score", "validation.mrr_page_to_signal", "validation.mrr_page_to_text", "validation.r_shown")
    lines = [
        {"kind": "validation", "step": step, **{name: number + step / 9 for number, name in enumerate(names)}}
        for step in range(9)
    ]
    learning_curves([*LINES, *lines])
    trial_curves({"a": ([1, 2, 3], [0.1, 0.5, 0.9]), "b": ([1, 2, 3], [0.2, 0.3, 0.1])}, best="a", ylabel="score")
    for figure in drawn:
        figure.draw_without_rendering()
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
        assert legends
        for legend in legends:
            assert not any(legend.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes)
            assert figure.bbox.padded(1).fully_contains(*legend.get_window_extent().min)
            assert figure.bbox.padded(1).fully_contains(*legend.get_window_extent().max)


def test_names_of_trials_do_not_overlap(monkeypatch):
    drawn = drawn_figures(monkeypatch)
    curves = {f"trial-{number:02d}": ([20, 40], [0.1, 0.4 + number**2 / 1500]) for number in range(20)}
    trial_curves(curves, best="trial-10", ylabel="score")
    (figure,) = drawn
    figure.draw_without_rendering()
    labels = figure.axes[0].texts
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert "trial-10" in {label.get_text() for label in labels} and len(boxes) >= 5
    assert all(lower.y1 <= upper.y0 for lower, upper in pairwise(boxes))


def test_tick_labels_do_not_overlap(monkeypatch):
    drawn = drawn_figures(monkeypatch)
    points = {
        "narrow": [(value, 0.1) for value in (0.0003, 0.0005, 0.001, 0.003)],
        "wide": [(value, 0.1) for value in (1e-6, 1e-4, 0.003, 1.0)],
        "linear": [(value, 0.1) for value in (0.00012, 0.00015, 0.00017)],
        "names": [(name, 0.1) for name in ("volume of the Gram matrix", "pairwise cosine", "none")],
    }
    scatter_grid(points, {"narrow": True, "wide": True}, "score")
    (figure,) = drawn
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text() and axes.bbox.width]
        boxes = [
            box for box in boxes if axes.bbox.x0 - 1 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1 + 1 or box.width > 60
        ]
        if axes.get_xlabel() != "names":  # those are turned, and their boxes overlap where the words do not
            assert len(boxes) >= 2
            assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_what_was_not_measured_stands_in_the_report_with_its_reason(tmp_path):
    reasons = {"retrieval.page_to_text": "no reports", "linear_probe.superclass.macro_auroc": "none has a superclass"}
    measured = {name: figure for name, figure in figures(0.6).items() if "retrieval" not in name}
    for prefix in ("", "random."):
        for name in ("AFIB.auroc", "LBBB.auroc", "macro_auroc"):
            measured[f"{prefix}linear_probe.label.{name}"] = Estimate(0.8, 0.7, 0.9, 20)
    measured |= {
        f"linear_probe.label.{name}.positives": Estimate(n, n=20) for name, n in (("AFIB", 6.0), ("LBBB", 9.0))
    }
    measured["linear_probe.label.macro_auroc.minus_random"] = Estimate(0.2, 0.1, 0.3, 20)
    measured["evaluation.unknown_patients"] = Estimate(20.0)
    found = replace(evaluation(), figures=measured, not_measured=reasons)
    content = write_run_report(str(tmp_path), found, LINES, RunFacts("mine", Config(), 20, 480))
    assert json.loads((tmp_path / "report.json").read_text()) == content
    entry = {"value": None, "low": None, "high": None, "n": 0, "reason": "no reports"}
    assert content["retrieval.page_to_text"] == entry
    assert Estimate(**content["lead_residual_mv"]).value == 0.01
    html = (tmp_path / "report.html").read_text()
    assert_self_contained(html)
    assert "<li>retrieval.page_to_text: no reports.</li>" in html
    assert "<h2>Retrieval</h2>" not in html and "<h2>Classes</h2>" not in html
    assert html.index("LBBB</td>") < html.index("AFIB</td>"), "the most frequent first"
    assert "Linear probe, 2 labels of the archive" in html


@pytest.mark.parametrize(("tested", "trained", "known"), [(0, 0, True), (3, 0, False), (0, 3, False)])
def test_patients_are_claimed_only_where_they_are_known(tested, trained, known):
    unknown = {"evaluation.unknown_patients": Estimate(tested), "training.unknown_patients": Estimate(trained)}
    sentence = patients_sentence(unknown)
    assert ("None of these patients were trained on" in sentence) == known
    assert ("may have been trained on" in sentence) != known
    assert "may have been trained on" in patients_sentence(unknown, same_store=False)


def test_scores_that_find_wrong_pages_are_named_where_there_are_some(tmp_path):
    base = {"reject.base_rate": Estimate(0.5), "reject.constant.auroc": Estimate(float("nan"), n=20)}
    found = {"reject.lead_residual.auroc": Estimate(0.8, 0.7, 0.9, 20), "reject.predicted_error.auroc": Estimate(0.7)}
    for scores, sentence in ((found, "AUROC for finding them: lead residual 0.80"), ({}, "shown leads: 50 %.</p>")):
        measured = replace(evaluation(), figures=figures(0.6) | base | scores)
        write_run_report(str(tmp_path), measured, LINES, RunFacts("mine", Config(), 20, 480))
        html = (tmp_path / "report.html").read_text()
        assert sentence in html and "constant n/a" not in html
    assert "finding them" not in html


def test_headline_claims_nothing_that_the_interval_denies(tmp_path):
    write_run_report(str(tmp_path), evaluation(recall=0.12), [], RunFacts("shuffled", Config(), 20, 480))
    html = (tmp_path / "report.html").read_text()
    assert "not find their own signals better than by chance" in html
    assert "holds no metrics" in html


def trial(name, state, scores, **settings) -> Trial:
    reports = [{"step": 10.0 * (k + 1), METRIC: score} for k, score in enumerate(scores)]
    return Trial(name, state, {f"objective.{key}": value for key, value in settings.items()}, reports)


TRIALS = [
    trial("a", "done", [0.1, 0.2, 0.30, 0.31], gram_weight=0.5, pair_weight=1.0),
    trial("b", "done", [0.1, 0.25, 0.4, 0.5], gram_weight=1.5, pair_weight=0.3),
    trial("c", "stopped", [0.9], gram_weight=0.1, pair_weight=0.3),
    Trial("d", "failed", {"objective.gram_weight": 0.2}, error="loss not finite at step 3"),
    trial("e", "done", [float("nan")], gram_weight=0.3),
]
SPACE = {
    "objective.gram_weight": SearchRange(low=0.1, high=2.0, log=True),
    "objective.pair_weight": SearchRange(choices=[0.3, 1.0]),
}


def test_ranking_puts_stopped_after_finished_and_scoreless_last():
    assert [t.id for t in ranked(TRIALS, METRIC)] == ["b", "a", "c", "d", "e"]


def test_sweep_report(tmp_path):
    content = write_sweep_report(str(tmp_path), TRIALS, SPACE, METRIC)
    assert json.loads((tmp_path / "report.json").read_text()) == content
    assert content["best"] == {"id": "b", "score": 0.5, "config": TRIALS[1].config}
    assert content["counts"] == {"done": 3, "stopped": 1, "failed": 1, "running": 0}
    html = (tmp_path / "report.html").read_text()
    assert_self_contained(html)
    assert "loss not finite at step 3" in html
    assert '<tr><th class="text">trial</th><th>rank</th>' in html, "the name is the column that stays in sight"
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [row["trial"] for row in rows] == ["b", "a", "c", "d", "e"]
    assert rows[3]["error"] == "loss not finite at step 3"
    assert rows[0]["objective.gram_weight"] == "1.5"


def test_sweep_report_without_any_good_trial(tmp_path):
    content = write_sweep_report(str(tmp_path), [TRIALS[3]], SPACE, METRIC)
    assert content["best"] is None
    assert "none finished with a score" in (tmp_path / "report.html").read_text()


def test_noise_comes_from_repeated_seeds_where_there_are_some():
    def seeded(name, score, weight, seed):
        return Trial(name, "done", {"objective.gram_weight": weight, "seed": seed}, [{"step": 1.0, METRIC: score}])

    close = [seeded("a", 0.50, 1.0, 0), seeded("b", 0.54, 1.0, 1), seeded("c", 0.45, 2.0, 0)]
    verdict = compare_best(close, METRIC)
    assert verdict.noise == pytest.approx(np.std([0.50, 0.54], ddof=1))
    assert verdict.within_noise
    far = [seeded("a", 0.50, 1.0, 0), seeded("b", 0.501, 1.0, 1), seeded("c", 0.9, 2.0, 0)]
    assert compare_best(far, METRIC).within_noise is False


def test_noise_without_seeds_is_the_jitter_of_the_curves():
    rng = np.random.default_rng(0)
    course = np.linspace(0.1, 0.6, 200)
    noisy = [trial(str(k), "done", course + 0.02 * rng.normal(size=200), gram_weight=k) for k in range(3)]
    assert compare_best(noisy, METRIC).noise == pytest.approx(0.02, rel=0.15)
    smooth = [trial("a", "done", course, gram_weight=1), trial("b", "done", course + 0.01, gram_weight=2)]
    assert compare_best(smooth, METRIC).within_noise is False
    assert compare_best([TRIALS[0]], METRIC).within_noise is None


def test_no_cell_of_a_csv_file_is_a_formula() -> None:
    row = csv_row(["=cmd|' /C calc'!A0", "+1", "-x", "@sum", "\tx", "plain", -0.5, 3, None])
    assert row == ["'=cmd|' /C calc'!A0", "'+1", "'-x", "'@sum", "'\tx", "plain", -0.5, 3, None]


@pytest.mark.parametrize(
    ("patients", "without"),
    [({"known": 3, "recordings_without": 0}, 0), ({"known": 0, "recordings_without": 4}, 8), ({"known": 3}, None)],
)
def test_the_card_knows_whose_patients_were_counted(patients: dict[str, int], without: int | None) -> None:
    """Stores made before they were counted claim nothing."""
    counts = {split: {"patients": patients} for split in ("train", "test")}
    assert recordings_without_patient(Manifest(source="folder", shards=[], counts=counts)) == without
    assert recordings_without_patient(None) is None


def searched(number: int, score: float, steps: int = 2, state: str = "done") -> Trial:
    """A trial of a search in which only the first of two settings matters."""
    config = {"objective.gram_weight": 0.1 + 0.1 * number, "objective.pair_weight": [0.3, 1.0][number % 2]}
    reports = [{"step": 10.0 * (k + 1), METRIC: score * (k + 1)} for k in range(steps)]
    return Trial(trial_id(config), state, config, reports)


def test_stopped_trials_are_compared_at_a_step_that_most_reached():
    whole, stopped = [searched(k, 0.1 * k) for k in range(4)], [searched(9, 0.5, steps=1, state="stopped")]
    step, points = at_shared_step(whole + stopped, METRIC)
    assert (step, len(points)) == (20, 4)
    step, points = at_shared_step(whole + stopped * 2, METRIC)
    assert (step, [score for _, score in points]) == (10, pytest.approx([0, 0.1, 0.2, 0.3, 0.5, 0.5]))
    assert at_shared_step([], METRIC) == (0, [])


def test_the_report_of_a_large_sweep_has_importances_and_parallel_coordinates(tmp_path):
    trials = [searched(k, 0.04 * k) for k in range(18)]
    content = write_sweep_report(str(tmp_path), trials, SPACE, METRIC)
    shares = content["importance"]["shares"]
    assert list(shares) == ["objective.gram_weight", "objective.pair_weight"]
    assert shares["objective.gram_weight"] > 0.9 and sum(shares.values()) == pytest.approx(1)
    html = (tmp_path / "report.html").read_text()
    assert "All settings of each trial" in html and "functional ANOVA" in html
    few = write_sweep_report(str(tmp_path), trials[:9], SPACE, METRIC)
    assert few["importance"]["shares"] is None
    assert "10 are needed" in (tmp_path / "report.html").read_text()


def test_further_seeds_decide_between_the_best_two(tmp_path):
    trials = [searched(k, 0.1 * k) for k in range(4)]
    first, second = trials[3], trials[2]

    def repeat(trial, seed, score):
        config = trial.config | {"seed": seed}
        return Trial(trial_id(config), "done", config, [{"step": 20.0, METRIC: score}])

    repeats = [repeat(first, 1, 0.40), repeat(first, 2, 0.42), repeat(second, 1, 0.50), repeat(second, 2, 0.54)]
    alone = write_sweep_report(str(tmp_path), trials + repeats[:2], SPACE, METRIC)
    assert alone["best"]["id"] == first.id and alone["seeds"] == [], "both of them, or none"
    content = write_sweep_report(str(tmp_path), trials + repeats, SPACE, METRIC)
    assert json.loads((tmp_path / "report.json").read_text()) == content
    assert content["best"]["id"] == second.id
    assert content["counts"]["done"] == len(content["trials"]) == 4, "repeats are not trials of the search"
    assert [entry["mean"] for entry in content["seeds"]] == pytest.approx([0.52, 0.41])
    assert content["verdict"]["gap"] == pytest.approx(0.11)
    of_first, of_second = [0.6, 0.40, 0.42], [0.4, 0.50, 0.54]
    pooled = np.sqrt((np.var(of_first) * 3 + np.var(of_second) * 3) / 4)
    assert content["verdict"]["noise"] == pytest.approx(pooled)
    html = (tmp_path / "report.html").read_text()
    assert "The best two with further seeds" in html and "<td>0.5400</td><td>0.5200</td>" in html
