"""The printed grid's millimetres from the phases that ``PageNet`` reads.

A phase says where a place is between two lines, not between which two. The fit starts where the lines are seen best, with the
frequency that is strongest there; a quadratic surface then grows over the page, which follows perspective and bends without
losing count; last, corrections under ever narrower windows follow creases. A vector's length is its belief, so that places
without lines count for little.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from scipy import linalg

WINDOWS_MM = (8.0, 5.0, 3.5)
"""Standard deviations of the windows of the last corrections, from wide to narrow."""
SEED_MM = 32.0
"""Standard deviation of the window in which the fit starts."""
GROWTH_MM = 20.0
"""Width of the ring by which the surface grows in one step."""
LARGEST_STRETCH = 0.16
"""The coarse pose's scale is right to this share."""
NEAR = 0.3
"""Share of a period within which a phase counts as one of the surface's own."""


def residual(z: np.ndarray, mm: np.ndarray, period: float) -> np.ndarray:
    """What is left of the phases ``z`` when ``mm`` is taken for the millimetres."""
    angle = (-2 * np.pi / period) * mm
    turned = np.empty(angle.shape, complex)
    turned.real, turned.imag = np.cos(angle), np.sin(angle)  # in a third of the time of a complex exponential
    return z * turned


def blur(field: np.ndarray, sigma: float) -> np.ndarray:
    """A complex field under a Gaussian window of ``sigma`` cells; nothing lies outside of it."""
    real, imaginary = (
        cv2.GaussianBlur(np.ascontiguousarray(part, np.float32), (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        for part in (field.real, field.imag)
    )
    return real + 1j * imaginary


def vertex(values: np.ndarray, i: int) -> float:
    """Where a parabola through a peak and its neighbours is highest, samples from ``i``."""
    if not 0 < i < len(values) - 1:
        return 0.0
    a, b, c = values[i - 1 : i + 2]
    return float(0.5 * (a - c) / (a - 2 * b + c - 1e-9))


def seed(z: np.ndarray, at: np.ndarray, axis: int, period: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the lines are seen best, of six places: its centre (2,), and (slope across, slope down, offset) of the mm along
    ``axis`` as an affine function of places there."""
    low, high = at[0, 0], at[-1, -1]
    spectrum, straight = _Spectrum(at, period), residual(z, at[..., axis], period)
    candidates = []
    for shares in itertools.product((0.3, 0.5, 0.7), (0.35, 0.6)):
        centre = low + (high - low) * shares
        window = np.exp(-0.5 * (((at - centre) / SEED_MM) ** 2).sum(-1))
        slope = spectrum.strongest(straight * window)
        slope[axis] += 1
        seen = z * window
        total, belief = residual(seen, at @ slope, period).sum(), float(np.abs(seen).sum())
        strength = float(np.abs(total) / (belief + 1e-9))
        candidates.append((strength * belief, centre, np.array([*slope, np.angle(total) * period / (2 * np.pi)])))
    _, centre, coefficients = max(candidates, key=lambda candidate: candidate[0])
    return centre, coefficients


class _Spectrum:
    """Of fields on the places ``at``, at the frequencies that a page's stretch can have: mm of the grid per mm."""

    CELLS = 256
    """Places of the transform, most of them empty: its frequencies lie as near to each other as of a field so large."""

    def __init__(self, at: np.ndarray, period: float) -> None:
        width = period / (self.CELLS * float(at[0, 1, 0] - at[0, 0, 0]))
        turns = np.arange(-int(LARGEST_STRETCH / width), int(LARGEST_STRETCH / width) + 1)
        self._freq, self._width = turns * width, width
        h, w = at.shape[:2]
        self._down, self._across = (
            np.exp(-2j * np.pi / self.CELLS * turns[:, None] * np.arange(count)) for count in (h, w)
        )

    def strongest(self, field: np.ndarray) -> np.ndarray:
        """The frequency (across, down) of a field (h, w)."""
        power = cv2.GaussianBlur(np.abs(self._down @ field @ self._across.T), (0, 0), 1.0)
        iy, ix = np.unravel_index(power.argmax(), power.shape)
        return np.array(
            [
                self._freq[ix] + self._width * vertex(power[iy], ix),
                self._freq[iy] + self._width * vertex(power[:, ix], iy),
            ]
        )


def grown(z: np.ndarray, at: np.ndarray, axis: int, period: float) -> tuple[np.ndarray, float]:
    """Millimetres (h, w) along ``axis`` as a quadratic surface, and the share of belief that lies near it."""
    centre, coefficients = seed(z, at, axis, period)
    x, y = np.moveaxis((at - centre) / 100.0, -1, 0)
    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
    model = np.array([coefficients[:2] @ centre + coefficients[2], *(100.0 * coefficients[:2]), 0.0, 0.0, 0.0])
    distance, belief, phase = np.linalg.norm(at - centre, axis=-1), np.abs(z), np.angle(z) / (2 * np.pi)

    def turns() -> np.ndarray:
        rest = phase - design @ model / period
        return rest - np.rint(rest)

    for radius in np.arange(SEED_MM, distance.max() + GROWTH_MM, GROWTH_MM):
        columns = 3 if radius < 1.5 * SEED_MM else 6
        for _ in range(2):
            rest = turns()
            weight = np.where((distance < radius) & (np.abs(rest) < NEAR), belief, 0.0).ravel()
            part = design.reshape(-1, 6)[:, :columns]
            normal = (part.T * weight) @ part + 1e-3 * np.eye(columns)
            model[:columns] += np.linalg.solve(normal, (part.T * weight) @ (rest.ravel() * period))
    near = float((belief * (np.abs(turns()) < NEAR)).sum() / (belief.sum() + 1e-9))
    return design @ model, near


def unwrapped(z: np.ndarray) -> np.ndarray:
    """The phase of ``z`` in turns (h, w) without jumps: its steps from cell to cell fitted by weighted least squares,
    and again with less weight on steps that disagree (a crease, a place without lines)."""
    if z.shape[0] < z.shape[1]:
        return unwrapped(z.T).T  # the equations' band is as wide as a row
    belief = np.abs(z)
    neighbours = ((z[:, :-1], z[:, 1:]), (z[:-1], z[1:]))
    steps = [np.angle(after * np.conj(before)) / (2 * np.pi) for before, after in neighbours]
    beliefs = [np.minimum(np.abs(before), np.abs(after)) ** 2 + 1e-4 for before, after in neighbours]
    turns = _fitted(steps, beliefs)
    rests = (np.abs(np.diff(turns, axis=1) - steps[0]), np.abs(np.diff(turns, axis=0) - steps[1]))
    turns = _fitted(steps, [weight / (rest + 0.03) for weight, rest in zip(beliefs, rests, strict=True)])
    strongest = belief >= np.quantile(belief, 0.5)
    turns += np.angle((z * np.exp(-2j * np.pi * turns))[strongest].sum()) / (2 * np.pi)
    return turns


def _fitted(steps: list[np.ndarray], weights: list[np.ndarray]) -> np.ndarray:
    """Values (h, w) whose differences come nearest to ``steps``, along rows (h, w - 1) and down columns (h - 1, w)."""
    h, w = steps[1].shape[0] + 1, steps[1].shape[1]
    band, known = (
        np.zeros((w + 1, h, w)),
        np.zeros((h, w)),
    )  # of the normal equations: diagonals 0 to w below the main one
    band[0] = 1e-8
    before, after = (np.s_[:, :-1], np.s_[:-1]), (np.s_[:, 1:], np.s_[1:])
    for k, apart in enumerate((1, w)):
        for cells in (before[k], after[k]):
            band[0][cells] += weights[k]
        band[apart][before[k]] = -weights[k]
        known[before[k]] -= weights[k] * steps[k]
        known[after[k]] += weights[k] * steps[k]
    return linalg.solveh_banded(band.reshape(w + 1, -1), known.ravel(), lower=True, check_finite=False).reshape(h, w)


def follow(z: np.ndarray, at: np.ndarray, period: float, mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``mm`` corrected to follow the phases, and their agreement with it, (h, w) in 0..1.

    Args:
        z: complex (h, w) phases; length = belief.
        at: (h, w, 2) places, mm.
        period: Of the lines, mm.
        mm: First guess (h, w), right to half a period where it is best.
    """
    step = float(at[0, 1, 0] - at[0, 0, 0])
    rest = unwrapped(blur(residual(z, mm, period), 1.0))
    mm = mm + period * cv2.GaussianBlur(rest, (0, 0), 1.5)
    for sigma_mm in WINDOWS_MM:
        mean = blur(residual(z, mm, period), sigma_mm / step)
        trust = np.abs(mean) / (np.abs(mean) + 0.02)  # where nothing is seen, nothing is corrected
        mm = mm + trust * np.angle(mean) * period / (2 * np.pi)
    return mm, np.abs(blur(residual(z, mm, period), WINDOWS_MM[-1] / step))
