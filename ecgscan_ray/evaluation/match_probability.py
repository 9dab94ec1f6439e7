"""The chance that the best recording for a page is the one that it shows.

Other recordings are a page's own yardstick: how like it they are depends on its rhythm, its layout, how much of it was read
and with what noise. The best score is measured from the mean of theirs in their standard deviations, less what the best of
so many would reach by chance; and from the second best. A logistic regression makes a probability of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_PROBABILITY = 0.5
"""Below it a page counts as not in the gallery."""
PRIOR_COUNT, PRIOR_MEAN, PRIOR_SPREAD = 20.0, 0.096, 0.059
"""A small gallery says little about others: these many recordings, as they are for the mean page, are added to it."""
WEIGHTS = (-5.557, 0.078, 0.776)
"""Of 1, ``Evidence.excess`` and ``Evidence.gap``. These and the two numbers above are measured by
``tools/fit_match_probability.py`` on 104 drawn pages (half photographs, a quarter scans, a quarter clean) of patients on whom
the reader was not trained, in galleries of 10 to 11,660 PTB-XL recordings, each with the page's own one and without; the
weights on half of the pages. On the other half the mean probability is 0.51, 0.49, 0.50 and 0.49 among 10, 100, 1,000 and all,
and the first is right in 0.49, 0.49, 0.48 and 0.48."""
SUREST = 0.999
"""No probability is stated above it, or below 1 less it: a hundred pages measure no more."""


def fisher_z(correlation: np.ndarray | float) -> np.ndarray:
    """Correlations on a scale on which their noise does not depend on them."""
    return np.arctanh(np.clip(np.asarray(correlation, np.float64), -0.999, 0.999))


@dataclass(frozen=True)
class Evidence:
    """How far the best recording stands out; scores are on the scale of ``fisher_z``.

    Attributes:
        first: Best score.
        second: Second best; ``None`` where it is alone.
        others: Number of the other recordings.
        mean: Of their scores.
        spread: Standard deviation of their scores.
    """

    first: float
    second: float | None
    others: int
    mean: float
    spread: float

    @classmethod
    def of(cls, best: Sequence[float], others: int, total: float, squares: float) -> Evidence:
        """From the best two correlations (or the only one), and number, sum and sum of squares of the others' scores."""
        mean = total / max(others, 1)
        spread = math.sqrt(max(squares / max(others, 1) - mean**2, 0.0))
        second = float(fisher_z(best[1])) if len(best) > 1 else None
        return cls(float(fisher_z(best[0])), second, others, float(mean), spread)

    @property
    def excess(self) -> float:
        """The best score above the others' mean, in their standard deviations, less the most that so many reach by chance."""
        mean, spread = self._yardstick
        return (self.first - mean) / spread - math.sqrt(2 * math.log(self.others + PRIOR_COUNT))

    @property
    def gap(self) -> float:
        """The best score above the second best one, in the same unit; where it is alone, above the mean."""
        mean, spread = self._yardstick
        return (self.first - (mean if self.second is None else self.second)) / spread

    @property
    def _yardstick(self) -> tuple[float, float]:
        share = PRIOR_COUNT / (self.others + PRIOR_COUNT)
        mean = (1 - share) * self.mean + share * PRIOR_MEAN
        squares = (1 - share) * (self.spread**2 + self.mean**2) + share * (PRIOR_SPREAD**2 + PRIOR_MEAN**2)
        return mean, math.sqrt(max(squares - mean**2, 1e-6))


def match_probability(evidence: Evidence) -> float:
    """The chance, 0..1, that the first recording is the page's, where half of all pages have theirs in the gallery."""
    constant, excess, gap = WEIGHTS
    logit = constant + excess * evidence.excess + gap * evidence.gap
    limit = math.log(SUREST / (1 - SUREST))
    return 1 / (1 + math.exp(-min(max(logit, -limit), limit)))
