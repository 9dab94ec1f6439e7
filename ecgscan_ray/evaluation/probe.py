"""Linear probe: what a linear model can predict from the frozen encoder's features.

The strength of the ridge is chosen on validation patients, never on those tested; features are standardised with the
training pages' mean and deviation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ecgscan_ray.evaluation.bootstrap import macro_auroc_statistic

MAX_ITERATIONS = 500
STRENGTHS = tuple(float(s) for s in np.logspace(-4, 1, 6))


@dataclass(frozen=True)
class Probe:
    """A fitted linear probe: standardise, multiply, add.

    Attributes:
        mean: (F,) of the training features.
        scale: (F,) one over their deviation, 0 for constant features.
        weight: (F, C) of one logistic regression per class.
        bias: (C,).
        strength: L2 penalty, chosen on validation.
        validation_auroc: Macro AUROC on validation.
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    strength: float
    validation_auroc: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(N, C) log odds of (N, F) features."""
        return (features - self.mean) * self.scale @ self.weight + self.bias


def fit_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    strengths: tuple[float, ...] = STRENGTHS,
) -> Probe:
    """One-vs-rest logistic regression with an L2 penalty ``strength / 2 |w|^2`` on the mean log loss.

    Args:
        train: (N, F) features of the training pages (each page of a recording is a row).
        train_labels: (N, C) bool, several classes may be true.
        validation: (M, F).
        validation_labels: (M, C) bool.
        strengths: Penalties to try; the one with the best macro AUROC on validation is kept.
    """
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    scale = np.where(deviation > 1e-6 * max(float(deviation.max()), 1e-30), 1 / np.maximum(deviation, 1e-30), 0.0)
    y = np.asarray(train_labels, bool)
    left, singular, basis = np.linalg.svd(((train - mean) * scale).astype(np.float64), full_matrices=False)
    # The rows along their main axes, where the loss's second derivatives are almost a diagonal. Single precision halves the time.
    z = (left * singular).astype(np.float32)
    once = np.ones((1, len(validation)))
    best: Probe | None = None
    weight = np.zeros((len(singular) + 1, y.shape[1]))
    for strength in sorted(strengths, reverse=True):  # from strong to weak: each solution is near the next
        weight = _fit(z, y, strength, weight)
        probe = Probe(mean, scale, basis.T @ weight[:-1], weight[-1], strength, float("nan"))
        auroc = float(macro_auroc_statistic(probe.scores(validation), validation_labels, once)[0])
        if best is None or auroc > best.validation_auroc:
            best = replace(probe, validation_auroc=auroc)
    assert best is not None
    return best


def _fit(z: np.ndarray, y: np.ndarray, strength: float, start: np.ndarray) -> np.ndarray:
    """(F + 1, C) weights and bias, for rows (N, F) along their main axes. The classes share one L-BFGS run: the loss is a sum.

    The unknowns are scaled so that the loss curves alike along each, which takes a fifth of the steps.
    """
    sign, rate = np.where(y, 1.0, -1.0), y.mean(0)
    variance = np.append(np.square(z).mean(0, dtype=np.float64), 1.0)[:, None]
    penalty = np.append(np.full(z.shape[1], strength), 0.0)[:, None]
    unit = 1 / np.sqrt(np.maximum(rate * (1 - rate), 1 / len(z)) * variance + penalty)

    def loss_and_gradient(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        weight = scaled.reshape(unit.shape) * unit
        margin = (z @ weight[:-1].astype(z.dtype) + weight[-1]) * sign
        loss = np.logaddexp(0, -margin).mean(0).sum() + (penalty / 2 * np.square(weight)).sum()
        slope = -expit(-margin) * sign / len(z)
        gradient = np.vstack([z.T @ slope.astype(z.dtype), slope.sum(0)]) + penalty * weight
        return float(loss), (gradient * unit).ravel()

    options = {"maxiter": MAX_ITERATIONS, "maxcor": 20, "gtol": 1e-5, "ftol": 1e-8}
    fitted = minimize(loss_and_gradient, (start / unit).ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(fitted.x).reshape(unit.shape) * unit
