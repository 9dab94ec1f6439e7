"""The template engine and the format of figures, shared by all reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jinja2

from ecgscan_ray.evaluation.bootstrap import Estimate
from ecgscan_ray.filesystem import join, write_bytes_atomic
from ecgscan_ray.runs.names import REPORT_HTML, REPORT_JSON


def number(value: float | None, digits: int = 2) -> str:
    """A figure with fixed digits; ``n/a`` where there is none."""
    if value is None or value != value:
        return "n/a"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text  # no -0.00


def percent(value: float | None, digits: int = 0) -> str:
    """A share as a percentage."""
    return "n/a" if value is None or value != value else f"{100 * value:.{digits}f} %"


def bounds(figure: Estimate | None, digits: int = 2) -> str:
    """``(low to high)`` of a figure, empty where it has none."""
    if figure is None or figure.low is None or figure.high is None:
        return ""
    return f"({number(figure.low, digits)} to {number(figure.high, digits)})"


def render(template: str, **context: Any) -> str:
    """Fill one of the package's templates; everything put in is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ecgscan_ray.report"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "bounds": bounds}
    return environment.get_template(template).render(**context)


def write_report(out_uri: str, html: str, content: Mapping[str, Any]) -> None:
    """``report.html``, then ``report.json``, each complete or not at all."""
    write_bytes_atomic(join(out_uri, REPORT_HTML), html.encode())
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_bytes_atomic(join(out_uri, REPORT_JSON), text.encode())
