"""From presets, YAML files and ``--set`` to settings: one way of merging for files, command line and Tune."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from ecgscan_ray import strict_yaml
from ecgscan_ray.config.old_keys import new_name, reason_removed
from ecgscan_ray.config.section import Section
from ecgscan_ray.config.settings import Config
from ecgscan_ray.errors import ConfigError, near_miss
from ecgscan_ray.uris import absolute, is_local

Model = TypeVar("Model", bound=Section)


def merge(base: Mapping[str, Any], dotted: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the nested mapping ``base`` in which every ``"a.b.c": value`` of ``dotted`` is set.

    Other ``page.effects`` than those of ``base`` come with their own probabilities and sizes, except those in ``dotted``.
    """
    merged = json.loads(json.dumps(_with_own_effects(base, dotted)))
    for key, value in dotted.items():
        *path, last = key.split(".")
        node = merged
        for part in path:
            if node.get(part) is None:  # a section that is switched off, or not named
                node[part] = {}
            node = node[part]
            if not isinstance(node, dict):
                raise ConfigError(f"'{part}' is a value, not a section", where=f"setting {key}")
        node[last] = value
    return merged


def _with_own_effects(base: Mapping[str, Any], dotted: Mapping[str, Any]) -> Mapping[str, Any]:
    """``base`` without the probabilities and sizes that it set for other ``page.effects`` than those asked for.

    A preset tunes them for its own effects; kept, they would switch off what makes a fax a fax.
    """
    page = base.get("page")
    if not isinstance(page, Mapping) or dotted.get("page.effects", page.get("effects")) == page.get("effects"):
        return base
    return {
        **base,
        "page": {name: value for name, value in page.items() if name not in ("effect_probabilities", "effect_ranges")},
    }


def by_key(kind: type[BaseModel], content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings of ``kind`` as dotted keys, in their order; a mapping that is one value (``page.layouts``) stays whole.

    What a section does not name keeps its value then: ``objective: {gram_weight: 2}`` changes one weight.
    """
    dotted: dict[str, Any] = {}
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and _section(kind, key) is not None:
            dotted |= by_key(kind, value, f"{key}.")
        else:
            dotted.pop(key, None)  # the last one wins, also by its place
            dotted[key] = value
    return dotted


def _section(kind: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The group of settings at a dotted key of ``kind``, ``None`` where it is a value or unknown."""
    section: type[BaseModel] | None = kind
    for part in key.split("."):
        field = section.model_fields.get(part) if section is not None else None
        annotation = field.annotation if field is not None else None
        kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        section = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return section


def parse_overrides(settings: list[str]) -> dict[str, Any]:
    """``["a.b=1e-4", ...]`` -> dotted mapping; values are read as YAML."""
    dotted = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise ConfigError("not of the form section.key=value", where=f"--set {setting[:80]}")
        dotted[key.strip()] = strict_yaml.parse(value, where=f"--set {setting[:80]}")
    return dotted


def build(kind: type[Model], content: Mapping[str, Any], where: object) -> Model:
    """Validate ``content`` as ``kind``; the first fault becomes one line with its dotted key."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        faults = error.errors()  # an unknown key first: a required one may be missing because it is misspelt
        fault = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
        key = ".".join(str(part) for part in fault["loc"])[:120]
        if fault["type"] == "extra_forbidden":
            raise _unknown(kind, fault["loc"], where) from None
        message = fault["msg"].removeprefix("Value error, ")
        given = "" if isinstance(fault["input"], dict) else f", got {repr(fault['input'])[:80]}"
        raise ConfigError(f"setting '{key}': {message}{given}" if key else message, where=where) from None


def unknown_setting(key: str, known: Iterable[str], where: object) -> ConfigError:
    """The error for a dotted key that is no setting: what became of it if it was one, else the nearest known key."""
    renamed, removed = new_name(key), reason_removed(key)
    if renamed is not None:
        return ConfigError(f"{key} is now {renamed}", where=where, fix="Use the new name.")
    if removed is not None:
        return ConfigError(f"{key} is no setting any more: {removed}", where=where, fix="Leave it out.")
    return ConfigError(f"unknown setting '{key}'", where=where, fix=near_miss(key, known))


def _unknown(kind: type[BaseModel], location: tuple[int | str, ...], where: object) -> ConfigError:
    key, last = ".".join(str(part) for part in location)[:120], str(location[-1])[:80]
    if new_name(key) is not None or reason_removed(key) is not None:
        return unknown_setting(key, (), where)
    return ConfigError(f"unknown setting '{key}'", where=where, fix=near_miss(last, _siblings(kind, location)))


def _siblings(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        field = kind.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        kind = field.annotation
    return list(kind.model_fields)


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    folder = resources.files("ecgscan_ray") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_yaml(name_or_path: str) -> dict[str, Any]:
    """The mapping in a preset (by name) or in a YAML file (by path or ``file://``)."""
    content = strict_yaml.parse(_text_of(name_or_path), where=name_or_path)
    if not isinstance(content, dict):
        raise ConfigError("a config is a mapping of sections", where=name_or_path)
    return content


def read_settings(name_or_path: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings of a run in a preset or a YAML file, merged into those of its ``base`` where it names one.

    Raises:
        ConfigError: Not readable, or bases that name each other.
    """
    if name_or_path in seen:
        raise ConfigError(f"is its own base ({' -> '.join((*seen, name_or_path))})", where=name_or_path)
    content = read_yaml(name_or_path)
    if "base" not in content:
        return content
    base = content.pop("base")
    if not isinstance(base, str):
        raise ConfigError("base is the name of a preset or the path of a file", where=name_or_path)
    return merge(read_settings(base, (*seen, name_or_path)), by_key(Config, content))


def _text_of(name_or_path: str) -> bytes:
    if name_or_path in preset_names():
        return (resources.files("ecgscan_ray") / "presets" / f"{name_or_path}.yaml").read_bytes()
    if not is_local(name_or_path):
        raise ConfigError("settings are read from local files alone", where=name_or_path, fix="Copy the file here.")
    path = Path(absolute(name_or_path))
    try:
        if path.is_file():
            return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=name_or_path[:200]) from None
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        raise ConfigError("no such file", where=name_or_path)
    raise ConfigError(f"no preset named '{name_or_path}'", fix=near_miss(name_or_path, preset_names()))


def load(kind: type[Model], name_or_path: str, settings: list[str] | None = None) -> Model:
    """Preset or file, then ``section.key=value`` overrides, as one frozen object of ``kind``."""
    changes = by_key(kind, parse_overrides(settings or []))
    content = read_settings(name_or_path) if issubclass(kind, Config) else kind.mergeable(read_yaml(name_or_path))
    return build(kind, merge(content, changes), where=name_or_path)


def dump_yaml(config: Section) -> str:
    """The resolved settings as YAML that ``--config`` takes."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
