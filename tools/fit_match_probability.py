"""Measure the constants of ``evaluation.match_probability``: ``python -m tools.fit_match_probability DATA [--pages 200]``.

DATA holds ``ptbxl/`` (packed recordings). Pages are drawn of recordings of fold 9, one a patient, on which the reader was
not trained; as photographs, scans and clean; and read with the weights that come with the package. Each is searched among
10, 100, 1,000 and all recordings of DATA, with its own recording and without it; others of its patient stay. Half of the
patients are fitted, the other half measured: both are printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from benchmarks.photographs import database, recordings
from ecgscan_ray.config import PageConfig
from ecgscan_ray.digitise import Options, load_reader
from ecgscan_ray.errors import InputError
from ecgscan_ray.evaluation.match_probability import Evidence
from ecgscan_ray.evaluation.signal_search import PageMatches, find_recordings
from ecgscan_ray.paper import Renderer, page_key
from ecgscan_ray.reading.leads import PageReading
from ecgscan_ray.recording.recording import Recording

FOLD = "9"
KINDS = ("photo", "scan", "photo", "clean")
SIZES = (10, 100, 1000, None)
"""Of the gallery; None = all."""
_LAYOUTS = {"3x4": 0.1, "3x4+1": 0.5, "3x4+3": 0.1, "6x2": 0.1, "6x2+1": 0.1, "12x1": 0.1}


@dataclass(frozen=True)
class ReadPage:
    """A page of a known recording, as read."""

    recording: Recording
    kind: str
    reading: PageReading


@dataclass(frozen=True)
class Trial:
    """One search of one page.

    Attributes:
        page: Number of the page.
        kind: Of the page.
        size: Of the gallery; None = all.
        is_in: Whether its recording was in the gallery.
        is_right: Whether its recording came first.
        evidence: See there.
    """

    page: int
    kind: str
    size: int | None
    is_in: bool
    is_right: bool
    evidence: Evidence


def read_pages(own: Sequence[Recording]) -> Iterator[ReadPage]:
    """Draw and read a page of each recording; one that is refused is named and left out."""
    read, renderers = load_reader(1), {}
    for number, recording in enumerate(own):
        kind = KINDS[number % len(KINDS)]
        if kind not in renderers:
            page = PageConfig(height=1250, width=1650, channels=3, fit="pad", effects=kind, layouts=_LAYOUTS)
            renderers[kind] = Renderer(page)
        image = renderers[kind].render([recording], np.array([page_key(0, 0, recording.id, 0)], np.uint64)).image[0]
        try:
            yield ReadPage(recording, kind, read(image, Options()))
        except InputError as error:
            print(f"page of {recording.id} ({kind}): {error}", file=sys.stderr)


def choose(data: Path, count: int) -> tuple[list[Recording], list[Recording]]:
    """Recordings to draw, one a patient of ``FOLD``, and all others."""
    rows = database(data)
    left_out = set((data / "photos" / "patients_left_out.txt").read_text().split())
    first = {row["patient_id"]: row for row in rows if row["strat_fold"] == FOLD and row["patient_id"] not in left_out}
    picks = np.random.default_rng(0).permutation(sorted(row["ecg_id"] for row in first.values()))[:count]
    own = {ecg_id: k for k, ecg_id in enumerate(picks)}
    drawn = sorted((row for row in rows if row["ecg_id"] in own), key=lambda row: own[row["ecg_id"]])
    others = [row for row in rows if row["ecg_id"] not in own]
    return recordings(data, drawn), recordings(data, others)


def search(pages: Sequence[ReadPage], others: Sequence[Recording]) -> list[Trial]:
    """All trials of all pages."""
    trials, rng = [], np.random.default_rng(0)
    for size in SIZES:
        for is_in in (True, False):
            results = _search(pages, others, size or len(others) + len(pages), is_in, rng)
            for number, (page, result) in enumerate(zip(pages, results, strict=True)):
                if result.evidence:
                    is_right = result.matches[0].recording_id == page.recording.id
                    trials.append(Trial(number, page.kind, size, is_in, is_right, result.evidence))
    return trials


def _search(
    pages: Sequence[ReadPage], others: Sequence[Recording], size: int, is_in: bool, rng: np.random.Generator
) -> list[PageMatches]:
    """Each page in a gallery of the size: one for all pages where their own recordings are few in it."""
    if size >= 5 * len(pages):
        own = [page.recording for page in pages if is_in]
        picks = rng.choice(len(others), min(size - len(own), len(others)), replace=False)
        return find_recordings([page.reading for page in pages], [*own, *(others[k] for k in picks)], 1)
    results = []
    for page in pages:
        picks = rng.choice(len(others), size - is_in, replace=False)
        gallery = [*(others[k] for k in picks), *([page.recording] if is_in else [])]
        results += find_recordings([page.reading], gallery, 1)
    return results


def fit(trials: Sequence[Trial]) -> LogisticRegression:
    """The chance that the first is right, from ``excess`` and ``gap``."""
    return LogisticRegression(C=1.0).fit(features(trials), [trial.is_right for trial in trials])


def features(trials: Sequence[Trial]) -> np.ndarray:
    return np.array([(trial.evidence.excess, trial.evidence.gap) for trial in trials])


def describe(model: LogisticRegression, trials: Sequence[Trial]) -> Iterator[str]:
    """What the probability is worth, by size of the gallery and by kind of page."""
    groups = [(f"among {size or 'all'}", [t for t in trials if t.size == size]) for size in SIZES]
    groups += [(f"{kind}, among all", [t for t in trials if t.size is None and t.kind == kind]) for kind in set(KINDS)]
    for name, members in groups:
        chance = model.predict_proba(features(members))[:, 1]
        right, is_in = (np.array([getattr(t, field) for t in members]) for field in ("is_right", "is_in"))
        yield (
            f"{name}: rank 1 {right[is_in].mean():.3f} of {is_in.sum()}, in or not AUROC {roc_auc_score(is_in, chance):.4f}, "
            f"Brier {brier_score_loss(right, chance):.4f}, mean chance {chance.mean():.3f} (right {right.mean():.3f}), "
            f"told as not there {(chance[~is_in] < 0.5).mean():.3f}, found {(chance[is_in] >= 0.5).mean():.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with ptbxl/")
    parser.add_argument("--pages", type=int, default=200)
    arguments = parser.parse_args()
    own, others = choose(arguments.data, arguments.pages)
    report(search(list(read_pages(own)), others))


def report(trials: Sequence[Trial]) -> None:
    """Print the constants, fitted on half of the pages, and what they are worth on the other half."""
    large = [trial.evidence for trial in trials if trial.size is None]
    print(f"PRIOR_MEAN {np.mean([e.mean for e in large]):.3f}, PRIOR_SPREAD {np.mean([e.spread for e in large]):.3f}")
    model = fit([trial for trial in trials if trial.page // len(KINDS) % 2 == 0])
    print("WEIGHTS", [round(float(weight), 3) for weight in (*model.intercept_, *model.coef_[0])])
    for line in describe(model, [trial for trial in trials if trial.page // len(KINDS) % 2]):
        print(line)


if __name__ == "__main__":
    main()
