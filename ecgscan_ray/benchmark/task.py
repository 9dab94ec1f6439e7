"""A task: which recordings are trained, validated and tested on, and what is predicted of them.

Letters: N recordings of the facts, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ecgscan_ray.benchmark.facts import Facts
from ecgscan_ray.errors import InputError
from ecgscan_ray.store.manifest import SPLITS

MIN_POSITIVES = 5
"""A label of an archive is a class if at least this many recordings of training and of test have it, and as many do not."""

_NO_ROWS = "Leave the task out (--task), or give a store that has such labels in all splits."


@dataclass(frozen=True)
class Targets:
    """What is to be predicted.

    Attributes:
        known: (N,) bool, whether it is known.
        values: (N, C) bool, or (N,) numbers of a regression.
        split: (N,) ``train``, ``validation``, ``test``, or empty for recordings that are not used.
        classes: Names of the C classes; empty for a regression.
        left_out: Class -> why it is not among them.
        notes: What a reader must know of them.
    """

    known: np.ndarray
    values: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: As in the names of figures.
        title: For the report.
        targets: From the facts of a store to what is to be predicted.
        all_splits: Whether its own lists decide the split, so that any shard can hold a recording of any part.
        codes: Class -> words that name it in an archive, for the search for leaks; by default its own name.
        unit: Of a regression.
        published_rows: Recordings of training behind published figures, to which learning curves are extrapolated.
    """

    name: str
    title: str
    targets: Callable[[Facts], Targets]
    all_splits: bool = False
    codes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unit: str = ""
    published_rows: int = 0


@dataclass(frozen=True)
class Selection:
    """Rows of the facts that a task uses, and their targets.

    Attributes:
        task: The task.
        targets: Of all rows of the facts.
        train: Rows of the facts; so are the next two.
        validation: For strengths and thresholds.
        test: Measured on.
        notes: What a reader must know of it.
    """

    task: Task
    targets: Targets
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = ()


def select(task: Task, facts: Facts, usable: np.ndarray | None = None) -> Selection:
    """The rows that a task uses.

    Args:
        task: The task.
        facts: Of N recordings.
        usable: (N,) bool, those with features of every encoder; all by default.

    Raises:
        InputError: A patient is in two parts, a part is empty, or no class divides it.
    """
    targets = task.targets(facts)
    known = targets.known if usable is None else targets.known & usable
    rows = {split: np.flatnonzero(known & (targets.split == split)) for split in SPLITS}
    for split, of_split in rows.items():
        if not len(of_split):
            raise InputError(f"no recording of the split '{split}' has it", where=f"task {task.name}", fix=_NO_ROWS)
        if targets.classes and not _divides(targets.values[of_split]):
            what = f"no class that some recordings of the split '{split}' have and others do not"
            raise InputError(what, where=f"task {task.name}", fix=_NO_ROWS)
    _refuse_shared_patients(task, facts, rows)
    unknown = int((facts.patient_key[np.concatenate(list(rows.values()))] < 0).sum())
    notes = targets.notes
    if unknown:
        notes += (f"the patients of {unknown} recordings are not known: the same patient may be in two splits",)
    return Selection(task, targets, rows["train"], rows["validation"], rows["test"], notes)


def _divides(values: np.ndarray) -> bool:
    return bool((values.any(0) & ~values.all(0)).any())


def _refuse_shared_patients(task: Task, facts: Facts, rows: Mapping[str, np.ndarray]) -> None:
    patients = {split: set(facts.patient_key[of_split].tolist()) - {-1} for split, of_split in rows.items()}
    for first, second in (("train", "test"), ("validation", "test"), ("train", "validation")):
        if shared := patients[first] & patients[second]:
            example = facts.ids[int(np.flatnonzero(facts.patient_key == min(shared))[0])]
            what = (
                f"leaks: {len(shared)} patients are in '{first}' and in '{second}' (e.g. that of recording {example})"
            )
            raise InputError(what, where=f"task {task.name}", fix="Split by patient.")


def label_targets(facts: Facts, members: Mapping[str, frozenset[str]]) -> Targets:
    """Classes as sets of codes; recordings with none of them are not used, as in PTB-XL's own benchmark."""
    values = np.array([[bool(codes & labels) for codes in members.values()] for labels in facts.labels], bool)
    values = values.reshape(len(facts), len(members))
    return Targets(np.asarray(values.any(axis=1)), values, facts.split, tuple(members))


def own_labels(facts: Facts, ignored: Sequence[str] = ()) -> Targets:
    """All labels of a store as classes; those with too few recordings are left out and named.

    Raises:
        InputError: No label is left.
    """
    names = sorted(set().union(*facts.labels) - set(ignored))
    values = np.array([[name in labels for name in names] for labels in facts.labels], bool).reshape(-1, len(names))
    known = np.array([bool(labels) for labels in facts.labels])
    left_out = {}
    for index, name in enumerate(names):
        for split in ("train", "test"):
            rows = values[known & (facts.split == split), index]
            if not MIN_POSITIVES <= rows.sum() <= len(rows) - MIN_POSITIVES:
                left_out[name] = f"{int(rows.sum())} of {len(rows)} recordings of '{split}' have it"
                break
    classes = [index for index, name in enumerate(names) if name not in left_out]
    if not classes:
        raise InputError("no label has enough recordings", where="task labels", fix=_NO_ROWS)
    return Targets(known, values[:, classes], facts.split, tuple(names[index] for index in classes), left_out)


def age_targets(facts: Facts) -> Targets:
    """Age in years; ages above 89 are 90 in PTB-XL."""
    return Targets(np.isfinite(facts.age), np.nan_to_num(facts.age), facts.split)


def sex_targets(facts: Facts) -> Targets:
    """Female or not, where it is known."""
    return Targets(
        np.isin(facts.sex, ("male", "female")), np.isin(facts.sex, ("female",))[:, None], facts.split, ("female",)
    )
