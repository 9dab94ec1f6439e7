"""The report of an ablation: one table of arms, each figure with its difference from the arm's baseline."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ecgscan_ray.config import AblationConfig
from ecgscan_ray.evaluation.ablation import MEASURES, Cell
from ecgscan_ray.filesystem import join, write_bytes_atomic
from ecgscan_ray.report.html import bounds, number, render, write_report
from ecgscan_ray.report.sweep import csv_row
from ecgscan_ray.runs.trials import Trial

CSV_NAME = "ablation.csv"
Table = Mapping[str, Mapping[str, Cell]]


def write_ablation_report(
    out_uri: str, table: Table, config: AblationConfig, trials: Sequence[Trial]
) -> dict[str, Any]:
    """Write ``report.html``, ``report.json`` and ``ablation.csv``.

    Args:
        out_uri: The ablation's folder.
        table: Arm -> figure -> cell, the baseline first.
        config: The arms, the baseline of each, and the seeds.
        trials: All, of any state.

    Returns:
        The content of ``report.json``.
    """
    lost = [t for t in trials if t.state != "done"]
    content = {
        "baseline": next(iter(config.arms)),
        "baselines": dict(config.baseline),
        "seeds": list(config.seeds),
        "arms": {arm: {name: _entry(cell) for name, cell in cells.items()} for arm, cells in table.items()},
        "settings": {arm: dict(changes) for arm, changes in config.arms.items()},
        "lost": [{"id": t.id, **t.config, "state": t.state, "why": t.error or t.reason} for t in lost],
        "text": table_text(table, config.baseline),
    }
    write_bytes_atomic(join(out_uri, CSV_NAME), table_csv(table).encode())
    names = {name: title for name, title in MEASURES.items() if any(name in cells for cells in table.values())}
    html = render("ablation.html.j2", table=table, names=names, config=config, lost=lost)
    write_report(out_uri, html, content)
    return content


def _entry(cell: Cell) -> dict[str, Any]:
    difference = cell.difference.as_dict() if cell.difference else None
    by_seed = {str(seed): value for seed, value in cell.by_seed.items()}
    return {**cell.value.as_dict(), "difference": difference, "by_seed": by_seed, "clear": cell.clear}


def table_csv(table: Table) -> str:
    """One row an arm and figure."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["arm", "figure", "value", "low", "high", "difference", "low", "high", "by_seed"])
    for arm, cells in table.items():
        for name, cell in cells.items():
            row: list[Any] = [arm, name]
            for figure in (cell.value, cell.difference):
                row += ["", "", ""] if figure is None else [figure.as_dict()[key] for key in ("value", "low", "high")]
            by_seed = " ".join(f"{seed}:{value:.5f}" for seed, value in cell.by_seed.items())
            writer.writerow(csv_row([*row, by_seed]))
    return buffer.getvalue()


def table_text(table: Table, baselines: Mapping[str, str]) -> str:
    """For a terminal: a block a figure, a line an arm; * = a difference that patients and seeds agree on."""
    wide = max((len(arm) for arm in table), default=0)
    lines = []
    for name, title in MEASURES.items():
        if not any(name in cells for cells in table.values()):
            continue
        lines.append(title)
        for arm, cells in table.items():
            if name not in cells:
                continue
            cell, line = cells[name], f"  {arm:<{wide}} {number(cells[name].value.value, 4)}"
            if cell.difference is not None:
                sign = "+" if cell.difference.value > 0 else ""
                line += f"   {sign}{number(cell.difference.value, 4)} {bounds(cell.difference, 4)}{' *' * cell.clear}"
                line += f"   compared with {baselines[arm]}" if arm in baselines else ""
            lines.append(line)
    return "\n".join(lines)
