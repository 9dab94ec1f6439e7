"""What every setting means: the text of ``docs/configuration.md`` and of ``ecgscan config --explain``."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ecgscan_ray.config.ablation import AblationConfig
from ecgscan_ray.config.loading import unknown_setting
from ecgscan_ray.config.section import Unit
from ecgscan_ray.config.settings import Config
from ecgscan_ray.config.sweep import SweepConfig

UNITS = {
    "_mm_per_s": "mm/s",
    "_mm_per_mv": "mm/mV",
    "_columns_per_s": "1/s",
    "_mv": "mV",
    "_mb": "MB",
    "_s": "s",
    "_seconds": "s",
    "_fs": "Hz",
}
"""Ending of a key -> unit; other keys have a ``Unit`` in their type."""

TITLES: dict[type[BaseModel], str] = {
    Config: "Settings of a run",
    SweepConfig: "Settings of a sweep (`ecgscan sweep`)",
    AblationConfig: "Settings of an ablation (`ecgscan ablate`)",
}

TYPES = {int: "integer", float: "number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        key: Dotted.
        kind: Of the value, in words.
        unit: Empty where the value has none.
        range: Allowed values; empty where the kind says all.
        default: As YAML writes it; ``required`` where there is none.
        meaning: One or two sentences.
    """

    key: str
    kind: str
    unit: str
    range: str
    default: str
    meaning: str

    def text(self) -> str:
        """For a terminal."""
        facts = [
            self.kind,
            self.unit,
            self.range,
            f"default {self.default}" if self.default != "required" else "required",
        ]
        return f"{self.key}  ({', '.join(fact for fact in facts if fact)})\n  {self.meaning}"

    def row(self) -> str:
        """A row of a Markdown table."""
        cells = (
            f"`{self.key}`",
            self.kind,
            self.unit,
            self.range,
            f"`{self.default}`",
            self.meaning.replace("``", "`"),
        )
        return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def explain(key: str | None = None) -> list[Setting]:
    """The settings at a dotted key (one, or a whole section), or all of runs, sweeps and ablations.

    Raises:
        ConfigError: No setting has this key.
    """
    every = [setting for kind in TITLES for setting in settings_of(kind)]
    if key is None:
        return every
    settings = [setting for setting in every if setting.key == key or setting.key.startswith(f"{key}.")]
    if not settings:
        raise unknown_setting(key, [setting.key for setting in every], where="--explain")
    return list(dict.fromkeys(settings))


def settings_of(kind: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Every setting of a group, those of its sections included, in their order."""
    for name, field in kind.model_fields.items():
        key, section = f"{prefix}{name}", _section(field.annotation)
        is_several = get_origin(field.annotation) in (dict, tuple)
        if section is None or is_several or type(None) in get_args(field.annotation):
            yield _setting(key, field)
        if section is not None:
            inner = f"{key}.*." if is_several else f"{key}."
            yield from settings_of(section, inner)


def markdown() -> str:
    """The whole of ``docs/configuration.md``."""
    lines = [
        "# Configuration",
        "",
        "Every setting, written by `python -m ecgscan_ray.config.reference`. Change a value by `--set key=value` or in a YAML",
        "file for `--config`; a file may name a preset or another file as `base`, and then changes only what it names.",
        "`ecgscan config --explain page.height` prints the same in a terminal. `*` stands for a name.",
    ]
    for kind, title in TITLES.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| key | value | unit | range | default | meaning |",
            "|---|---|---|---|---|---|",
        ]
        lines += [setting.row() for setting in settings_of(kind)]
    return "\n".join(lines) + "\n"


def _section(annotation: Any) -> type[BaseModel] | None:
    """The group of settings in a field's type: itself, an optional one, or the entries of a mapping or list."""
    kinds = (annotation, *get_args(annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _setting(key: str, field: FieldInfo) -> Setting:
    suffix = next((unit for ending, unit in UNITS.items() if f"_{key.rpartition('.')[2]}".endswith(ending)), "")
    unit = next((str(item) for item in field.metadata if isinstance(item, Unit)), suffix)
    meaning = " ".join((field.description or "").split())
    return Setting(key, _kind(field.annotation), unit, _range(field), _default(field), meaning)


def _kind(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if part is type(None) else _kind(part) for part in parts)
    if origin in (list, tuple):
        return f"list of {_kind(parts[0])}"
    if origin is dict:
        return f"mapping to {_kind(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return TYPES.get(annotation, _kind(parts[0]) if parts else "any")


def _range(field: FieldInfo) -> str:
    bounds = {
        name: getattr(item, name) for item in field.metadata for name in ("ge", "gt", "le", "lt") if hasattr(item, name)
    }
    low = f"{bounds['ge']:g}" if "ge" in bounds else f"above {bounds['gt']:g}" if "gt" in bounds else None
    high = f"{bounds['le']:g}" if "le" in bounds else f"below {bounds['lt']:g}" if "lt" in bounds else None
    if low and high:
        return f"{low} to {high}"
    return (low if "gt" in bounds else f"at least {low}") if low else high or ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        return "section"
    return "none" if value is None else json.dumps(value)


if __name__ == "__main__":
    sys.stdout.write(markdown())
