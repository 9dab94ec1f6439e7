"""The template engine and the words of figures, shared by all reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jinja2

from ecgscan_ray.evaluation.bootstrap import Estimate
from ecgscan_ray.filesystem import join, write_bytes_atomic

REPORT_NAME, JSON_NAME = "report.html", "report.json"


def number(value: float | None, digits: int = 2) -> str:
    """A figure for people: fixed digits, ``n/a`` where there is none."""
    if value is None or value != value:
        return "n/a"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text  # no -0.00


def percent(value: float | None, digits: int = 0) -> str:
    """A share for people."""
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
    """``report.html``, then ``report.json``, each whole or not at all."""
    write_bytes_atomic(join(out_uri, REPORT_NAME), html.encode())
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_bytes_atomic(join(out_uri, JSON_NAME), text.encode())
