"""Features of one part of a store under one condition: its pages are drawn and read once, for all encoders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ecgscan_ray import text
from ecgscan_ray.batch import Batch, BatchMaker
from ecgscan_ray.benchmark.conditions import RECORDING, Condition, with_pages
from ecgscan_ray.benchmark.encoders import (
    GENERIC,
    ClassifierViews,
    EncoderSpec,
    GenericEncoder,
    RunViews,
    Vectors,
    generic_config,
)
from ecgscan_ray.benchmark.facts import Part
from ecgscan_ray.benchmark.feature_files import FeatureTable, write_features
from ecgscan_ray.benchmark.readings import ReadOnce
from ecgscan_ray.config import Config
from ecgscan_ray.evaluation.features import EVALUATION_EPOCH, in_batches
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.schema import unpack
from ecgscan_ray.store.shards import read_row_groups
from ecgscan_ray.training.tensors import to_device

BATCH = 16
"""Recordings at once."""


@dataclass(frozen=True)
class Piece:
    """What one call makes.

    Attributes:
        condition: Of the pages.
        part: Of the store.
        specs: Encoders that lack this file.
        home: URI of the benchmark's folder, where what was read of pages is kept.
    """

    condition: Condition
    part: Part
    specs: tuple[EncoderSpec, ...]
    home: str


class Extractor:
    """Keeps models, makers and their caches between pieces.

    Args:
        store: URI of the store.
        device: Where the models live.
    """

    def __init__(self, store: str, device: str = "cpu") -> None:
        self._store, self._device = store, device
        self._runs: dict[tuple[str, str], RunViews | ClassifierViews] = {}
        self._generic: dict[str, GenericEncoder] = {}
        self._makers: dict[object, BatchMaker | ReadOnce] = {}
        self._begun: dict[object, ReadOnce] = {}

    def write(self, piece: Piece) -> None:
        """Make the files of a piece."""
        parts: dict[str, list[Vectors]] = defaultdict(list)
        keys, ok, start = [], [], 0
        self._begun = {}
        for recordings in in_batches(self._recordings(piece.part), BATCH):
            vectors, key, page_ok = self._batch(recordings, start, piece)
            start += len(recordings)
            for name, pair in vectors.items():
                parts[name].append(pair)
            keys.append(key)
            ok.append(page_ok)
        for spec in piece.specs:
            features, aligned = (np.concatenate(values) for values in zip(*parts[spec.name], strict=True))
            finite = np.isfinite(features).all(1) & np.isfinite(aligned).all(1)
            table = FeatureTable(np.concatenate(keys), np.concatenate(ok) & finite, features, aligned)
            write_features(spec, piece.condition, piece.part, table)
        for maker in self._begun.values():
            maker.end()

    def _recordings(self, part: Part) -> Iterator[Recording]:
        remaining = part.rows
        for group in range(len(part.shard.row_groups)):
            if remaining > 0:
                recordings = unpack(read_row_groups(self._store, part.shard, [group]))[:remaining]
                remaining -= len(recordings)
                yield from recordings

    def _batch(
        self, recordings: Sequence[Recording], start: int, piece: Piece
    ) -> tuple[dict[str, Vectors], np.ndarray, np.ndarray]:
        """Encoder -> vectors, keys, and which pages could be drawn for all of them."""
        vectors: dict[str, Vectors] = {}
        batches: dict[object, Batch] = {}
        for (uri, _), specs in _by_run(piece.specs).items():
            generic = specs[0].view == GENERIC
            views = None if generic else self._run(specs[0])
            config = generic_config() if views is None else views.config
            kind = self._maker(config, views, piece)
            if kind not in batches:
                count = len(recordings)
                positions = range(start, start + count)
                batches[kind] = self._makers[kind].make(recordings, positions, [EVALUATION_EPOCH] * count)
            batch = to_device(batches[kind], self._device, config.model.signal_fs)
            if views is None:
                features = self._generic_encoder(uri)(batch["image"]).cpu().numpy()
                vectors |= {spec.name: (features, features[:, :0]) for spec in specs}
                continue
            compute = views.of_recordings if piece.condition == RECORDING else views.of_pages
            computed = compute(batch, {spec.view for spec in specs})
            vectors |= {spec.name: computed[spec.view] for spec in specs}
        ok = np.logical_and.reduce([self._has_content(batch, piece) for batch in batches.values()])
        return vectors, next(iter(batches.values()))["recording_key"], ok

    def _has_content(self, batch: Batch, piece: Piece) -> np.ndarray:
        return batch["has_signal"] if piece.condition == RECORDING else np.asarray(batch["page_ok"], bool)

    def _maker(self, config: Config, views: RunViews | ClassifierViews | None, piece: Piece) -> object:
        """Key of the maker of a piece's batches; encoders that take the same pages share it."""
        model, page, condition = config.model, config.page, piece.condition
        size = (page.height, page.width, page.channels, page.fit) if model.input == "image" else ()
        kind = (condition.name, model.input, model.signal_fs, size, id(views) if condition == RECORDING else None)
        if kind not in self._makers:
            tokenizer = text.fit_tokenizer([], 300) if views is None else views.tokenizer
            if condition == RECORDING:
                self._makers[kind] = BatchMaker(config, tokenizer, with_pages=False)
            elif model.input == "leads" and not condition.as_trained:
                self._makers[kind] = ReadOnce(with_pages(config, condition), tokenizer)
            else:
                self._makers[kind] = BatchMaker(with_pages(config, condition), tokenizer)
        maker = self._makers[kind]
        if isinstance(maker, ReadOnce) and kind not in self._begun:
            maker.begin(piece.home, condition, piece.part)
            self._begun[kind] = maker
        return kind

    def _run(self, spec: EncoderSpec) -> RunViews | ClassifierViews:
        key = spec.uri, spec.which
        if key not in self._runs:
            self._runs[key] = (ClassifierViews if spec.classifier else RunViews)(spec.uri, spec.which, self._device)
        return self._runs[key]

    def _generic_encoder(self, uri: str) -> GenericEncoder:
        if uri not in self._generic:
            torch.manual_seed(0)
            self._generic[uri] = GenericEncoder(uri).to(self._device).eval()
        return self._generic[uri]


def _by_run(specs: Sequence[EncoderSpec]) -> dict[tuple[str, str], list[EncoderSpec]]:
    groups: dict[tuple[str, str], list[EncoderSpec]] = defaultdict(list)
    for spec in specs:
        groups[spec.uri, spec.which].append(spec)
    return groups
