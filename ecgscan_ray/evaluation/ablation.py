"""Arms of an ablation compared with a baseline: differences paired by seed, their intervals by patient.

All runs are measured on the same test recordings. One draw of patients serves all arms and seeds; an arm's figure is the mean
over its seeds, and its difference the mean over the seeds that both arms have. An interval by patients does not cover the
variation between seeds: the difference of each seed is given, too.

Letters: N recordings, B resamples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ecgscan_ray.errors import InputError
from ecgscan_ray.evaluation.bootstrap import Estimate, interval, macro_auroc_statistic, mean_statistic, row_weights
from ecgscan_ray.evaluation.reject import PREDICTED_ERROR, WRONG_RMSE_MV

Rows = Mapping[str, np.ndarray]
"""``Evaluation.rows`` of one run."""

MEASURES = {
    "retrieval.page_to_signal.mrr": "MRR page to signal",
    "retrieval.page_to_text.mrr": "MRR page to report",
    "linear_probe.superclass.macro_auroc": "linear probe AUROC",
    "zero_shot.superclass.macro_auroc": "zero-shot AUROC",
    "reconstruction.shown.pearson_r": "r shown",
    "reconstruction.derivable.pearson_r": "r derivable",
    "reconstruction.unseen.pearson_r": "r unseen",
    "reconstruction.derivable.rmse_mv": "RMSE derivable mV",
    "lead_residual_mv": "lead residual mV",
    "reject.base_rate": "wrong pages",
    "reject.lead_residual.auroc": "reject by residual, AUROC",
    "reject.predicted_error.auroc": "reject by predicted error, AUROC",
}
"""Figure -> its short name, in the order of the table."""

_REJECT = {"reject.lead_residual.auroc": "lead_residual_mv", "reject.predicted_error.auroc": PREDICTED_ERROR}
"""Figure -> the rows that it ranks pages by."""


@dataclass(frozen=True)
class Cell:
    """One figure of one arm.

    Attributes:
        value: Mean over seeds, interval by patients.
        difference: From its baseline, paired by seed; ``None`` for the first arm itself.
        by_seed: Seed -> difference, where there is one (an AUROC requires both kinds of pages).
    """

    value: Estimate
    difference: Estimate | None
    by_seed: dict[int, float]

    @property
    def clear(self) -> bool:
        """Whether the interval of the difference excludes 0, and all seeds agree in sign."""
        d = self.difference
        if d is None or d.low is None or d.high is None:
            return False
        return (d.low > 0 or d.high < 0) and len({np.sign(each) for each in self.by_seed.values()}) == 1


def statistic(name: str, rows: Rows, weights: np.ndarray) -> np.ndarray:
    """(B,) the figure ``name`` of recordings weighted (B, N)."""
    if name.startswith("reject."):
        known = np.flatnonzero(np.isfinite(rows["reconstruction.shown.rmse_mv"]))
        wrong = rows["reconstruction.shown.rmse_mv"][known] > WRONG_RMSE_MV
        if name == "reject.base_rate":
            return mean_statistic(wrong.astype(float), weights[:, known])
        return macro_auroc_statistic(rows[_REJECT[name]][known, None], wrong[:, None], weights[:, known])
    if rows[name].ndim == 2:
        known = np.flatnonzero(np.isfinite(rows[name]).all(1))
        return macro_auroc_statistic(rows[name][known], rows["labels"][known], weights[:, known])
    return mean_statistic(rows[name], weights)


def compare(
    runs: Mapping[str, Mapping[int, Rows]],
    baselines: Mapping[str, str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Cell]]:
    """Compare every arm with the first, or with its own baseline.

    Args:
        runs: Arm -> seed -> rows of the run; arms without a run are left out.
        baselines: Arm -> its baseline, for those that are not compared with the first.
        resamples: B.
        seed: Of the draw of patients.

    Returns:
        Arm -> figure -> cell.

    Raises:
        InputError: Runs were measured on different recordings.
    """
    first_arm, baselines = next(iter(runs)), baselines or {}
    runs = {arm: of_seed for arm, of_seed in runs.items() if of_seed}
    if not runs:
        return {}
    first = next(iter(next(iter(runs.values())).values()))
    for arm, of_seed in runs.items():
        for rows in of_seed.values():
            if not np.array_equal(rows["recording_key"], first["recording_key"]):
                raise InputError("was measured on other recordings than the first arm", where=arm)
    patients = first["patient_key"]
    weights = np.concatenate([np.ones((1, len(patients))), row_weights(patients, resamples, seed)])  # first, all once
    table: dict[str, dict[str, Cell]] = {arm: {} for arm in runs}
    for name in MEASURES:
        figures = {
            arm: {s: statistic(name, rows, weights) for s, rows in of_seed.items() if _has(name, rows)}
            for arm, of_seed in runs.items()
        }
        for arm, of_arm in figures.items():
            if not of_arm:
                continue
            other = baselines.get(arm, first_arm)
            of_other = {} if other == arm else figures.get(other, {})
            paired = {s: of_arm[s] - of_other[s] for s in of_arm if s in of_other}
            difference = _estimate(list(paired.values()), len(patients)) if paired else None
            value = _estimate(list(of_arm.values()), len(patients))
            by_seed = {s: float(each[0]) for s, each in paired.items() if np.isfinite(each[0])}
            table[arm][name] = Cell(value, difference, by_seed)
    return table


def _has(name: str, rows: Rows) -> bool:
    return name == "reject.base_rate" or _REJECT.get(name, name) in rows


def _estimate(by_seed: list[np.ndarray], n: int) -> Estimate:
    mean = np.mean(by_seed, axis=0)
    return interval(float(mean[0]), mean[1:], n)
