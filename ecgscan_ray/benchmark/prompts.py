"""Words for classes: the committed prompts, or a dictionary of one's own as YAML or JSON (class -> wording or wordings).

The public dictionary of MERL (arXiv 2403.06659) has this form; its names lack the underscores of PTB-XL's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml

from ecgscan_ray import strict_yaml, text
from ecgscan_ray.benchmark.task import Task
from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem import read_bytes

Prompts = Mapping[str, list[str]]
"""Class -> wordings."""


def task_prompts(task: Task, classes: tuple[str, ...], own: Prompts | None = None) -> dict[int, list[str]]:
    """Index of a class -> its wordings; classes without any are left out.

    Args:
        task: The task.
        classes: Its classes.
        own: A dictionary that replaces the committed prompts.
    """
    prompts: Prompts = own if own is not None else _committed(task.name)
    by_name = {_plain(name): wordings for name, wordings in prompts.items()}
    return {index: by_name[_plain(name)] for index, name in enumerate(classes) if _plain(name) in by_name}


def read_prompts(uri: str) -> dict[str, list[str]]:
    """A dictionary of prompts.

    Raises:
        InputError: It is none.
    """
    content = strict_yaml.parse(read_bytes(uri), where=uri)  # JSON is YAML
    if not isinstance(content, dict) or not content:
        raise InputError("no dictionary of prompts (class: wording, or a list of them)", where=uri)
    prompts = {str(name): [words] if isinstance(words, str) else words for name, words in content.items()}
    for name, wordings in prompts.items():
        if not isinstance(wordings, list) or not wordings or not all(isinstance(each, str) for each in wordings):
            raise InputError(f"'{name}' has no wording, or one that is no text", where=uri)
    return prompts


def _plain(name: str) -> str:
    return name.replace("_", "").upper()


@cache
def _committed(task: str) -> dict[str, list[str]]:
    if task == "superclass":
        return text.superclass_prompts()
    content = (resources.files("ecgscan_ray.benchmark") / "prompts.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(content).get(task, {})
