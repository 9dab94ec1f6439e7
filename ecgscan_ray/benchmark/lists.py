"""Published lists of a split: three CSV files with a row for each recording and a column for each class.

The form is that of the lists that were published with MERL (arXiv 2403.06659): ``<prefix>_train.csv``, ``_val.csv`` and
``_test.csv``. A recording is known by its file's name or its id; columns besides those that describe it are classes. The files
are not part of the package; their counts are, and other files are refused.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePosixPath

import numpy as np
import yaml

from ecgscan_ray.benchmark.facts import Facts
from ecgscan_ray.benchmark.task import Targets, Task
from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem import join, list_names, read_bytes
from ecgscan_ray.store.manifest import SPLITS

_FILES = ("ecg_path", "filename")
_TASKS = ("form", "rhythm", "super_class", "sub_class")
_PERSON = ("patient_id", "age", "sex")
_DESCRIBING = {
    *_FILES,
    "filename_lr",
    "filename_hr",
    *_TASKS,
    *_PERSON,
    "ecg_id",
    "strat_fold",
    "validation",
    "diagnose",
    "scp_codes",
}
_ENDINGS = dict(zip(SPLITS, ("train", "val", "test"), strict=True))


@dataclass(frozen=True)
class PublishedLists:
    """What the lists of a task are known to hold.

    Attributes:
        title: For the report.
        prefix: Of the files.
        rows: Recordings of train, validation and test.
        positives: Class -> recordings of these that have it.
    """

    title: str
    prefix: str
    rows: tuple[int, ...]
    positives: Mapping[str, tuple[int, ...]]


@cache
def published_lists() -> dict[str, PublishedLists]:
    """Task -> its lists."""
    content = (resources.files("ecgscan_ray.benchmark") / "published_lists.yaml").read_text(encoding="utf-8")
    return {
        name: PublishedLists(
            entry["title"],
            entry["prefix"],
            tuple(entry["rows"]),
            {label: tuple(counts) for label, counts in entry["positives"].items()},
        )
        for name, entry in yaml.safe_load(content).items()
    }


@dataclass(frozen=True)
class SplitList:
    """One list.

    Attributes:
        names: Stem of each recording's file; its id where no file is named.
        classes: Names of the C classes.
        values: (N, C) bool.
    """

    names: list[str]
    classes: tuple[str, ...]
    values: np.ndarray


def read_list(uri: str) -> SplitList:
    """One CSV file.

    Raises:
        InputError: It is no such list.
    """
    rows = list(csv.DictReader(io.StringIO(read_bytes(uri).decode("utf-8-sig", "replace"))))
    columns = list(rows[0]) if rows else []
    classes = tuple(name for name in columns if name not in _DESCRIBING)
    if not classes or not {*_FILES, "ecg_id"} & set(columns):
        raise InputError(f"no list of recordings with classes (columns: {', '.join(columns)[:120]})", where=uri)
    try:
        values = np.array([[float(row[name]) for name in classes] for row in rows])
    except (TypeError, ValueError):
        raise InputError("a class is neither 0 nor 1", where=uri) from None
    if not np.isin(values, (0, 1)).all():
        raise InputError("a class is neither 0 nor 1", where=uri)
    return SplitList([_name(row) for row in rows], classes, values.astype(bool))


def _name(row: Mapping[str, str]) -> str:
    """The file's name: a number beside it may be another archive's recording."""
    files = [PurePosixPath(row[column]).stem for column in _FILES if row.get(column)]
    return files[0] if files else row.get("ecg_id") or ""


def list_task(name: str, folder: str | None) -> Task:
    """The task of a published list.

    Raises:
        InputError: The list is not there, or not the published one.
    """
    published = published_lists()[name]
    where, fix = f"task {name}", "Give the folder with MERL's lists of this data set: --lists FOLDER."
    if folder is None:
        raise InputError("is split by published lists", where=where, fix=fix)
    files = {split: f"{published.prefix}_{ending}.csv" for split, ending in _ENDINGS.items()}
    if missing := sorted(set(files.values()) - set(list_names(folder))):
        raise InputError(f"has no {', '.join(missing)}", where=folder, fix=fix)
    lists = {split: read_list(join(folder, file)) for split, file in files.items()}
    if any(set(each.classes) != published.positives.keys() for each in lists.values()):
        raise InputError("does not have the classes of the published lists", where=folder, fix=fix)
    rows = tuple(len(each.names) for each in lists.values())
    counts = {
        label: tuple(int(each.values[:, each.classes.index(label)].sum()) for each in lists.values())
        for label in published.positives
    }
    if rows != published.rows or counts != published.positives:
        what = f"is not the published split ({rows} recordings, published {published.rows}, or other positives)"
        raise InputError(what, where=folder, fix=fix)
    return task_of_lists(name, published.title, lists)


def task_of_lists(name: str, title: str, lists: Mapping[str, SplitList]) -> Task:
    """A task whose splits and labels are those of lists; recordings that are in none are not used."""
    classes = lists["train"].classes

    def targets(facts: Facts) -> Targets:
        values, split = np.zeros((len(facts), len(classes)), bool), np.full(len(facts), "", dtype="<U10")
        row_of = {identifier: row for row, identifier in enumerate(facts.ids)}
        absent = 0
        for part, each in lists.items():
            order = [each.classes.index(label) for label in classes]
            for name, labels in zip(each.names, each.values, strict=True):
                row = row_of.get(name)
                if row is not None:
                    values[row], split[row] = labels[order], part
                absent += row is None
        listed = sum(len(each.names) for each in lists.values())
        notes = (
            (f"{absent} of the {listed} recordings of the lists are not used or not in the store",) if absent else ()
        )
        return Targets(split != "", values, split, classes, notes=notes)

    return Task(name, title, targets, all_splits=True)
