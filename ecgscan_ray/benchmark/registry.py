"""The tasks by name, and suites of them.

PTB-XL's classes come from its own table of statements, at any likelihood. CPSC2018 and Chapman-Shaoxing-Ningbo are split by
published lists (``lists``), which are given as files.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from importlib import resources

from ecgscan_ray.benchmark.facts import Facts
from ecgscan_ray.benchmark.lists import list_task, published_lists
from ecgscan_ray.benchmark.task import Targets, Task, age_targets, label_targets, own_labels, sex_targets
from ecgscan_ray.errors import InputError, near_miss
from ecgscan_ray.recording.labels import SUPERCLASSES

SUITES: dict[str, tuple[str, ...]] = {
    "ptbxl": ("superclass", "subclass", "form", "rhythm", "age", "sex"),
    "cpsc2018": ("cpsc2018",),
    "chapman": ("chapman",),
    "labels": ("labels", "age", "sex"),
}
"""Suite -> its tasks."""

PTBXL = {
    "superclass": ("PTB-XL superclass", 17_084),
    "subclass": ("PTB-XL subclass", 17_084),
    "form": ("PTB-XL form", 7_197),
    "rhythm": ("PTB-XL rhythm", 16_832),
}
"""Task -> title, and recordings in PTB-XL's training folds (1 to 8) that have a class of it."""
OTHERS = {
    "labels": Task("labels", "Labels of the store", lambda facts: own_labels(facts, SUPERCLASSES)),
    "age": Task("age", "Age", age_targets, unit="years"),
    "sex": Task("sex", "Sex", sex_targets),
}
NAMES = (*PTBXL, "cpsc2018", "chapman", *OTHERS)


def get_tasks(suite: str, names: Sequence[str] = (), lists: str | None = None) -> list[Task]:
    """The tasks of a suite, or those that are named.

    Args:
        suite: Name of a suite.
        names: Of tasks, instead of all of the suite.
        lists: Folder with published lists, for the tasks that need them.

    Raises:
        InputError: No such suite or task, or a list is missing.
    """
    if suite not in SUITES:
        raise InputError(f"no suite '{suite}'", where="--suite", fix=near_miss(suite, SUITES))
    return [_task(name, lists) for name in names or SUITES[suite]]


def _task(name: str, lists: str | None) -> Task:
    if name in OTHERS:
        return OTHERS[name]
    if name in PTBXL:
        return _ptbxl_task(name)
    if name in published_lists():
        return list_task(name, lists)
    raise InputError(f"no task '{name}'", where="--task", fix=near_miss(name, NAMES))


def _ptbxl_task(name: str) -> Task:
    members = statements(name)
    words = {label: tuple(sorted(codes)) for label, codes in members.items()}

    def targets(facts: Facts) -> Targets:
        return label_targets(facts, members)

    title, rows = PTBXL[name]
    return Task(name, title, targets, codes=words, published_rows=rows)


@cache
def statements(name: str) -> dict[str, frozenset[str]]:
    """Class -> SCP-ECG codes of one of PTB-XL's four tasks."""
    text = (resources.files("ecgscan_ray") / "data" / "scp_statements.csv").read_text(encoding="utf-8")
    rows = [row | {"code": row[""]} for row in csv.DictReader(text.splitlines())]
    if name in ("form", "rhythm"):
        return {row["code"]: frozenset((row["code"],)) for row in rows if row[name]}
    column = {"superclass": "diagnostic_class", "subclass": "diagnostic_subclass"}[name]
    order = SUPERCLASSES if name == "superclass" else dict.fromkeys(row[column] for row in rows if row[column])
    own = {label: {label} if name == "superclass" else set() for label in order}  # an archive may give superclasses
    return {label: frozenset({row["code"] for row in rows if row[column] == label} | own[label]) for label in order}
