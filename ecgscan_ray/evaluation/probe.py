"""Linear probe: what a linear model can predict from the frozen encoder's features.

The strength of the ridge is chosen on validation patients, never on those tested; features are standardised with the
training pages' mean and deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ecgscan_ray.evaluation.bootstrap import macro_auroc_statistic

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
    z = torch.as_tensor((train - mean) * scale, dtype=torch.float64)
    y = torch.as_tensor(train_labels, dtype=torch.float64)
    once = np.ones((1, len(validation)))
    best: Probe | None = None
    weight = torch.zeros(z.shape[1] + 1, y.shape[1], dtype=torch.float64)
    for strength in sorted(strengths, reverse=True):  # from strong to weak: each solution is near the next
        weight = _fit(z, y, strength, weight)
        fitted = weight.numpy().copy()
        probe = Probe(mean, scale, fitted[:-1], fitted[-1], strength, float("nan"))
        auroc = float(macro_auroc_statistic(probe.scores(validation), validation_labels, once)[0])
        if best is None or auroc > best.validation_auroc:
            best = Probe(mean, scale, fitted[:-1], fitted[-1], strength, auroc)
    assert best is not None
    return best


def _fit(z: torch.Tensor, y: torch.Tensor, strength: float, start: torch.Tensor) -> torch.Tensor:
    """(F + 1, C) weights and bias. The classes share one L-BFGS run: the loss is a sum over classes."""
    design = torch.cat([z, torch.ones(len(z), 1, dtype=z.dtype)], dim=1)
    with torch.enable_grad():  # also where the caller has disabled it
        weight = start.clone().requires_grad_(True)
        optimiser = torch.optim.LBFGS([weight], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            each = functional.binary_cross_entropy_with_logits(design @ weight, y, reduction="none")
            loss = each.mean(0).sum() + strength / 2 * weight[:-1].square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
    return weight.detach()
