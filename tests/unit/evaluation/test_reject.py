"""The reject score on pages whose faults are known."""

import numpy as np

from ecgscan_ray.evaluation.bootstrap import PatientBootstrap
from ecgscan_ray.evaluation.features import Features
from ecgscan_ray.evaluation.reject import WRONG_RMSE_MV, predicted_error, reject_figures


def features(count: int, seed: int, told_by: str) -> Features:
    """Pages of which a third are wrong; ``told_by`` names the column that tells."""
    rng = np.random.default_rng(seed)
    rmse = np.where(np.arange(count) % 3 == 0, 0.3, 0.05) * np.exp(rng.normal(0, 0.1, count))
    rmse[0] = np.nan  # a page that shows nothing valid
    columns = {
        "shown.rmse_mv": rmse,
        "lead_residual_mv": rng.uniform(size=count),
        "features": rng.normal(size=(count, 5)),
    }
    if told_by == "features":
        columns["features"][:, 2] += 3 * np.log(np.nan_to_num(rmse, nan=0.1))
    else:
        columns["lead_residual_mv"] += 5 * rmse
    return Features([str(n) for n in range(count)], columns, [], [])


def test_each_score_is_judged_by_what_it_tells() -> None:
    for told_by, good in (("features", "predicted_error"), ("residual", "lead_residual")):
        test = features(90, 1, told_by)
        figures = reject_figures(features(120, 2, told_by), test, PatientBootstrap(np.arange(90), 50), {})
        assert figures["reject.base_rate"].value == 29 / 89
        assert figures["reject.base_rate"].n == 89
        assert figures["reject.constant.auroc"].value == 0.5
        for name in ("lead_residual", "predicted_error"):
            auroc = figures[f"reject.{name}.auroc"]
            assert (auroc.value > 0.95) == (name == good), (told_by, name)
            assert auroc.low is not None and auroc.high is not None and auroc.low <= auroc.value <= auroc.high


def test_test_pages_have_no_say_in_the_predicted_error() -> None:
    validation, test = features(60, 3, "features"), features(30, 4, "features")
    before = predicted_error(validation, test)
    test.columns["shown.rmse_mv"][:] = 9.0
    np.testing.assert_array_equal(predicted_error(validation, test), before)


def test_without_wrong_pages_there_is_no_auroc() -> None:
    test = features(30, 1, "residual")
    test.columns["shown.rmse_mv"][:] = WRONG_RMSE_MV / 2
    figures = reject_figures(features(30, 2, "residual"), test, PatientBootstrap(np.arange(30), 20), {})
    assert figures["reject.base_rate"].value == 0
    assert figures["reject.lead_residual.auroc"].as_dict()["value"] is None
