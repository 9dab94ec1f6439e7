"""Grey values of any depth in 8 bits."""

from __future__ import annotations

import numpy as np

from ecgscan_ray.errors import InputError

_DEPTHS = (8, 10, 12, 14, 16, 24, 31, 32)


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of any type in 8 bits; see ``picture.read_picture``."""
    sample = values.reshape(-1)[:: max(1, values.size // 10**6)]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError("values that are not finite numbers")
    low, high = float(values.min()), float(np.quantile(sample, 0.999))
    if values.dtype.kind == "f" and low < 0:
        raise InputError("negative values, whose depth is not known")
    if values.dtype.kind == "f" and high <= 1.5:
        shift, top = 0.0, 1.0
    else:
        shift, top = _range(low, high)
    grey = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), 256):  # in pieces: a large page's float64 would be gigabytes
        part = values[start : start + 256].astype(np.float64) + shift
        grey[start : start + 256] = np.clip(np.rint(part * (255 / top)), 0, 255)
    return grey


def _range(low: float, high: float) -> tuple[float, float]:
    """What to add to values so that black is 0, and where white then is."""
    for bits in _DEPTHS:
        half = 2.0 ** (bits - 1)
        if low < 0 and low >= -half and high < half:
            return half, 2 * half - 1
        if low >= 0 and high < 2 * half:
            return 0.0, 2 * half - 1
    raise InputError("values of more than 32 bits")
