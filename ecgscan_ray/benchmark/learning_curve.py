"""What more labels would give: a power law through an encoder's figures on shares of the labels.

Letters: K shares, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecgscan_ray.benchmark.figure import Resampled

MIN_SHARES = 3
"""A power law has three parameters."""
_EXPONENTS = np.geomspace(0.05, 3, 400)


def extrapolate(rows: Sequence[int], figures: Sequence[Resampled], to_rows: int) -> Resampled:
    """The AUROC that ``to_rows`` training recordings would give: a - b * n^-c by least squares, a at most 1, b at least 0.

    Args:
        rows: K training recordings, behind each figure.
        figures: K, resampled alike.
        to_rows: Training recordings asked for.

    Returns:
        A figure whose interval comes of the test patients alone: each figure is that of one training run.
    """
    values = np.stack([[figure.value, *figure.resamples] for figure in figures], 1)
    at = power_law(np.asarray(rows, float), values, to_rows)
    return Resampled(float(at[0]), at[1:], figures[0].n)


def power_law(rows: np.ndarray, values: np.ndarray, to_rows: float) -> np.ndarray:
    """(B, K) values at (K,) rows -> (B,) values at ``to_rows``."""
    least, answer = np.full(len(values), np.inf), np.zeros(len(values))
    for exponent in _EXPONENTS:
        x = (rows / to_rows) ** -exponent  # 1 at to_rows
        slope = np.maximum(-(values @ (x - x.mean())) / ((x - x.mean()) ** 2).sum(), 0)
        limit = values.mean(1) + slope * x.mean()
        above = limit > 1
        slope = np.where(above, np.maximum((1 - values) @ x / (x @ x), 0), slope)
        limit = np.minimum(limit, 1)
        error = ((limit[:, None] - slope[:, None] * x - values) ** 2).sum(1)
        better = error < least
        least, answer = np.where(better, error, least), np.where(better, limit - slope, answer)
    return answer
