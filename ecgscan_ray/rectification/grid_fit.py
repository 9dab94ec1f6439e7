"""The printed grid's millimetres from the phases that ``PageNet`` reads: global scale first, then ever finer.

A phase says where a place is between two lines, not between which two. The fit starts from the coarse pose's millimetres,
finds one affine correction by the strongest frequency of the field, then adds smooth corrections from wide to narrow
windows, each below half a period. A vector's length is its belief, so that places without lines count for little.
"""

from __future__ import annotations

import cv2
import numpy as np

WINDOWS_MM = (45.0, 25.0, 15.0, 10.0, 6.0, 4.0)
"""Standard deviations of the windows, from wide to narrow."""
LARGEST_STRETCH = 0.13
"""The coarse pose's scale is right to this share."""


def wave(z: np.ndarray, mm: np.ndarray, period: float) -> np.ndarray:
    """What is left of a field of phases when ``mm`` is taken for its millimetres."""
    return z * np.exp(-2j * np.pi * mm / period)


def blur(field: np.ndarray, sigma: float) -> np.ndarray:
    """A complex field under a Gaussian window of ``sigma`` cells; nothing lies outside of it."""
    return sum(
        (1j if k else 1)
        * cv2.GaussianBlur(np.ascontiguousarray(part, np.float32), (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        for k, part in enumerate((field.real, field.imag))
    )


def affine(z: np.ndarray, at: np.ndarray, axis: int, period: float) -> tuple[np.ndarray, float]:
    """Coefficients (x, y, 1) of the mm along ``axis`` as an affine function of places ``at`` (h, w, 2), and its strength."""
    step = at[0, 1, 0] - at[0, 0, 0]
    left = wave(z, at[..., axis], period)
    n = 256
    power = np.abs(np.fft.fftshift(np.fft.fft2(left, (n, n))))
    freq = np.fft.fftshift(np.fft.fftfreq(n, step)) * period  # mm per mm
    keep = np.abs(freq) <= LARGEST_STRETCH
    part = power[np.ix_(keep, keep)]
    part = cv2.GaussianBlur(part, (0, 0), 1.0)
    iy, ix = np.unravel_index(part.argmax(), part.shape)
    f = freq[keep]

    def peak(values: np.ndarray, i: int) -> float:
        if not 0 < i < len(values) - 1:
            return 0.0
        a, b, c = values[i - 1 : i + 2]
        return float(0.5 * (a - c) / (a - 2 * b + c - 1e-9))

    width = f[1] - f[0]
    fx, fy = f[ix] + width * peak(part[iy], ix), f[iy] + width * peak(part[:, ix], iy)
    slope = np.array([fx, fy])
    slope[axis] += 1
    rest = wave(z, at @ slope, period)
    total = rest.sum()
    offset = float(np.angle(total)) * period / (2 * np.pi)
    return np.array([*slope, offset]), float(np.abs(total) / (np.abs(z).sum() + 1e-9))


def fit(
    z: np.ndarray, at: np.ndarray, axis: int, period: float, start: np.ndarray, windows=WINDOWS_MM
) -> tuple[np.ndarray, np.ndarray]:
    """Millimetres (h, w) along ``axis``, and how well the phases agree with them in the narrowest window.

    Args:
        z: complex (h, w) phases; length = belief.
        at: (h, w, 2) places, mm of the coarse pose.
        axis: 0 = across.
        period: Of the lines, mm.
        start: First guess (h, w), right to less than half a period over the widest window.
    """
    step = float(at[0, 1, 0] - at[0, 0, 0])
    mm = start.copy()
    for sigma_mm in windows:
        sigma = sigma_mm / step
        mean = blur(wave(z, mm, period), sigma)
        weight = np.sqrt(np.maximum(blur(np.abs(z) ** 2 + 0j, sigma).real, 1e-12))
        # where nothing is seen, nothing is corrected
        trust = np.abs(mean) / (np.abs(mean) + 0.02)
        mm = mm + trust * np.angle(mean) * period / (2 * np.pi)
    agreement = np.abs(blur(wave(z, mm, period), windows[-1] / step))
    return mm, agreement
