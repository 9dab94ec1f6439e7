"""Files of pages against the recordings of a store: ``ecgscan find`` as a function."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ecgscan_ray.digitise import Options, PageReader, ReadPage, load_reader, page_label, read_files
from ecgscan_ray.errors import StoreError
from ecgscan_ray.evaluation.signal_search import NUM_REFINED, PageMatches, find_recordings
from ecgscan_ray.filesystem import absolute
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.manifest import SPLITS, Manifest, read_manifest
from ecgscan_ray.store.shards import iterate_rows

PAGES_AT_ONCE = 1000
"""Pages that are read before the store is: it is read once for each so many."""
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
    """

    file: str
    page: int
    matches: PageMatches | None
    reasons: str

    @property
    def name(self) -> str:
        """``scan.tif``, ``scan.tif#2``."""
        return page_label(self.file, self.page)

    @property
    def status(self) -> str:
        """``found``, ``not in the store`` or ``not read``."""
        if self.matches is None:
            return "not read"
        return "found" if self.matches.is_found else "not in the store"

    def describe(self) -> str:
        """One line: the page and its recording, or that it is not in the store."""
        if self.matches is None:
            return f"{self.name}: not read: {self.reasons}"
        if not self.matches.matches:
            return f"{self.name}: not in the store (nothing on the page can be compared)"
        first, chance = self.matches.matches[0], f"probability {self.matches.probability:.3f}"
        if self.matches.is_found:
            return f"{self.name}: {first.recording_id} ({first.source}), {chance}"
        return f"{self.name}: not in the store (nearest {first.recording_id}, {chance})"


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
        legible = [page.reading for page in read if page.reading is not None]
        matches = iter(find_recordings(legible, recordings() if legible else (), top))
        for page in read:
            if page.reading is None:
                yield FoundPage(page.file, page.page, None, page.problem)
            else:
                yield FoundPage(page.file, page.page, next(matches), "; ".join(page.reading.reasons))


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
