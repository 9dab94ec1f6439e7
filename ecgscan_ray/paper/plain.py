"""The drawing kernels of ``compiled.py`` in numpy: the same functions, the same bytes, several times slower."""

from __future__ import annotations

import numpy as np

_Array = np.ndarray

X_BITS = 24
FAR = 1 << 22
CAP = 60000
SLOPE_BITS = 36
INVERSE_BITS = 54
INVERSE_MOST = (1 << 39) - 1


def _add(mask: _Array, rows: slice, columns: slice, coverage: _Array) -> None:
    """Add a block of coverage, int64, to the mask's slice."""
    mask[rows, columns] = np.minimum(mask[rows, columns].astype(np.int64) + coverage, CAP)


def _ranges(
    x: _Array, y: _Array, valid: _Array, first: int, last: int, inverse: int | None = None
) -> tuple[_Array, _Array]:
    """int64 lowest and highest y of the polyline in each sub-column first .. last - 1."""
    lo = np.full(last - first, FAR, np.int64)
    hi = np.full(last - first, -FAR, np.int64)

    def include(columns: _Array, ys: _Array) -> None:
        inside = (columns >= first) & (columns < last)
        np.minimum.at(lo, columns[inside] - first, ys[inside])
        np.maximum.at(hi, columns[inside] - first, ys[inside])

    include(x[valid] >> X_BITS, y[valid])
    if len(x) > 1:
        edges = np.arange(max(first, (x[0] >> X_BITS) + 1), min(last, x[-1] >> X_BITS) + 1)
        left = np.searchsorted(x, edges << X_BITS, side="left") - 1
        both = (left >= 0) & (left + 1 < len(x))
        edges, left = edges[both], left[both]
        joined = valid[left] & valid[left + 1]
        edges, left = edges[joined], left[joined]
        rise, run = y[left + 1] - y[left], x[left + 1] - x[left]
        if inverse is None:
            slope = (rise << SLOPE_BITS) // run
        else:
            slope = (rise * inverse) >> (INVERSE_BITS - SLOPE_BITS)
        ys = y[left] + ((slope * ((edges << X_BITS) - x[left])) >> SLOPE_BITS)
        include(edges - 1, ys)
        include(edges, ys)
    return lo, hi


def _deposit(mask: _Array, ranges: tuple[_Array, _Array], first: int, last: int, half: _Array, k: int) -> None:
    lo, hi = ranges
    reach, (height, width) = len(half) - 1, mask.shape
    size = last - first + 2 * reach
    top, end = np.full(size, FAR, np.int64), np.full(size, -FAR, np.int64)
    for shift in range(-reach, reach + 1):
        part = slice(reach + shift, reach + shift + last - first)
        top[part] = np.minimum(top[part], lo - half[abs(shift)])
        end[part] = np.maximum(end[part], hi + half[abs(shift)])
    columns = np.arange(first - reach, last + reach)
    inside = (columns >= 0) & (columns < width * k)
    top, end, columns = np.maximum(top[inside], 0), np.minimum(end[inside], height << 8), columns[inside]
    inked = top < end
    if not inked.any():
        return
    rows = np.arange(top[inked].min() >> 8, (end[inked].max() + 255) >> 8)[:, None] << 8
    cover = np.clip(end - rows, 0, 256) - np.clip(top - rows, 0, 256)
    cover = np.where(inked, cover, 0)
    starts = np.flatnonzero(np.diff(columns // k, prepend=-1))
    sums = np.add.reduceat(cover, starts, axis=1)
    left, upper = columns[0] // k, rows[0, 0] >> 8
    _add(mask, slice(upper, upper + len(rows)), slice(left, left + sums.shape[1]), sums)


def _fixed(values: _Array, one: float) -> _Array:
    """The nearest multiples of 1/``one``, as whole numbers."""
    return np.floor(values * one + 0.5).astype(np.int64)


def strip_tables(
    samples: _Array,
    numbers: _Array,
    rows: tuple[float, float, float, float, float, float, float],
    fs: float,
    canvas: tuple[float, float, int, int],
) -> tuple[_Array, _Array]:
    """See ``compiled.strip_tables``."""
    left, first, pitch, speed, gain, chest, reach = rows
    sx, sy, k, width = canvas
    x_s, before_s, duration_s, row, sign, is_chest = numbers
    strips, scales = np.empty((len(samples), 7), np.int64), np.zeros((len(samples), 5))
    x, zero = left + x_s * speed, (first + row * pitch) * (sy * 256)
    strips[:, :3] = samples
    strips[:, 3] = _fixed(x + before_s * speed, sx * k * (1 << X_BITS))
    strips[:, 4] = int(speed / fs * sx * k * (1 << X_BITS) + 0.5)
    strips[:, 5] = np.clip(_fixed(x, sx * k), 0, width * k)
    strips[:, 6] = np.clip(_fixed(x + duration_s * speed, sx * k), 0, width * k)
    scales[:, 0] = zero
    scales[:, 1] = sign * (gain * sy * 256) * np.where(is_chest, chest, 1.0)
    scales[:, 3] = np.clip(np.floor(zero - reach * sy * 256 + 0.5), -FAR, FAR - 1)
    scales[:, 4] = np.clip(np.floor(zero + reach * sy * 256 + 0.5), -FAR, FAR - 1)
    return strips, scales


def deposit_strips(
    mask: _Array,
    touched: _Array,
    count: _Array,
    signal: _Array,
    strips: _Array,
    scales: _Array,
    half: _Array,
    k: int,
    scratch: _Array,
) -> None:
    """See ``compiled.deposit_strips``."""
    for (lead, start, stop, x, dx, first, last), scale in zip(strips, scales, strict=True):
        zero, per_mv, offset, least, most = scale
        if last <= first or stop <= start:
            continue
        values = signal[lead, start:stop].astype(np.float64)
        valid = ~np.isnan(values)
        heights = np.floor(zero - per_mv * (np.where(valid, values, 0.0) - offset) + 0.5)
        y = np.clip(heights, least, most).astype(np.int64)
        xs = x + dx * np.arange(stop - start, dtype=np.int64)
        inverse = min((1 << INVERSE_BITS) // max(int(dx), 1), INVERSE_MOST)
        _deposit(mask, _ranges(xs, y, valid, first, last, inverse), first, last, half, k)


def deposit_paths(
    mask: _Array, touched: _Array, count: _Array, paths: _Array, half: _Array, k: int, scratch: _Array
) -> None:
    """See ``compiled.deposit_paths``."""
    for path in paths:
        x, y = _fixed(path[:, 0], k << X_BITS), _fixed(path[:, 1], 256)
        first, last = max(0, x[0] >> X_BITS), min(mask.shape[1] * k, (x[-1] >> X_BITS) + 1)
        if first < last:
            _deposit(mask, _ranges(x, y, np.ones(len(x), bool), first, last), first, last, half, k)


def deposit_boxes(mask: _Array, touched: _Array, count: _Array, boxes: _Array, k: int) -> None:
    """See ``compiled.deposit_boxes``."""
    height, width = mask.shape
    for x0, y0, x1, y1 in _fixed(boxes, 256):
        x0, y0, x1, y1 = max(0, x0), max(0, y0), min(width << 8, x1), min(height << 8, y1)
        if x0 >= x1 or y0 >= y1:
            continue
        rows = np.arange(y0 >> 8, (y1 + 255) >> 8) << 8
        columns = np.arange(x0 >> 8, (x1 + 255) >> 8) << 8
        tall = np.minimum(y1, rows + 256) - np.maximum(y0, rows)
        wide = np.minimum(x1, columns + 256) - np.maximum(x0, columns)
        left, upper = columns[0] >> 8, rows[0] >> 8
        coverage = (tall[:, None] * wide[None, :] * k) >> 8
        _add(mask, slice(upper, upper + len(rows)), slice(left, left + len(columns)), coverage)


def deposit_text(
    mask: _Array,
    touched: _Array,
    count: _Array,
    pixels: _Array,
    table: _Array,
    codes: _Array,
    counts: _Array,
    starts: _Array,
    k: int,
) -> None:
    """See ``compiled.deposit_text``."""
    height, width = mask.shape
    glyphs = iter(codes.astype(np.int64) - 32)
    for letters, (pen, base) in zip(counts, _fixed(starts, 256), strict=True):
        for _ in range(letters):
            offset, wide, tall, left, top, advance = table[next(glyphs)]
            glyph = pixels[offset : offset + wide * tall].reshape(tall, wide).astype(np.int64)
            x, y = ((pen + 128) >> 8) + left, ((base + 128) >> 8) - top
            x0, x1, y0, y1 = max(0, x), min(width, x + wide), max(0, y), min(height, y + tall)
            if x0 < x1 and y0 < y1:
                coverage = (glyph[y0 - y : y1 - y, x0 - x : x1 - x] * (256 * k) + 127) // 255
                _add(mask, slice(y0, y1), slice(x0, x1), coverage)
            pen += advance


def compose(mask: _Array, touched: _Array, count: _Array, image: _Array, ink: _Array, k: int) -> None:
    """See ``compiled.compose``."""
    full = 256 * k
    rows, columns = np.nonzero(mask)
    cover = np.minimum(mask[rows, columns].astype(np.int64), full)[:, None]
    paper = image[rows, columns, : len(ink)].astype(np.int64)
    image[rows, columns, : len(ink)] = (paper * (full - cover) + ink.astype(np.int64) * cover + full // 2) // full
    mask[rows, columns] = 0
    count[0] = 0


def strip_medians(signal: _Array, strips: _Array) -> _Array:
    """See ``compiled.strip_medians``."""
    medians = np.full(len(strips), np.nan)
    for s, (lead, start, stop) in enumerate(strips[:, :3]):
        for step in (max(1, (stop - start) // 256), 1):
            values = signal[lead, start:stop:step].astype(np.float64)
            values = values[np.isfinite(values)]
            if len(values):
                bins = np.clip(np.floor(values * 50.0 + 500.5), 0, 1000).astype(np.int64)
                medians[s] = (np.sort(bins)[(len(bins) + 1) // 2 - 1] - 500) / 50.0
                break
    return medians


def any_infinite(signal: _Array) -> bool:
    """See ``compiled.any_infinite``."""
    return bool(np.isinf(signal).any())
