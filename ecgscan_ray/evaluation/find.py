"""Files of pages against the recordings of a store: ``ecgscan find`` as a function."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from ecgscan_ray.digitise import Options, PageReader, ReadPage, load_reader, read_files
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
        page: As read; without a reading there are no matches.
        matches: See ``PageMatches``.
    """

    page: ReadPage
    matches: PageMatches

    @property
    def status(self) -> str:
        """``found``, ``not in the store`` or ``not read``."""
        if self.page.reading is None:
            return "not read"
        return "found" if self.matches.is_found else "not in the store"


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
    while read := list(islice(readings, PAGES_AT_ONCE)):
        read.sort(key=lambda page: (page.file, page.page))
        legible = [page.reading for page in read if page.reading is not None]
        matches = iter(find_recordings(legible, recordings() if legible else (), top))
        for page in read:
            yield FoundPage(page, PageMatches((), None) if page.reading is None else next(matches))


def _recordings(uri: str, manifest: Manifest) -> Iterator[Recording]:
    for split in SPLITS:
        yield from iterate_rows(uri, manifest, split)


def table(results: Iterable[FoundPage]) -> str:
    """CSV of ``COLUMNS``, in the order given."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for result in results:
        page, matches = result.page, result.matches
        reasons = page.problem if page.reading is None else "; ".join(page.reading.reasons)
        row = {"file": page.file, "page": page.page, "status": result.status, "reasons": reasons}
        if page.reading is None or not matches.matches:
            writer.writerow(row)
        for rank, match in enumerate(matches.matches, start=1):
            numbers = {"score": f"{match.score:.4f}", "shift_s": f"{match.shift_s:.2f}"}
            first = {"probability": f"{matches.probability:.4f}"} if rank == 1 else {}
            named = {"rank": rank, "recording_id": match.recording_id, "source": match.source}
            writer.writerow(row | named | numbers | first)
    return text.getvalue()
