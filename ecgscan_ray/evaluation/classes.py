"""The classes of a linear probe: PTB-XL's superclasses, and the labels as the archive gives them.

Recordings without any superclass, or without any label, are left out.

Letters: N recordings, C classes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ecgscan_ray.evaluation.features import Features
from ecgscan_ray.recording.labels import SUPERCLASSES

MIN_RECORDINGS = 5
"""A label is probed if at least this many recordings of training and of test have it, and as many do not."""


@dataclass(frozen=True)
class Classes:
    """Classes of one kind.

    Attributes:
        kind: ``superclass`` or ``label``, as in the names of figures.
        names: Of the C classes.
    """

    kind: str
    names: tuple[str, ...]

    def of(self, features: Features) -> tuple[np.ndarray, np.ndarray]:
        """Which recordings have which class (N, C) bool, and the rows of those that have labels at all (M,) int."""
        if self.kind == "superclass":
            labels = features["labels"]
            return labels, np.flatnonzero(labels.any(1))
        labels = np.array([[name in codes for name in self.names] for codes in features.codes], bool)
        known = np.flatnonzero([bool(codes) for codes in features.codes])
        return labels.reshape(len(features), len(self.names)), known


SUPERCLASS_TASK = Classes("superclass", SUPERCLASSES)


def label_task(train: Features, test: Features) -> tuple[Classes, list[str]]:
    """The labels to probe, and those with too few recordings; labels that are superclasses are left to their own task."""
    counts = [(Counter(code for codes in part.codes for code in codes), _labelled(part)) for part in (train, test)]
    names = sorted(set().union(*(count.keys() for count, _ in counts)) - set(SUPERCLASSES))
    probed = [
        name
        for name in names
        if all(MIN_RECORDINGS <= count[name] <= labelled - MIN_RECORDINGS for count, labelled in counts)
    ]
    return Classes("label", tuple(probed)), [name for name in names if name not in set(probed)]


def _labelled(features: Features) -> int:
    return sum(bool(codes) for codes in features.codes)
