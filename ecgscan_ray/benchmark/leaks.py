"""Labels that stand in the reports: where they do, scores of classes named in words are no zero-shot.

A report that was written from the labels names them; the text tower has then been trained on the answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ecgscan_ray import text

LEAKING_SHARE = 0.5
"""A class leaks if at least this share of the reports of its recordings have one of its codes as a word; a task if at least
this share of its classes do. Single ones do in honest reports: clinicians write WPW and LVH too."""
MIN_REPORTS = 5


@dataclass(frozen=True)
class LabelsInReports:
    """Which classes' codes stand in the reports of their recordings.

    Attributes:
        classes: Their names.
        checked: Classes with at least ``MIN_REPORTS`` reports.
    """

    classes: tuple[str, ...]
    checked: int

    @property
    def leaks(self) -> bool:
        """Whether the reports were written from the labels."""
        return bool(self.classes) and len(self.classes) >= LEAKING_SHARE * self.checked


def labels_in_reports(
    reports: Sequence[str], labels: np.ndarray, classes: Sequence[str], codes: Mapping[str, Sequence[str]]
) -> LabelsInReports:
    """Look for each class's codes in the reports of its recordings.

    Args:
        reports: N.
        labels: (N, C) bool.
        classes: C names.
        codes: Class -> its codes; a class that is not there has its own name.
    """
    normalised = [text.normalise(report) for report in reports]
    leaking, checked = [], 0
    for index, name in enumerate(classes):
        words = [re.escape(text.normalise(code)) for code in codes.get(name, (name,))]
        pattern = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)")
        rows = [row for row in np.flatnonzero(labels[:, index]) if normalised[row]]
        if len(rows) < MIN_REPORTS:
            continue
        checked += 1
        if sum(bool(pattern.search(normalised[row])) for row in rows) >= LEAKING_SHARE * len(rows):
            leaking.append(name)
    return LabelsInReports(tuple(leaking), checked)
