"""Pages against recordings in signal space: processor time of 1,000 pages against 100,000 recordings on one thread.

``NUM_PAGES`` pages in three layouts, as read without error, and ``NUM_RECORDINGS`` made-up recordings are timed and scaled:
the search by pages and recordings; unpacking rows of a store and bringing 500 Hz to 100 Hz by recordings alone. The
recordings are scaled sums of a few, with noise: what they are does not change the number of products.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ecgscan_ray.cores import set_torch_threads
from ecgscan_ray.evaluation.page_query import comparable
from ecgscan_ray.evaluation.signal_search import find_recordings
from ecgscan_ray.paper.layout import find_layout
from ecgscan_ray.reading.leads import Found, PageReading, StripReading
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.manifest import SPLITS, read_manifest
from ecgscan_ray.store.shards import iterate_rows
from tests.records import recording
from tests.stores import write_store

NUM_PAGES, NUM_RECORDINGS = 50, 20_000
PAGES, RECORDINGS = 1_000, 100_000
"""What times are scaled to."""
STORED = 1_000
"""Recordings at 500 Hz that are written and read again."""
LAYOUTS = ("3x4+1", "3x4", "12x1")


def gallery(count: int) -> Iterator[Recording]:
    """Recordings at 100 Hz: sums of made-up ones, so that they differ and cost little to make."""
    rng = np.random.default_rng(0)
    made_up = np.stack([recording(str(k), seed=k).signal_mv for k in range(64)])
    for number in range(count):
        first, second = rng.integers(len(made_up), size=2)
        signal = rng.uniform(0.3, 1.0, (12, 1)) * made_up[first] + np.roll(made_up[second], rng.integers(1000), 1)
        yield Recording(str(number), "made-up", None, signal.astype(np.float32), 100.0)


def page(shown: Recording, layout: str) -> PageReading:
    """A page of the recording, at 500 Hz and without error."""
    strips = []
    for strip in find_layout(layout).strips:
        seconds = strip.start_s + np.arange(round((strip.stop_s - strip.start_s) * 500)) / 500
        mv = np.interp(seconds, np.arange(shown.sig_len) / shown.fs, shown.signal_mv[strip.lead]).astype(np.float32)
        strips.append(StripReading(strip, mv, np.ones_like(mv), np.zeros((0, 2), np.float32)))
    found = Found(25.0, "given", 1.0)
    return PageReading(tuple(strips), 500.0, Found(layout, "given", 1.0), found, found, 0, (4.0, 4.0), 1.0, ())


def run() -> dict[str, float]:
    """Seconds of processor time for ``PAGES`` x ``RECORDINGS`` on one thread, by part, and memory."""
    set_torch_threads(1)
    shown = list(gallery(NUM_PAGES))
    pages = [page(own, LAYOUTS[k % len(LAYOUTS)]) for k, own in enumerate(shown)]
    made = list(gallery(NUM_RECORDINGS))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    results = find_recordings(pages, made)
    search_s = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first = np.mean([result.matches[0].recording_id == own.id for result, own in zip(results, shown, strict=True)])
    with tempfile.TemporaryDirectory() as folder:
        stored = [recording(str(k), fs=500.0, seed=k) for k in range(STORED)]
        store = write_store(Path(folder) / "store", stored, row_group=64)
        start = time.process_time()
        rows = [row for split in SPLITS for row in iterate_rows(store, read_manifest(store), split)]
        unpack_s = time.process_time() - start
    start = time.process_time()
    for row in rows:
        comparable(row)
    resample_s = time.process_time() - start
    parts = {
        "search_s": search_s * PAGES / NUM_PAGES * RECORDINGS / NUM_RECORDINGS,
        "unpack_500hz_s": unpack_s * RECORDINGS / len(rows),
        "resample_500hz_s": resample_s * RECORDINGS / len(rows),
    }
    figures = {f"one_thread.{name}": round(value, 1) for name, value in parts.items()}
    return figures | {"search_memory_mb": round((peak - before) / 1024, 1), "rank_1": float(first)}
