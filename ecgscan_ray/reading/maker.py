"""The batch that the reader's three networks are trained on: its contract, and how recordings become one.

Letters: N pages, V = 4 pictures of each; CoarseNet sees 384 x 512 px, PageNet 320 x 320, RowNet 240 x 1024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np

from ecgscan_ray.batch import DeviceRows, Integers, Rows, stable_key
from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError, RecordingError
from ecgscan_ray.paper import Renderer, page_key
from ecgscan_ray.reading.samples import row_sample, sharpened
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.rectification.samples import Drawn, coarse_sample, looks, page_sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

COARSE_VIEWS = 4
"""Whole pictures made of each rendered page: they cost little once it is drawn."""


class SampleArrays(TypedDict):
    """What is cut out of one page, or of N with a first axis."""

    coarse: np.ndarray
    """uint8 (N, V, 384, 512, 3): whole pictures."""
    coarse_target: np.ndarray
    """float32 (N, V, 3, 48, 64): page (0 or 1), then x and y from the trace frame's middle, mm / 100, as of ``CoarseNet``."""
    coarse_turns: np.ndarray
    """int64 (N, V): quarter turns clockwise, 0..3."""
    page: np.ndarray
    """uint8 (N, 320, 320, 3): a part of the page, rectified up to the coarse pose's error."""
    page_target: np.ndarray
    """float32 (N, 24, 40, 40): as ``PAGE_CHANNELS``; vectors of the grid are unit or 0, marks are in 0..1."""
    row: np.ndarray
    """uint8 (N, 240, 1024, 3): a part of a row, rectified up to the grid's error."""
    row_height: np.ndarray
    """float32 (N, 1024): the ink's height in each column, px from the top, of trace or calibration pulse; NaN = neither."""
    row_trace: np.ndarray
    """bool (N, 1024): the column has a trace."""


class SampleBatch(SampleArrays, Rows):
    """Samples of N pages. Where ``page_ok`` is false, pictures are white and targets say that nothing is there."""


class DeviceSamples(DeviceRows):
    """``SampleBatch`` as tensors on the model's device; pictures have their channels before height and width."""

    coarse: Tensor
    coarse_target: Tensor
    coarse_turns: Tensor
    page: Tensor
    page_target: Tensor
    row: Tensor
    row_height: Tensor
    row_trace: Tensor


class SampleMaker:
    """Renders pages and cuts samples out of them; keeps the renderers' caches between calls.

    Args:
        config: The run's settings.

    Raises:
        ConfigError: Pages are grey: the networks take RGB.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        kinds = config.page_kinds()
        if any(page.channels != 3 for _, page in kinds):
            raise ConfigError("the reader's networks take RGB", where="page.channels", fix="Set page.channels=3.")
        shares = np.array([share for share, _ in kinds])
        self._shares = shares / shares.sum()
        self._renderers = [Renderer(page) for _, page in kinds]

    def make(
        self, recordings: Sequence[Recording], positions: Integers, epochs: Integers, view: int = 0
    ) -> SampleBatch:
        """Samples of one page of each recording; arguments as of ``BatchMaker.make``."""
        pairs = zip(recordings, epochs, strict=True)
        samples = [self._samples(r, page_key(self.config.seed, epoch, r.id, view)) for r, epoch in pairs]
        joined = {name: np.stack([cast(dict, sample)[name] for sample, _ in samples]) for name in samples[0][0]}
        return cast(
            SampleBatch,
            {
                **joined,
                "position": np.array(positions, np.int64),
                "recording_key": np.array([stable_key(f"{r.source}/{r.id}") for r in recordings], np.int64),
                "page_ok": np.array([ok for _, ok in samples]),
            },
        )

    def _samples(self, recording: Recording, key: int) -> tuple[SampleArrays, bool]:
        """A pure function of recording, settings and key; false and blank where the recording cannot be drawn."""
        rng = np.random.default_rng(key)
        renderer = self._renderers[rng.choice(len(self._renderers), p=self._shares)]
        signal_mv, fs = sharpened(rng, recording.signal_mv, recording.fs)
        recording = replace(recording, signal_mv=signal_mv, fs=fs)
        try:
            pages = renderer.render([recording], np.array([key], np.uint64))
        except RecordingError:
            return _blank(), False
        return cut_samples(rng, Drawn(pages.image[0], pages.truth[0], recording.signal_mv, recording.fs)), True


def cut_samples(rng: np.random.Generator, source: Drawn) -> SampleArrays:
    """The samples of one page, without the first axis."""
    pictures, targets, turns = zip(*(coarse_sample(rng, source) for _ in range(COARSE_VIEWS)), strict=True)
    page, page_target = page_sample(rng, source)
    row, row_height, row_trace = row_sample(rng, source, int(rng.integers(source.truth.layout_at_speed().rows)))
    return {
        "coarse": np.stack([_seen(rng, picture) for picture in pictures]),
        "coarse_target": np.stack(targets).astype(np.float32),
        "coarse_turns": np.array(turns, np.int64),
        "page": _seen(rng, page),
        "page_target": page_target.astype(np.float32),
        "row": _seen(rng, row),
        "row_height": row_height.astype(np.float32),
        "row_trace": row_trace,
    }


def _seen(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The picture under other light, uint8."""
    return np.rint(looks(rng, image) * 255).astype(np.uint8)


def _blank() -> SampleArrays:
    return {
        "coarse": np.full((COARSE_VIEWS, 384, 512, 3), 255, np.uint8),
        "coarse_target": np.zeros((COARSE_VIEWS, 3, 48, 64), np.float32),
        "coarse_turns": np.zeros(COARSE_VIEWS, np.int64),
        "page": np.full((320, 320, 3), 255, np.uint8),
        "page_target": np.zeros((24, 40, 40), np.float32),
        "row": np.full((240, 1024, 3), 255, np.uint8),
        "row_height": np.full(1024, np.nan, np.float32),
        "row_trace": np.zeros(1024, bool),
    }


def samples_to_device(batch: SampleBatch, device: torch.device | str) -> DeviceSamples:
    """The batch as tensors; bytes stay bytes until a network takes them."""
    import torch  # not where samples are made

    tensors = {
        name: torch.from_numpy(array).to(device, non_blocking=True)
        for name, array in cast(dict[str, np.ndarray], batch).items()
    }
    tensors |= {name: tensors[name].movedim(-1, -3) for name in ("coarse", "page", "row")}
    return cast(DeviceSamples, tensors)
