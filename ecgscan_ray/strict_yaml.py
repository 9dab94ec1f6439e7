"""YAML as settings need it: plain values, each key once, no aliases, bounded depth and size.

YAML allows more than that: a few lines of aliases expand to gigabytes, ``2020-01-01`` becomes a date, tags become sets and
bytes, and the second of two equal keys silently wins. All of it is refused in one line; dates stay text. ``1e-4`` is a
number, as in YAML 1.2, where PyYAML makes it text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import yaml

from ecgscan_ray.errors import ConfigError

MAX_BYTES = 4 * 2**20
MAX_DEPTH = 32
MAX_INTEGER = 2**63 - 1


class _Loader(yaml.SafeLoader):
    """Refuses aliases, repeated keys and deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*) are not allowed")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"more than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        repeated = next((name for name, count in names.items() if count > 1), None)
        if repeated is not None:
            raise yaml.YAMLError(f"'{repeated[:40]}' is given twice")
        for key, _ in node.value:
            if key.tag == _FLOAT and not _FLOATS_OF_YAML_1_1.match(key.value):
                key.tag = "tag:yaml.org,2002:str"  # an arm may be called 1e-4
        return super().construct_mapping(node, deep)


_FLOAT = "tag:yaml.org,2002:float"
_FLOATS_OF_YAML_1_1 = next(pattern for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers["."] if tag == _FLOAT)
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


def parse(text: str | bytes, where: object) -> Any:
    """The plain value (mapping, list, text, number, truth value or nothing) in a YAML text.

    Args:
        text: Bytes are UTF-8.
        where: Named in errors.

    Raises:
        ConfigError: Not readable as YAML, or with values that settings cannot have.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"more than {MAX_BYTES // 2**20} MB", where=where, fix="Is this a file of settings?")
    try:
        value = yaml.load(text.decode("utf-8-sig") if isinstance(text, bytes) else text, _Loader)  # a SafeLoader
        _refuse_odd(value)
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8", where=where, fix="Save it as UTF-8.") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"not readable as YAML ({_reason(error)})", where=where) from None
    return value


def _refuse_odd(value: Any) -> None:
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str | int | float):
                raise ValueError(f"a key of type {type(key).__name__}")
            _refuse_odd(part)
    elif isinstance(value, list):
        for part in value:
            _refuse_odd(part)
    elif isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError("a number of more than 63 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no finite number")
    elif value is not None and not isinstance(value, str):
        raise ValueError(f"a value of type {type(value).__name__}")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"more than {MAX_DEPTH} levels"
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return text[:160] + (f", line {mark.line + 1}" if mark is not None else "")
