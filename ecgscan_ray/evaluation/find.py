"""Files of pages against the recordings of a store: ``ecgscan find`` as a function."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from ecgscan_ray.digitise import Options, PageReader, ReadPage, load_reader, page_label, read_files
from ecgscan_ray.errors import StoreError
from ecgscan_ray.evaluation.signal_search import NUM_REFINED, PageMatches, find_recordings
from ecgscan_ray.filesystem import absolute
from ecgscan_ray.paper.layout import PAGE_SECONDS, TRACE_MM, timed
from ecgscan_ray.reading.leads import PageReading
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.manifest import SPLITS, Manifest, read_manifest
from ecgscan_ray.store.shards import iterate_rows

PAGES_AT_ONCE = 1000
"""Pages that are read before the store is: it is read once for each so many."""
LEAST_QUALITY = 0.5
"""Of a reading that can say that a recording is not there."""
OTHER_SPEED = 50.0
"""mm/s: tried too where 25 mm/s is assumed. On 146 drawn pages of all kinds, a quarter of them at 50 mm/s, the area under the ROC
curve (recording there or not) is 0.979 with it and 0.955 without, and 0.991 on the 144 of ``LEAST_QUALITY``."""
COLUMNS = ("file", "page", "status", "probability", "rank", "recording_id", "source", "score", "shift_s", "reasons")
"""Of the table: a row for each match, or one for a page without any."""


@dataclass(frozen=True)
class FoundPage:
    """One page, and what was found.

    Attributes:
        file: As it was given, or relative to the folder that was given.
        page: Counted from 1.
        matches: ``None`` where the page was not read.
        reasons: Why it was not, or why the reading's quality is not 1.
        quality: Of the reading, 0..1; 0 = not read.
    """

    file: str
    page: int
    matches: PageMatches | None
    reasons: str
    quality: float = 0.0

    @property
    def name(self) -> str:
        """``scan.tif``, ``scan.tif#2``."""
        return page_label(self.file, self.page)

    @property
    def status(self) -> str:
        """``found``, ``not in the store``, ``cannot tell`` (a reading too poor to say that it is not) or ``not read``."""
        if self.matches is None:
            return "not read"
        if self.matches.is_found:
            return "found"
        return "not in the store" if self.matches.matches and self.quality >= LEAST_QUALITY else "cannot tell"

    def describe(self) -> str:
        """One line: the page and its recording, or that it is not in the store."""
        if self.matches is None:
            return f"{self.name}: not read: {self.reasons}"
        if not self.matches.matches:
            return f"{self.name}: cannot tell (nothing on the page can be compared)"
        first, chance = self.matches.matches[0], f"probability {self.matches.probability:.3f}"
        if self.matches.is_found:
            return f"{self.name}: {first.recording_id} ({first.source}), {chance}"
        doubt = "" if self.quality >= LEAST_QUALITY else f"quality of the reading {self.quality:.2f}, "
        return f"{self.name}: {self.status} ({doubt}nearest {first.recording_id}, {chance})"


def find_pages(
    pages: str | os.PathLike | Sequence[str | os.PathLike],
    store: str | os.PathLike,
    options: Options = Options(),
    *,
    top: int = 10,
    workers: int = 1,
    reader: Callable[[int], PageReader] = load_reader,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[FoundPage]:
    """Find the recording of each page in a store, all of whose splits are searched.

    A file that cannot be read ends nothing. ``PAGES_AT_ONCE`` pages are in memory at a time (about 0.5 MB each), and
    a block of recordings; see ``signal_search``.

    Args:
        pages: Files, folders with all their subfolders, or lists (``@names.txt``); paths or URIs.
        store: URI of a prepared store.
        options: What is known of the pages.
        top: Matches of each page, at most 100.
        workers: Processes that read pages; 0 reads in this process.
        reader: Loads the reader in each process.
        progress: Called with the number of files read and the number of all files.

    Yields:
        Each page of each file, by file and page within those that are searched together.

    Raises:
        InputError: Nothing to read, an option that no page can have, or the reader cannot be loaded.
        StoreError: Not a store, one without recordings, or a damaged one.
    """
    uri = absolute(os.fspath(store))
    manifest = read_manifest(uri)
    if not any(manifest.rows(split) for split in SPLITS):
        raise StoreError("a store without recordings", where=uri)
    readings = read_files(pages, options, workers=workers, reader=reader, progress=progress)
    return _found(readings, lambda: _recordings(uri, manifest), min(top, NUM_REFINED))


def _found(
    readings: Iterator[ReadPage], recordings: Callable[[], Iterable[Recording]], top: int
) -> Iterator[FoundPage]:
    while read := sorted(islice(readings, PAGES_AT_ONCE), key=lambda page: (page.file, page.page)):
        tried = [reading for page in read for reading in _at_speeds(page)]
        matches = iter(find_recordings(tried, recordings() if tried else (), top))
        for page in read:
            yield _best(page, [(next(matches), reading) for reading in _at_speeds(page)])


def _at_speeds(page: ReadPage) -> list[PageReading]:
    """The page as read, and at ``OTHER_SPEED`` too where 25 mm/s is assumed (a row is as long at both); none = not read."""
    reading = page.reading
    if reading is None:
        return []
    if reading.speed.by != "assumed" or reading.speed.value != TRACE_MM / PAGE_SECONDS:
        return [reading]
    factor = OTHER_SPEED / reading.speed.value
    strips = timed(reading.layout.text, OTHER_SPEED).strips
    other = replace(
        reading,
        fs=reading.fs * factor,
        speed=replace(reading.speed, value=OTHER_SPEED),
        strips=tuple(replace(read, strip=strip) for read, strip in zip(reading.strips, strips, strict=True)),
    )
    return [reading, other]


def _best(page: ReadPage, results: list[tuple[PageMatches, PageReading]]) -> FoundPage:
    """The speed at which the page's recording is found; the one that was read where it is found at none."""
    if page.reading is None:
        return FoundPage(page.file, page.page, None, page.problem)
    matches, reading = max(results, key=lambda result: result[0].probability)
    if not matches.is_found:
        matches, reading = results[0]
    reasons = page.reading.reasons + (() if reading is page.reading else (f"found at {OTHER_SPEED:g} mm/s",))
    return FoundPage(page.file, page.page, matches, "; ".join(reasons), page.reading.quality)


def _recordings(uri: str, manifest: Manifest) -> Iterator[Recording]:
    for split in SPLITS:
        yield from iterate_rows(uri, manifest, split)


def table(results: Iterable[FoundPage]) -> str:
    """CSV of ``COLUMNS``, in the order given."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for result in results:
        page = {"file": result.file, "page": result.page, "status": result.status, "reasons": result.reasons}
        matches = result.matches.matches if result.matches else ()
        if not matches:
            writer.writerow(page)
        for rank, match in enumerate(matches, start=1):
            row = page | {"rank": rank, "recording_id": match.recording_id, "source": match.source}
            row |= {"score": f"{match.score:.4f}", "shift_s": f"{match.shift_s:.2f}"}
            if result.matches and rank == 1:
                row["probability"] = f"{result.matches.probability:.4f}"
            writer.writerow(row)
    return text.getvalue()
