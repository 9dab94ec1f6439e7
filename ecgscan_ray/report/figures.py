"""Pictures of a report as data URIs, so that the HTML needs no other file.

Drawn with matplotlib's object interface: no global state, no display.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from PIL import Image

from ecgscan_ray.evaluation.features import Example
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.runs.metrics import Line, series

INK, MUTED, ACCENT, SECOND = "#1d2733", "#8a94a0", "#b3261e", "#1f5f8b"
SHADES = {"shown": "#ffffff", "derivable": "#dcebf5", "unseen": "#f6e9d5"}
"""Background of a stretch of a lead, by whether the page shows it."""

STYLE = {
    "font.size": 8.5,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "ecgscan",
}


def data_uri(figure: Figure, kind: str = "svg", dpi: int = 120) -> str:
    """The figure as ``data:`` URI; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    mime = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def page_sheet(pages: np.ndarray, columns: int = 4, gap: int = 10) -> str | None:
    """Pages side by side at their own resolution.

    Args:
        pages: (n, H, W, C) uint8.
        columns: Pages per row.
        gap: Pixels between pages.

    Returns:
        ``data:`` URI of a PNG, or ``None`` where there are no pages.
    """
    if not len(pages):
        return None
    count, height, width, channels = pages.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for index, page in enumerate(pages):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = page
    return png_uri(sheet)


def png_uri(image: np.ndarray) -> str:
    """(H, W, C) uint8 as ``data:`` URI."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def learning_curves(lines: Sequence[Line]) -> str | None:
    """Loss terms, validation scores and throughput over steps; ``None`` where there are no lines."""
    panels = _curve_panels(lines)
    if not panels:
        return None
    with rc_context(STYLE):
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(10.4, 2.35 * rows), layout="constrained")
        for index, (title, curves) in enumerate(panels):
            axes = figure.add_subplot(rows, columns, index + 1)
            for (name, (steps, values)), colour in zip(curves.items(), (INK, ACCENT, SECOND, MUTED), strict=False):
                marker = "o" if len(steps) < 25 else None
                axes.plot(steps, values, color=colour, lw=1.2, marker=marker, ms=2.5, label=name)
            axes.set_title(title, color=INK)
            axes.set_xlabel("step")
            axes.margins(x=0.02)
            if set(curves) & {"images_per_s", "data_wait_share"}:
                axes.set_ylim(bottom=0)
            if len(curves) > 1:  # under the panel: inside, it would hide a curve
                axes.legend(fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=2)
        return data_uri(figure)


def _curve_panels(lines: Sequence[Line]) -> list[tuple[str, dict[str, tuple[list[int], list[float]]]]]:
    terms = sorted({name for line in lines for name in line if name.endswith("_loss")})
    specs: list[tuple[str, str, dict[str, str]]] = [("loss", "train", {"loss": "loss"})]
    specs += [(name.replace("_", " "), "train", {name: name}) for name in terms]
    validation = {
        "score": "validation.score",
        "MRR page to signal": "validation.mrr_page_to_signal",
        "MRR page to text": "validation.mrr_page_to_text",
        "r, shown leads": "validation.r_shown",
    }
    specs.append(("on validation patients", "validation", validation))
    specs.append(("pages per second", "train", {"images_per_s": "images_per_s"}))
    specs.append(("share of time waiting for data", "train", {"data_wait_share": "data_wait_share"}))
    panels = []
    for title, kind, names in specs:
        curves = {label: series(lines, kind, name) for label, name in names.items()}
        curves = {label: curve for label, curve in curves.items() if curve[0]}
        if curves:
            panels.append((title, curves))
    return panels


def redrawn_leads(example: Example, fs: float) -> str:
    """The redrawn twelve leads over the truth; the background marks shown, derivable and unseen."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, 7.2))
        _twelve_leads(figure, example, fs, left=0.05)
        return data_uri(figure, "png")


def redrawn_picture(example: Example, fs: float) -> bytes:
    """One PNG: the page, and to its right the leads redrawn from it over the truth."""
    with rc_context(STYLE):
        figure = Figure(figsize=(15, 7.2))
        axes = figure.add_axes((0.012, 0.12, 0.285, 0.8))
        axes.imshow(example.page.squeeze(-1) if example.page.shape[-1] == 1 else example.page, cmap="gray")
        axes.set_axis_off()
        axes.set_title(f"page of recording {example.id}", color=INK)
        _twelve_leads(figure, example, fs, left=0.34)
        marks: list[Artist] = [Line2D([], [], color=INK, label="truth"), Line2D([], [], color=ACCENT, label="redrawn")]
        marks += [Patch(facecolor=shade, edgecolor=MUTED, lw=0.4, label=name) for name, shade in SHADES.items()]
        axes.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, -0.03), ncols=5, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        return buffer.getvalue()


def _twelve_leads(figure: Figure, example: Example, fs: float, left: float) -> None:
    """Fill the figure from ``left`` on. Positions are set by hand: constrained layout takes seconds for them."""
    margins = {"left": left, "right": 0.988, "bottom": 0.065, "top": 0.99, "hspace": 0.16, "wspace": 0.09}
    grid = figure.subplots(6, 2, sharex=True, gridspec_kw=margins)
    low, high = _limits(example)
    for index, lead in enumerate(LEADS):
        axes = grid[index % 6][index // 6]
        _one_lead(axes, example, index, fs)
        axes.set_ylim(low, high)
        axes.text(0.008, 0.96, lead, transform=axes.transAxes, va="top", fontweight="bold", color=INK)
        axes.set_xlim(0, example.truth_mv.shape[1] / fs)
    for axes in grid[-1]:
        axes.set_xlabel("s")
    for row in grid:
        row[0].set_ylabel("mV")


def _limits(example: Example) -> tuple[float, float]:
    """The axis in mV: the same for all leads, so that heights can be compared; single spikes may leave it."""
    values = example.truth_mv[example.valid]
    if not len(values):
        return -1.0, 1.0
    low, high = np.quantile(values, [0.0005, 0.9995])
    return float(min(-0.5, 1.1 * low)), float(max(0.6, 1.15 * high))


def _one_lead(axes: Axes, example: Example, lead: int, fs: float) -> None:
    time = np.arange(example.truth_mv.shape[1]) / fs
    state = np.where(example.shown[lead], 0, np.where(example.derivable[lead], 1, 2))
    start = 0
    for value, run in groupby(state):
        stop = start + len(list(run))
        axes.axvspan(start / fs, stop / fs, color=list(SHADES.values())[int(value)], lw=0)
        start = stop
    truth = np.where(example.valid[lead], example.truth_mv[lead], np.nan)
    axes.plot(time, truth, color=INK, lw=0.8)
    axes.plot(time, example.redrawn_mv[lead], color=ACCENT, lw=0.9, alpha=0.9)


def scatter_grid(points: Mapping[str, Sequence[tuple[object, float]]], scales: Mapping[str, bool], ylabel: str) -> str:
    """One panel per setting: its value against the score.

    Args:
        points: Setting -> (value, score) of each trial.
        scales: Setting -> whether its axis is logarithmic.
        ylabel: Name of the score.
    """
    with rc_context(STYLE):
        columns = min(3, max(len(points), 1))
        rows = -(-len(points) // columns)
        figure = Figure(figsize=(10.4, 2.5 * rows), layout="constrained")
        for index, (name, pairs) in enumerate(points.items()):
            axes = figure.add_subplot(rows, columns, index + 1)
            _scatter(axes, pairs, logarithmic=scales.get(name, False))
            axes.set_xlabel(name)
            axes.set_ylabel(ylabel if index % columns == 0 else "")
        return data_uri(figure)


def _scatter(axes: Axes, pairs: Sequence[tuple[object, float]], logarithmic: bool) -> None:
    """Points of one setting; few enough ticks that their labels do not overlap."""
    numbers = [float(v) for v, _ in pairs if isinstance(v, int | float) and not isinstance(v, bool)]
    scores = [score for _, score in pairs]
    if len(numbers) < len(pairs):
        names = [str(value) for value, _ in pairs]
        axes.plot(names, scores, "o", color=SECOND, ms=4)
        if sum(map(len, set(names))) > 30:
            axes.tick_params("x", labelrotation=30)
        return
    axes.plot(numbers, scores, "o", color=SECOND, ms=4)
    if not logarithmic:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return
    decades = np.log10(max(numbers) / min(numbers))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.5 else (1,), numticks=6))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def parallel_coordinates(
    lines: Sequence[tuple[Mapping[str, object], float, bool]],
    scales: Mapping[str, bool],
    names: Mapping[str, str],
    score: str,
) -> str:
    """One vertical axis a setting and one for the score, and a line through them for each trial; the best one stands out.

    Args:
        lines: Settings, score, and whether it is the best, of each trial.
        scales: Setting -> whether its axis is logarithmic.
        names: Setting -> what is written below its axis.
        score: Name of the score.
    """
    columns: list[tuple[str, list[object], bool]] = [
        (names[key], [settings[key] for settings, _, _ in lines], logarithmic) for key, logarithmic in scales.items()
    ]
    columns.append((score, [value for _, value, _ in lines], False))
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        heights = np.stack([_along_axis(axes, *column, at) for at, column in enumerate(columns)], axis=1)
        for index, (_, _, is_best) in enumerate(lines):
            rank = heights[index, -1]
            colour, width, order = (ACCENT, 1.8, 3.0) if is_best else (str(0.85 - 0.6 * rank), 0.8, 1 + rank)
            axes.plot(heights[index], color=colour, lw=width, zorder=order)
        axes.set_xticks(range(len(columns)), [name.replace("_", " ") for name, _, _ in columns])
        axes.set_yticks([])
        axes.set_xlim(-0.1, len(columns) - 0.7)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params("x", length=0)
        return data_uri(figure)


def _along_axis(axes: Axes, name: str, values: Sequence[object], logarithmic: bool, at: int) -> np.ndarray:
    """Draw one axis with the values at its ends, or each choice; each value's height on it, 0 to 1."""
    axes.axvline(at, color=MUTED, lw=0.8, zorder=0)
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values):
        low, high = min(numbers), max(numbers)
        scaled = np.log(numbers) if logarithmic else np.array(numbers)
        spread = scaled.max() - scaled.min()
        heights = (scaled - scaled.min()) / spread if spread else np.full(len(scaled), 0.5)
        marks = {f"{low:.3g}": 0.0, f"{high:.3g}": 1.0} if spread else {f"{low:.3g}": 0.5}
    else:
        choices = sorted({str(value) for value in values})
        places = np.linspace(0, 1, len(choices)) if len(choices) > 1 else np.array([0.5])
        marks = dict(zip(choices, places.tolist(), strict=True))
        heights = np.array([marks[str(value)] for value in values])
    for text, height in marks.items():
        axes.annotate(
            text, (at, height), (3, 0), textcoords="offset points", fontsize=7, va="center", color=INK, zorder=4
        )
    return heights


def trial_curves(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], best: str | None, ylabel: str) -> str:
    """Learning curves of all trials; the best one stands out."""
    with rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for name, (steps, values) in curves.items():
            is_best = name == best
            colour, width, label = (ACCENT, 1.8, f"best: {name}") if is_best else (MUTED, 1.0, None)
            axes.plot(steps, values, color=colour, lw=width, marker="o", ms=3, label=label, zorder=3 if is_best else 2)
        axes.set_xlabel("step")
        axes.set_ylabel(ylabel)
        axes.margins(x=0.06)
        _name_ends(axes, {name: (steps[-1], values[-1]) for name, (steps, values) in curves.items()}, best)
        if best in curves:
            figure.legend(loc="outside upper right")
        return data_uri(figure)


def _name_ends(axes: Axes, ends: Mapping[str, tuple[int, float]], best: str | None) -> None:
    """Names at the ends of curves, the best one's first; one that would overlap another is left out."""
    low, high = axes.get_ylim()
    named: list[float] = []
    for name, (step, value) in sorted(ends.items(), key=lambda item: (item[0] != best, -item[1][1])):
        if all(abs(value - other) > 0.06 * (high - low) for other in named):
            named.append(value)
            colour, end = ACCENT if name == best else MUTED, (step, value)
            axes.annotate(name, end, (4, 0), textcoords="offset points", color=colour, fontsize=7, va="center")
