"""Which redrawn pages to reject: scores that indicate wrongly redrawn pages, each measured by its AUROC.

Wrongly redrawn = RMSE on what the page shows above 0.1 mV, a small square of the paper. Three scores: the residual of the lead
laws on the redrawn leads; an error predicted from the page's features, by a ridge regression
fitted on validation patients; and a constant, as the baseline.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeCV

from ecgscan_ray.evaluation.bootstrap import Estimate, PatientBootstrap
from ecgscan_ray.evaluation.features import Features

WRONG_RMSE_MV = 0.1
PREDICTED_ERROR = "predicted_error"
"""Name of the row that holds the logarithm of the predicted error."""


def predicted_error(validation: Features, test: Features) -> np.ndarray:
    """(N,) the logarithm of the RMSE on shown leads, predicted from the features of each test page."""
    known = np.isfinite(np.log(validation["shown.rmse_mv"]))
    features, error = validation["features"][known], np.log(validation["shown.rmse_mv"][known])
    mean, scale = features.mean(0), np.maximum(features.std(0), 1e-9)
    ridge = RidgeCV(np.logspace(0, 6, 13)).fit((features - mean) / scale, error)  # strength by leave-one-out
    return ridge.predict((test["features"] - mean) / scale)


def reject_figures(
    validation: Features, test: Features, bootstrap: PatientBootstrap, output_rows: dict[str, np.ndarray]
) -> dict[str, Estimate]:
    """``reject.base_rate``, and ``reject.<score>.auroc`` of each score; an AUROC requires right and wrong pages.

    The predicted error of each recording is added to ``output_rows``.
    """
    rmse = test["shown.rmse_mv"]
    rows = np.flatnonzero(np.isfinite(rmse))
    if not len(rows):
        return {}
    resampled, wrong = bootstrap.of(rows), rmse[rows] > WRONG_RMSE_MV
    scores = {"lead_residual": test["lead_residual_mv"], "constant": np.zeros(len(rmse))}
    if np.isfinite(validation["shown.rmse_mv"]).sum() > 1:
        scores[PREDICTED_ERROR] = output_rows[PREDICTED_ERROR] = predicted_error(validation, test)
    figures = {"reject.base_rate": resampled.mean(wrong.astype(np.float64))}
    for name, score in scores.items():
        (figure,) = resampled.per_class_auroc(score[rows, None], wrong[:, None])
        figures[f"reject.{name}.auroc"] = figure
    return figures
