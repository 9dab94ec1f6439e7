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
from scipy import sparse
from scipy.sparse import linalg

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
    return z * np.exp(-2j * np.pi * mm / period)


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


def local_frequency(z: np.ndarray, at: np.ndarray, axis: int, period: float) -> tuple[np.ndarray, float]:
    """(slope across, slope down, offset) of the mm along ``axis`` as an affine function of places, and its strength 0..1."""
    step = at[0, 1, 0] - at[0, 0, 0]
    n = 256
    power = np.abs(np.fft.fftshift(np.fft.fft2(residual(z, at[..., axis], period), (n, n))))
    freq = np.fft.fftshift(np.fft.fftfreq(n, step)) * period  # mm of the grid per mm
    keep = np.flatnonzero(np.abs(freq) <= LARGEST_STRETCH)
    freq, power = freq[keep], cv2.GaussianBlur(power[np.ix_(keep, keep)], (0, 0), 1.0)
    iy, ix = np.unravel_index(power.argmax(), power.shape)
    width = freq[1] - freq[0]
    slope = np.array([freq[ix] + width * vertex(power[iy], ix), freq[iy] + width * vertex(power[:, ix], iy)])
    slope[axis] += 1
    total = residual(z, at @ slope, period).sum()
    return np.array([*slope, np.angle(total) * period / (2 * np.pi)]), float(np.abs(total) / (np.abs(z).sum() + 1e-9))


def seed(z: np.ndarray, at: np.ndarray, axis: int, period: float) -> tuple[np.ndarray, np.ndarray]:
    """Where the lines are seen best, of six places: its centre (2,), and ``local_frequency`` there."""
    low, high = at[0, 0], at[-1, -1]
    candidates = []
    for shares in itertools.product((0.3, 0.5, 0.7), (0.35, 0.6)):
        centre = low + (high - low) * shares
        window = np.exp(-0.5 * (((at - centre) / SEED_MM) ** 2).sum(-1))
        coefficients, strength = local_frequency(z * window, at, axis, period)
        candidates.append((strength * float((np.abs(z) * window).sum()), centre, coefficients))
    _, centre, coefficients = max(candidates, key=lambda candidate: candidate[0])
    return centre, coefficients


def grown(z: np.ndarray, at: np.ndarray, axis: int, period: float) -> tuple[np.ndarray, float]:
    """Millimetres (h, w) along ``axis`` as a quadratic surface, and the share of belief that lies near it."""
    centre, coefficients = seed(z, at, axis, period)
    x, y = np.moveaxis((at - centre) / 100.0, -1, 0)
    design = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
    model = np.array([coefficients[:2] @ centre + coefficients[2], *(100.0 * coefficients[:2]), 0.0, 0.0, 0.0])
    distance, belief = np.linalg.norm(at - centre, axis=-1), np.abs(z)

    def turns() -> np.ndarray:
        return np.angle(residual(z, design @ model, period)) / (2 * np.pi)

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
    h, w = z.shape
    index = np.arange(h * w).reshape(h, w)
    pairs = [(index[:, :-1], index[:, 1:]), (index[:-1], index[1:])]
    flat = z.ravel()
    a, b = (np.concatenate([pair[k].ravel() for pair in pairs]) for k in (0, 1))
    step = np.angle(flat[b] * np.conj(flat[a])) / (2 * np.pi)
    belief = np.minimum(np.abs(flat[a]), np.abs(flat[b])) ** 2 + 1e-4
    n = len(step)
    difference = sparse.csr_matrix(
        (np.tile([-1.0, 1.0], n), (np.repeat(np.arange(n), 2), np.stack([a, b], 1).ravel())), shape=(n, h * w)
    )
    weight, turns = belief, np.zeros(h * w)
    for _ in range(2):
        weighted = difference.multiply(weight[:, None]).tocsr()
        normal = (difference.T @ weighted + 1e-8 * sparse.identity(h * w)).tocsc()
        turns = linalg.spsolve(normal, weighted.T @ step, permc_spec="MMD_AT_PLUS_A")  # it is symmetric
        weight = belief / (np.abs(difference @ turns - step) + 0.03)
    turns = turns.reshape(h, w)
    strongest = np.abs(z) >= np.quantile(np.abs(z), 0.5)
    turns += np.angle((z * np.exp(-2j * np.pi * turns))[strongest].sum()) / (2 * np.pi)
    return turns


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
