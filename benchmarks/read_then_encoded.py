"""What reading costs an encoder of leads: a linear probe on pages as read, and on the recorded strips in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from ecgscan_ray.batch import Batch, BatchMaker, Integers, pack_read
from ecgscan_ray.evaluation.bootstrap import Estimate, PatientBootstrap
from ecgscan_ray.evaluation.classes import SUPERCLASS_TASK
from ecgscan_ray.evaluation.features import Features, Maker, extract
from ecgscan_ray.evaluation.probe import fit_probe
from ecgscan_ray.reading.read_pages import ReadPages
from ecgscan_ray.reading.weights import load_networks
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.store.manifest import read_manifest
from ecgscan_ray.store.shards import iterate_rows
from ecgscan_ray.tasks.loading import load_run

PAGES = 600
"""Test recordings at most."""
BATCH = 32


def read_then_encoded(run: str) -> dict[str, Estimate]:
    """Superclass macro AUROC on pages of the run's test recordings, drawn as the run's settings say.

    Args:
        run: URI of a finished pretraining; its store is where it was. No figures of an encoder of pictures.
    """
    loaded, store = load_run(run), RunFolder(run).environment()["store"]
    if loaded.config.model.input != "leads":
        return {}
    config, manifest = loaded.config, read_manifest(store)
    settings, fitted_on = config.evaluation, BatchMaker(loaded.config, loaded.tokenizer)

    def features(maker: Maker, split: str, count: int, view: int = 0) -> Features:
        recordings = islice(iterate_rows(store, manifest, split), count)
        models, fs = {"": loaded.model}, config.model.signal_fs
        return extract(models, maker, recordings, batch_size=BATCH, fs=fs, view=view, everything=False)

    def labelled(part: Features) -> tuple[np.ndarray, np.ndarray]:
        labels, rows = SUPERCLASS_TASK.of(part)
        return part["features"][rows], labels[rows]

    views = [labelled(features(fitted_on, "train", settings.probe_rows, view)) for view in range(settings.probe_views)]
    train = [np.concatenate(column) for column in zip(*views, strict=True)]
    probe = fit_probe(train[0], train[1], *labelled(features(fitted_on, "validation", settings.probe_rows)))

    reader = _Kept(ReadPages(config, loaded.tokenizer, load_networks()))
    read = features(reader, "test", PAGES)
    recorded = features(_RecordedStrips(reader.batches, config.model.signal_fs), "test", PAGES)
    scores, others = (probe.scores(labelled(part)[0]) for part in (read, recorded))
    labels, rows = labelled(read)[1], SUPERCLASS_TASK.of(read)[1]
    bootstrap = PatientBootstrap(read["patient_key"]).of(rows)
    return {
        "macro_auroc": bootstrap.macro_auroc(scores, labels),
        "recorded_strips.macro_auroc": bootstrap.macro_auroc(others, labels),
        "minus_recorded_strips": bootstrap.macro_auroc_difference(scores, others, labels),
        "pages": Estimate(float(len(rows))),
    }


def recorded_strips(batch: Batch, fs: float) -> Batch:
    """The batch with the recording's samples wherever the page was read, each lead around its median there."""
    samples = batch["signal"].shape[-1]
    known, was_read = (
        np.unpackbits(bits, axis=-1, count=samples).astype(bool) for bits in (batch["valid_bits"], batch["read_bits"])
    )
    signal = batch["signal"] * batch["signal_scale_mv"][:, None, None]
    strips = np.where(known & was_read, signal, np.nan).astype(np.float32)
    shown = np.isfinite(strips).any(-1)
    strips[shown] -= np.nanmedian(strips[shown], axis=-1, keepdims=True)
    read, bits = pack_read(list(strips), fs, samples)
    return {**batch, "read": read, "read_bits": bits}


class _Kept:
    """A maker whose batches are kept."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker
        self.batches: list[Batch] = []

    def make(self, recordings: Sequence[Recording], positions: Integers, epochs: Integers) -> Batch:
        self.batches.append(self._maker.make(recordings, positions, epochs))
        return self.batches[-1]


class _RecordedStrips:
    """Gives batches again, as ``recorded_strips``."""

    def __init__(self, batches: Sequence[Batch], fs: float) -> None:
        self._batches: Iterator[Batch] = (recorded_strips(batch, fs) for batch in batches)

    def make(self, recordings: Sequence[Recording], positions: Integers, epochs: Integers) -> Batch:
        return next(self._batches)
