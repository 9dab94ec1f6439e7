"""Arms compared with a baseline: differences paired by seed, intervals by patient."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray.config import AblationConfig, build
from ecgscan_ray.errors import ConfigError, InputError
from ecgscan_ray.evaluation.ablation import MEASURES, compare, statistic
from ecgscan_ray.report.ablation import table_csv, table_text, write_ablation_report

N = 120
LABELS = np.random.default_rng(0).integers(0, 2, (N, 5)).astype(bool)
HARD = np.random.default_rng(1).normal(size=N)
"""How hard each recording is, for every arm alike: pairing takes it out."""


def rows(quality: float, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = LABELS * quality + rng.normal(size=(N, 5))
    scores[5] = np.nan  # a recording without a class
    rank = 0.5 + 0.1 * HARD + 0.1 * quality + 0.01 * rng.normal(size=N)
    rank[7] = np.nan  # a page without a report
    return {
        "recording_key": np.arange(N),
        "patient_key": np.arange(N) // 2,
        "labels": LABELS,
        "retrieval.page_to_text.mrr": rank,
        "linear_probe.superclass.macro_auroc": scores,
        "reconstruction.shown.rmse_mv": 0.1 + 0.02 * HARD,
        "lead_residual_mv": 0.01 * HARD,
        "predicted_error": -HARD,
    }


def test_a_difference_is_paired_and_its_interval_covers_it() -> None:
    runs = {
        "whole": {seed: rows(1.0, seed) for seed in range(3)},
        "less": {seed: rows(0.7, 10 + seed) for seed in range(3)},
        "same": {seed: rows(1.0, 20 + seed) for seed in range(3)},
    }
    table = compare(runs, resamples=300)
    assert list(table) == ["whole", "less", "same"]
    cell = table["less"]["retrieval.page_to_text.mrr"]
    assert cell.difference is not None and cell.difference.low is not None and cell.difference.high is not None
    assert cell.difference.value == pytest.approx(-0.03, abs=0.004)
    assert cell.difference.high - cell.difference.low < 0.01, "how hard a recording is has been paired away"
    assert cell.value.high is not None and cell.value.low is not None and cell.value.high - cell.value.low > 0.03
    assert cell.clear and set(cell.by_seed) == {0, 1, 2}
    assert np.mean(list(cell.by_seed.values())) == pytest.approx(cell.difference.value)
    assert table["whole"]["retrieval.page_to_text.mrr"].difference is None
    assert not table["same"]["linear_probe.superclass.macro_auroc"].clear
    auroc = table["less"]["linear_probe.superclass.macro_auroc"]
    assert auroc.difference is not None and auroc.difference.value < 0
    assert table["whole"]["reject.lead_residual.auroc"].value.value == 1
    assert table["whole"]["reject.predicted_error.auroc"].value.value == 0
    assert "zero_shot.superclass.macro_auroc" not in table["whole"], "what was not measured is left out"


def test_only_seeds_that_both_arms_have_are_paired() -> None:
    runs = {"whole": {0: rows(1, 0), 1: rows(1, 1)}, "less": {1: rows(0.5, 2), 2: rows(0.5, 3)}, "none": {}}
    table = compare(runs, resamples=20)
    assert set(table) == {"whole", "less"}
    assert set(table["less"]["lead_residual_mv"].by_seed) == {1}
    assert compare({"none": {}}, resamples=20) == {}
    lost = compare({"whole": {}, "less": {0: rows(1, 0)}, "other": {0: rows(1, 1)}}, resamples=20)
    assert lost["other"]["lead_residual_mv"].difference is None, "no other arm steps in for the first"


def test_an_arm_is_compared_with_its_baseline(tmp_path: Path) -> None:
    runs = {"whole": {0: rows(1, 0)}, "half": {0: rows(0.5, 1)}, "half, tied": {0: rows(0.6, 2)}}
    config = AblationConfig(arms={arm: {} for arm in runs}, baseline={"half, tied": "half"})
    name = "retrieval.page_to_text.mrr"
    table = compare(runs, config.baseline, resamples=20)
    value = {arm: table[arm][name].value.value for arm in runs}
    difference = table["half, tied"][name].difference
    assert difference is not None and difference.value == pytest.approx(value["half, tied"] - value["half"])
    assert write_ablation_report(str(tmp_path), table, config, [])["baselines"] == {"half, tied": "half"}
    assert "compared with half" in (tmp_path / "report.html").read_text()
    with pytest.raises(ConfigError, match="baseline names 'other', which is no arm"):
        build(AblationConfig, {"arms": {"whole": {}}, "baseline": {"whole": "other"}}, where="test")


def test_a_clear_difference_requires_every_seed() -> None:
    runs = {"whole": {s: rows(1.0, s) for s in range(2)}, "mixed": {0: rows(0.2, 5), 1: rows(1.4, 6)}}
    cell = compare(runs, resamples=100)["mixed"]["retrieval.page_to_text.mrr"]
    assert cell.difference is not None and cell.difference.high is not None and cell.difference.high < 0
    assert not cell.clear


def test_a_figure_that_is_none_is_null_in_the_report(tmp_path: Path) -> None:
    nothing_wrong = {"reconstruction.shown.rmse_mv": np.full(N, 0.05)}
    table = compare({"whole": {0: rows(1, 0) | nothing_wrong}, "less": {0: rows(0.2, 1) | nothing_wrong}}, resamples=20)
    config = AblationConfig(arms={"whole": {}, "less": {"seed": 1}})
    content = write_ablation_report(str(tmp_path), table, config, [])
    assert json.loads((tmp_path / "report.json").read_text()) == content
    entry = content["arms"]["less"]["reject.lead_residual.auroc"]
    assert entry["value"] is None and entry["difference"]["value"] is None and entry["by_seed"] == {}
    assert not entry["clear"]
    assert "n/a" in (tmp_path / "report.html").read_text()


def test_other_recordings_are_refused() -> None:
    other = rows(1, 1) | {"recording_key": np.arange(N)[::-1]}
    with pytest.raises(InputError, match="other recordings"):
        compare({"whole": {0: rows(1, 0)}, "less": {0: other}}, resamples=10)


def test_statistics_are_those_of_the_report() -> None:
    own, once = rows(1, 0), np.ones((1, N))
    assert statistic("reject.base_rate", own, once)[0] == pytest.approx((HARD > 0).mean(), abs=1e-6)
    assert statistic("retrieval.page_to_text.mrr", own, once)[0] == pytest.approx(
        np.nanmean(own["retrieval.page_to_text.mrr"])
    )


def test_tables_for_people_and_machines() -> None:
    table = compare({"whole": {0: rows(1, 0)}, "less": {0: rows(0.2, 1)}}, resamples=50)
    printed = table_text(table, {})
    assert MEASURES["retrieval.page_to_text.mrr"] in printed
    assert printed.count("less ") == len(table["less"])
    assert len(table_csv(table).splitlines()) == 1 + len(table["whole"]) + len(table["less"])
