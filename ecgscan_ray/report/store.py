"""The page of ``ecgscan inspect``: tables, histograms, what was put aside and why, and recordings, drawn: two of each split, and
one put aside for each reason where it can still be read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.filesystem import write_bytes_atomic
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.recording.original import read_original
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.report.figures import ACCENT, INK, MUTED, SECOND, STYLE, data_uri
from ecgscan_ray.report.html import render
from ecgscan_ray.store.manifest import SPLITS, read_manifest
from ecgscan_ray.store.shards import ShardError, iterate_rows, read_quarantine

_EXAMPLES = 2
_REASONS, _OF_EACH = 12, 3
_LABELS = 20
_DRAWN_SIGNALS = 12
_SECONDS, _DRAWN_SAMPLES = 10.0, 10_000
_COLOURS = {"train": SECOND, "validation": MUTED, "test": ACCENT}
_FACETS = {
    "source": "source",
    "fs": "rate, Hz",
    "language": "language",
    "report": "report",
    "sex": "sex",
    "superclass": "superclass",
    "note": "note",
}
"""Facet -> its name on the page."""
_PANELS = {
    "seconds": ("length", "s", 1.0),
    "age": ("age", "years", 5.0),
    "amplitude_mv": ("range, median over leads", "mV", 0.25),
}


def write_store_page(store_uri: str, summary: Mapping[str, Any], out_uri: str) -> None:
    """Write the page as one HTML file.

    Args:
        store_uri: URI of the store.
        summary: What ``store.inspect.inspect`` says of it.
        out_uri: Of the file.

    Raises:
        StoreError: It cannot be written, or the store cannot be read.
    """
    html = render(
        "store.html.j2",
        store=store_uri,
        summary=summary,
        splits=SPLITS,
        rows=sum(summary["splits"][split]["rows"] for split in SPLITS),
        facets=_FACETS,
        histograms=histograms(summary),
        reasons=_reasons(store_uri),
        examples=[
            {"split": split, "id": recording.id, "text": _described(recording), "image": draw(recording)}
            for split in SPLITS
            for recording in _first(store_uri, split)
        ],
    )
    write_bytes_atomic(out_uri, html.encode())


def histograms(summary: Mapping[str, Any]) -> str:
    """Rates, lengths, ages, amplitudes and the most frequent labels, by split, as ``data:`` URI."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, 6.6), layout="constrained")
        grid = figure.add_gridspec(2, 4)
        rates = {split: summary["splits"][split].get("fs", {}) for split in SPLITS}
        _stacked(figure.add_subplot(grid[0, 0]), rates, "rate, Hz")
        for number, (name, (title, unit, width)) in enumerate(_PANELS.items(), start=1):
            bins = summary["histograms"][name]
            _histogram(figure.add_subplot(grid[0, number]), bins, f"{title}, {unit}", width)
        totals = Counter[str]()
        for split in SPLITS:
            totals.update(summary["splits"][split]["labels"])
        labels = [label for label, _ in totals.most_common(_LABELS)]
        counts = {
            split: {label: summary["splits"][split]["labels"].get(label, 0) for label in labels} for split in SPLITS
        }
        _stacked(figure.add_subplot(grid[1, :]), counts, "most frequent labels")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper right", ncols=3)
        return data_uri(figure)


def _stacked(axes: Axes, counts: Mapping[str, Mapping[str, int]], title: str) -> None:
    values = list(dict.fromkeys(value for part in counts.values() for value in part))
    below = np.zeros(len(values))
    for split, part in counts.items():
        heights = np.array([part.get(value, 0) for value in values], float)
        axes.bar(range(len(values)), heights, 0.7, below, color=_COLOURS[split], label=split)
        below += heights
    names = [value if len(value) <= 18 else f"{value[:16]}.." for value in values]
    axes.set_xticks(range(len(values)), names)
    axes.set_xlim(-1, max(1, len(values)))
    if sum(map(len, names)) > 24:
        axes.tick_params("x", labelrotation=60)
    axes.set_title(title, color=INK)


def _histogram(axes: Axes, counts: Mapping[str, Mapping[float, int]], title: str, width: float) -> None:
    below: dict[float, float] = defaultdict(float)
    for split, bins in counts.items():
        starts = sorted(bins)
        heights = [bins[start] for start in starts]
        bottoms = [below[start] for start in starts]
        axes.bar(starts, heights, width * 0.92, bottoms, align="edge", color=_COLOURS[split])
        for start, height in zip(starts, heights, strict=True):
            below[start] += height
    if len(below) == 1:  # one bin alone would fill the panel
        (start,) = below
        axes.set_xlim(start - 4 * width, start + 5 * width)
    axes.set_title(title, color=INK)
    axes.set_ylim(bottom=0)


def draw(recording: Recording) -> str:
    """Twelve leads of a stored recording, at most ten seconds, as ``data:`` URI."""
    return _draw(recording.signal_mv, recording.fs, LEADS, "mV", (-0.5, 0.6))


def _draw(
    signal: NDArray[np.floating], fs: float, names: Sequence[str], unit: str, least: tuple[float, float] | None = None
) -> str:
    """Signals (n, T) in two columns on one scale, at most ten seconds.

    Args:
        signal: NaN where missing.
        fs: Hz.
        names: Of the signals.
        unit: Of the signals.
        least: What the scale shows at least.
    """
    signal = signal[:, : max(1, round(_SECONDS * fs))]
    step = -(-signal.shape[1] // _DRAWN_SAMPLES)
    signal, time = signal[:, ::step], np.arange(signal.shape[1])[::step] / fs
    known = signal[np.isfinite(signal)]
    low, high = (float(value) for value in np.quantile(known, [0.0005, 0.9995])) if known.size else (0.0, 0.0)
    lowest, highest = least or (low - 1e-3 * abs(low) - 1e-9, high + 1e-3 * abs(high) + 1e-9)
    rows = -(-len(names) // 2)
    height = 0.4 + 0.8 * rows
    space = {"left": 0.05, "right": 0.99, "bottom": 0.4 / height, "top": 0.99, "hspace": 0.12, "wspace": 0.06}
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, height))
        grid = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False, gridspec_kw=space)
        for index, name in enumerate(names):
            axes = grid[index % rows][index // rows]
            axes.plot(time, signal[index], color=INK, lw=0.7)
            behind = {"facecolor": axes.get_facecolor(), "alpha": 0.7, "lw": 0, "pad": 0.5}
            axes.text(
                0.008, 0.95, name, transform=axes.transAxes, va="top", fontweight="bold", color=SECOND, bbox=behind
            )
        grid[0][0].set_ylim(min(lowest, 1.1 * low), max(highest, 1.1 * high))
        grid[0][0].set_xlim(0, max(time[-1], 1.0))
        for axes in grid[-1]:
            axes.set_xlabel("s")
        grid[(rows - 1) // 2][0].set_ylabel(unit)
        return data_uri(figure, "png")


def _first(store_uri: str, split: str) -> Sequence[Recording]:
    try:
        return list(iterate_rows(store_uri, read_manifest(store_uri), split, limit=_EXAMPLES))
    except ShardError:  # named among the damaged ones
        return []


def _described(recording: Recording) -> str:
    labels = ", ".join(recording.labels) or "no labels"
    about = [recording.source, f"{recording.fs:g} Hz", f"{recording.seconds:.1f} s", recording.sex or "", labels]
    about += [f"{recording.age:.0f} years"] if recording.age is not None else []
    return "; ".join(part for part in [*about, (recording.report or "no report")[:200]] if part)


def _reasons(store_uri: str) -> list[dict[str, Any]]:
    """Reasons with their counts and a few recordings each, the most frequent first."""
    try:
        table = read_quarantine(store_uri)
    except StoreError:
        return []
    counts = Counter(table["reason"].to_pylist())
    examples: dict[str, list[dict[str, str]]] = defaultdict(list)
    for batch in table.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            if len(examples[row["reason"]]) < _OF_EACH:
                examples[row["reason"]].append(row)
    return [
        {"reason": reason, "count": count, "examples": examples[reason], "drawn": _drawn(examples[reason])}
        for reason, count in counts.most_common(_REASONS)
    ]


def _drawn(rows: Sequence[Mapping[str, str]]) -> dict[str, str] | None:
    """The first of these recordings that can be read where it was, as it is in its file; ``None`` where none can."""
    for row in rows:
        try:
            channels = read_original(row["origin"])
        except (InputError, OSError):  # gone, damaged, or of a kind that does not say what it holds
            continue
        names = [name or "(no name)" for name in channels.names[:_DRAWN_SIGNALS]]
        units = ", ".join(dict.fromkeys(unit or "no unit" for unit in channels.units[:_DRAWN_SIGNALS]))
        image = _draw(channels.values[:_DRAWN_SIGNALS], channels.fs, [name[:24] for name in names], units[:24])
        about = f"{row['id']}: {len(channels.names)} signals, {channels.fs:g} Hz, {channels.values.shape[1]} samples, in {units}"
        return {"image": image, "text": f"{about}; {row['detail']}"}
    return None
