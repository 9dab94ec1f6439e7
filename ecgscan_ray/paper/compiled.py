"""The drawing kernels, compiled by numba; ``plain.py`` holds the same functions in numpy with the same bytes.

All positions are integers: x in 1/2**24 of a sub-column, y in 1/256 px, edges of pixels at whole numbers. Coverage is
summed in a uint16 plane in which a full pixel counts 256 x (sub-columns per pixel). Inked pixels are listed, so that
composing and clearing touch nothing else.
"""

# mypy: ignore-errors
# numba gives the kernels their types.

from __future__ import annotations

import numba
import numpy as np

X_BITS = 24
FAR = 1 << 22
CAP = 60000
SLOPE_BITS = 36
INVERSE_BITS = 54
INVERSE_MOST = (1 << 39) - 1
MISSING = -(1 << 31)


PAD = 512
"""Spare sub-columns on either side of the scratch rows: no pen reaches farther."""


def _jit(function):
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # no folder that numba could cache in
        return numba.njit(nogil=True, error_model="numpy")(function)


_inlined = numba.njit(inline="always", error_model="numpy")


@_inlined
def _fixed(value, one):
    """The nearest multiple of 1/``one``, as a whole number."""
    return np.int64(np.floor(value * one + 0.5))


@_jit
def _add(mask, touched, count, row, column, coverage):
    old = np.int64(mask[row, column])
    if old == 0:
        touched[count[0]] = (row << 16) | column
        count[0] += 1
    mask[row, column] = np.uint16(min(old + coverage, CAP))


@_jit
def _include(lo, hi, column, first, last, y):
    if first <= column < last:
        lo[column + PAD] = min(lo[column + PAD], y)
        hi[column + PAD] = max(hi[column + PAD], y)


@_jit
def _segment(lo, hi, first, last, x0, y0, x1, y1):
    """Widen the columns' ranges where the piece from (x0, y0) to (x1, y1) crosses their edges."""
    edge = max((x0 >> X_BITS) + 1, first)
    final = min(x1 >> X_BITS, last)
    if edge > final:
        return
    slope = ((y1 - y0) << SLOPE_BITS) // (x1 - x0)
    while edge <= final:
        y = np.int32(y0 + ((slope * ((edge << X_BITS) - x0)) >> SLOPE_BITS))
        _include(lo, hi, edge - 1, first, last, y)
        _include(lo, hi, edge, first, last, y)
        edge += 1


@_jit
def _ranges(lo, hi, first, last, ys, x, dx):
    """Widen the ranges of the columns first .. last - 1 by a polyline, int32 (n,) ``ys`` from ``x`` on, ``dx`` apart."""
    inverse = min((1 << INVERSE_BITS) // max(dx, 1), INVERSE_MOST)
    final = (x + dx * (ys.shape[0] - 1)) >> X_BITS
    y = before = highest = lowest = ys[0]
    i = np.uint64(0)
    for column in range(x >> X_BITS, min(final, last)):
        edge = (column + 1) << X_BITS
        while x < edge:  # the samples in this column, of which the last one's line crosses its edge
            highest, lowest, before = min(highest, y), max(lowest, y), y
            i += np.uint64(1)
            y = ys[i]
            x += dx
        slope = ((np.int64(y) - before) * inverse) >> (INVERSE_BITS - SLOPE_BITS)
        edge_y = np.int32(before + ((slope * (edge - (x - dx))) >> SLOPE_BITS))
        if column >= first:
            index = np.uint64(column - first)
            lo[index], hi[index] = min(lo[index], highest, edge_y), max(hi[index], lowest, edge_y)
        highest = lowest = edge_y
    if first <= final < last:
        index = np.uint64(final - first)
        lo[index], hi[index] = min(lo[index], highest, ys[i:].min()), max(hi[index], lowest, ys[i:].max())


@_inlined
def _columns(mask, touched, count, high, low, left, k):
    """Add to each pixel column from ``left`` on the overlap of its ``k`` sub-columns' ranges high .. low."""
    full, zero, far = np.int32(k << 8), np.int32(0), np.int32(FAR)
    bottom, listed = np.int32(mask.shape[0] << 8), count[0]
    for i in range(high.shape[0] // k):
        top, end = high[i * k : i * k + k], low[i * k : i * k + k]
        column = left + i
        highest, lowest = far, zero
        inner_top, inner_end = zero, far  # between these every sub-column is inked
        for j in range(k):
            above, below = top[j], end[j]
            if above >= below:
                above, below, inner_end = far, zero, zero
            highest, inner_top = min(highest, above), max(inner_top, above)
            lowest, inner_end = max(lowest, below), min(inner_end, below)
        highest, lowest = max(highest, zero), min(lowest, bottom)
        for row in range(highest >> 8, (lowest + 255) >> 8):
            above, below = np.int32(row << 8), np.int32((row + 1) << 8)
            coverage = full
            if inner_top > above or inner_end < below:
                coverage = zero
                for j in range(k):
                    coverage = np.int32(coverage + max(zero, np.int32(min(end[j], below) - max(top[j], above))))
            if coverage > 0:
                old = np.int32(mask[row, column])
                if old == 0:
                    touched[listed] = (row << 16) | column
                    listed += 1
                mask[row, column] = np.uint16(min(np.int32(old + coverage), np.int32(CAP)))
    count[0] = listed


@_jit
def _deposit(mask, touched, count, scratch, first, last, half, k):
    """Dilate the ranges by the pen, add their exact vertical overlap with every pixel, and clear them."""
    lo, hi, top, end = scratch[0], scratch[1], scratch[2], scratch[3]  # unpacked, they would lose their layout
    reach = half.shape[0] - 1
    left = max(0, (first - reach) // k)
    right = min(mask.shape[1], (last + reach - 1) // k + 1)
    begin, stop = left * k + PAD, right * k + PAD
    high, low = top[begin:stop], end[begin:stop]  # slices count from 0, so that the loops become vector code
    high_0, low_0, rise = lo[begin:stop], hi[begin:stop], half[0]
    for i in range(high.shape[0]):
        high[i] = high_0[i] - rise
        low[i] = low_0[i] + rise
    for distance in range(1, reach + 1):
        rise = half[distance]
        high_1, high_2 = lo[begin - distance : stop - distance], lo[begin + distance : stop + distance]
        low_1, low_2 = hi[begin - distance : stop - distance], hi[begin + distance : stop + distance]
        for i in range(high.shape[0]):
            high[i] = min(high[i], np.int32(min(high_1[i], high_2[i]) - rise))
            low[i] = max(low[i], np.int32(max(low_1[i], low_2[i]) + rise))
    if k == 8:  # a number known to the compiler: the loops over sub-columns become vector code
        _columns(mask, touched, count, high, low, left, 8)
    elif k == 4:
        _columns(mask, touched, count, high, low, left, 4)
    elif k == 2:
        _columns(mask, touched, count, high, low, left, 2)
    else:
        _columns(mask, touched, count, high, low, left, k)
    lo[first + PAD : last + PAD] = FAR
    hi[first + PAD : last + PAD] = -FAR


@_jit
def strip_tables(samples, numbers, rows, fs, canvas):
    """The tables of ``deposit_strips`` with all offsets 0.

    Args:
        samples: int64 (S, 3) lead, first and past-last sample.
        numbers: float64 (6, S): start on the row in s, time of the first sample from there in s, duration in s, row, sign,
            and 1 for chest leads.
        rows: Start mm, first zero line mm, pitch mm, speed mm/s, gain mm/mV, the chest leads' factor, and how far a
            trace may go from its zero line, mm (infinity = anywhere).
        fs: Hz.
        canvas: px/mm in x and y, sub-columns per pixel, columns.
    """
    left, first, pitch, speed, gain, chest, reach = rows
    sx, sy, k, width = canvas
    strips, scales = np.empty((samples.shape[0], 7), np.int64), np.zeros((samples.shape[0], 5))
    for s in range(samples.shape[0]):
        x, zero = left + numbers[0, s] * speed, (first + numbers[3, s] * pitch) * (sy * 256)
        strips[s, :3] = samples[s]
        strips[s, 3] = _fixed(x + numbers[1, s] * speed, sx * k * (1 << X_BITS))
        strips[s, 4] = np.int64(speed / fs * sx * k * (1 << X_BITS) + 0.5)
        strips[s, 5] = max(0, min(width * k, _fixed(x, sx * k)))
        strips[s, 6] = max(0, min(width * k, _fixed(x + numbers[2, s] * speed, sx * k)))
        scales[s, 0] = zero
        scales[s, 1] = numbers[4, s] * (gain * sy * 256) * (chest if numbers[5, s] else 1.0)
        scales[s, 3] = max(-FAR, min(FAR - 1, np.floor(zero - reach * sy * 256 + 0.5)))
        scales[s, 4] = max(-FAR, min(FAR - 1, np.floor(zero + reach * sy * 256 + 0.5)))
    return strips, scales


@_jit
def deposit_strips(mask, touched, count, signal, strips, scales, half, k, scratch):
    """Draw strips of uniformly sampled leads.

    Args:
        mask: uint16 (H, W) ink.
        touched: int32 (H * W) list of inked pixels, row << 16 | column; ``count`` int64 (1,) its length.
        signal: float32 (12, T), NaN = no ink.
        strips: int64 (S, 7): lead, first and past-last sample, x of the first sample, x per sample, first and past-last
            sub-column.
        scales: float64 (S, 5): y of 0 mV, y per mV (both 1/256 px), mV drawn on the zero line, and least and most y of
            the trace, within ``FAR``.
        half: int32 (D + 1,) half height of the pen at a distance in sub-columns.
        k: Sub-columns per pixel, a power of two.
        scratch: int32 (4, W * k + 2 * PAD); row 0 ``FAR`` and row 1 ``-FAR`` everywhere.
    """
    buffer = np.empty(signal.shape[1], np.int32)
    for s in range(strips.shape[0]):
        lead, start, stop, x, dx, first, last = strips[s]
        zero, per_mv, offset, least, most = scales[s]
        values, ys, missing = signal[lead, start:stop], buffer[: stop - start], np.int32(0)
        for i in range(ys.shape[0]):  # a loop of its own vectorises
            y = max(least, min(most, np.floor(zero - per_mv * (np.float64(values[i]) - offset) + 0.5)))
            ys[i] = np.int32(y) if values[i] == values[i] else MISSING
            missing |= np.int32(values[i] != values[i])
        lo, hi = scratch[0, first + PAD : last + PAD], scratch[1, first + PAD : last + PAD]
        begin = 0
        while begin < ys.shape[0]:  # runs without a gap
            end = begin if missing else ys.shape[0]
            while end < ys.shape[0] and ys[end] != MISSING:
                end += 1
            if begin < end:
                _ranges(lo, hi, first, last, ys[begin:end], x + begin * dx, dx)
            begin = end + 1
        _deposit(mask, touched, count, scratch, first, last, half, k)


@_jit
def deposit_paths(mask, touched, count, paths, half, k, scratch):
    """Draw short paths through float64 (P, n, 2) points in px, x never falling."""
    lo, hi, one = scratch[0], scratch[1], k << X_BITS
    for p in range(paths.shape[0]):
        path = paths[p]
        x, y = _fixed(path[0, 0], one), _fixed(path[0, 1], 256)
        first, last = max(0, x >> X_BITS), min(mask.shape[1] * k, (_fixed(path[-1, 0], one) >> X_BITS) + 1)
        _include(lo, hi, x >> X_BITS, first, last, np.int32(y))
        for i in range(1, path.shape[0]):
            x_old, y_old, x, y = x, y, _fixed(path[i, 0], one), _fixed(path[i, 1], 256)
            _include(lo, hi, x >> X_BITS, first, last, np.int32(y))
            _segment(lo, hi, first, last, x_old, y_old, x, y)
        _deposit(mask, touched, count, scratch, first, last, half, k)


@_jit
def deposit_boxes(mask, touched, count, boxes, k):
    """Fill float64 (B, 4) boxes x0, y0, x1, y1 in px."""
    height, width = mask.shape
    for b in range(boxes.shape[0]):
        x0, x1 = max(0, _fixed(boxes[b, 0], 256)), min(width << 8, _fixed(boxes[b, 2], 256))
        y0, y1 = max(0, _fixed(boxes[b, 1], 256)), min(height << 8, _fixed(boxes[b, 3], 256))
        for row in range(y0 >> 8, (y1 + 255) >> 8):
            tall = min(y1, (row + 1) << 8) - max(y0, row << 8)
            for column in range(x0 >> 8, (x1 + 255) >> 8):
                wide = min(x1, (column + 1) << 8) - max(x0, column << 8)
                coverage = (tall * wide * k) >> 8
                if coverage > 0:
                    _add(mask, touched, count, row, column, coverage)


@_jit
def deposit_text(mask, touched, count, pixels, table, codes, counts, starts, k):
    """Set lines of text.

    Args:
        mask: As in ``deposit_strips``, with ``touched``, ``count`` and ``k``.
        pixels: uint8 glyphs.
        table: int64 (95, 6) offset, width, height, left, top, advance / 256 px of ASCII 32..126.
        codes: uint8 ASCII of all lines.
        counts: int64 (L,) characters per line.
        starts: float64 (L, 2) where each base line starts, px.
    """
    height, width = mask.shape
    full, listed = 256 * k, count[0]
    g = 0
    for line in range(counts.shape[0]):
        pen, base = _fixed(starts[line, 0], 256), (_fixed(starts[line, 1], 256) + 128) >> 8
        for _ in range(counts[line]):
            offset, wide, tall, left, top, advance = table[codes[g] - 32]
            corner = ((pen + 128) >> 8) + left
            for y in range(max(0, top - base), min(tall, height - base + top)):
                row = base - top + y
                for x in range(max(0, -corner), min(wide, width - corner)):
                    value = np.int64(pixels[offset + y * wide + x])
                    if value > 0:
                        old = np.int64(mask[row, corner + x])
                        if old == 0:
                            touched[listed] = (row << 16) | (corner + x)
                            listed += 1
                        mask[row, corner + x] = np.uint16(min(old + (value * full + 127) // 255, CAP))
            pen += advance
            g += 1
    count[0] = listed


@_jit
def compose(mask, touched, count, image, ink, k):
    """Blend ``ink`` over ``image`` by the mask, and clear the mask.

    Args:
        mask: As in ``deposit_strips``, with ``touched``, ``count`` and ``k``.
        image: uint8 (H, W, C), contiguous, of 1, 3 or 4 channels, the fourth idle.
        ink: uint8 (1,) or (3,) colour.
    """
    bits = 8
    while (256 << (bits - 8)) < 256 * k:
        bits += 1
    full, half, channels = np.int32(1 << bits), np.int32(1 << (bits - 1)), image.shape[2]
    shift, width, pixels, covers = np.int32(bits), image.shape[1], image.reshape(-1), mask.reshape(-1)
    red, green, blue = np.int32(ink[0]), np.int32(ink[ink.shape[0] // 2]), np.int32(ink[-1])
    for index in range(count[0]):
        pixel = np.uint64((touched[index] >> 16) * width + (touched[index] & 0xFFFF))
        cover, start = min(np.int32(covers[pixel]), full), pixel * np.uint64(channels)
        covers[pixel] = 0
        rest = np.int32(full - cover)
        pixels[start] = np.uint8(np.int32(np.int32(pixels[start]) * rest + red * cover + half) >> shift)
        if channels > 1:
            second, third = start + np.uint64(1), start + np.uint64(2)
            pixels[second] = np.uint8(np.int32(np.int32(pixels[second]) * rest + green * cover + half) >> shift)
            pixels[third] = np.uint8(np.int32(np.int32(pixels[third]) * rest + blue * cover + half) >> shift)
    count[0] = 0


@_jit
def strip_medians(signal, strips):
    """float64 (S,) lower median of about 256 samples of each strip, in steps of 0.02 mV within +-10 mV.

    Strips are centred on it, so it need not be finer. NaN where a strip has no finite sample.
    """
    medians = np.empty(strips.shape[0], np.float64)
    bins = np.zeros(1001, np.int32)
    for s in range(strips.shape[0]):
        lead, start, stop = strips[s, 0], strips[s, 1], strips[s, 2]
        step = max(1, (stop - start) // 256)
        total = 0
        while total == 0 and step > 0:
            bins[:] = 0
            for i in range(start, stop, step):
                value = np.float64(signal[lead, i])
                if np.isfinite(value):
                    bins[np.int64(max(0.0, min(1000.0, np.floor(value * 50.0 + 500.5))))] += 1
                    total += 1
            step = 1 if step > 1 and total == 0 else 0
        seen, bin_index = 0, 0
        while total and seen + bins[bin_index] < (total + 1) // 2:
            seen += bins[bin_index]
            bin_index += 1
        medians[s] = (bin_index - 500) / 50.0 if total else np.nan
    return medians


@_jit
def any_infinite(signal):
    """Whether float32 (12, T) holds an infinite value."""
    most = np.float32(3.4028234e38)
    for n in range(signal.shape[0]):
        lead = signal[n]  # by index: what an iterator gives has no known stride
        infinite = np.int32(0)  # as wide as the samples, so that the loop becomes vector code
        for i in range(lead.shape[0]):
            infinite |= np.int32(np.abs(lead[i]) > most)
        if infinite:
            return True
    return False
