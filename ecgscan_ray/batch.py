"""What travels from the stream to the trainer: recordings become numpy arrays with a page for each.

Small integers travel (uint8 pages, int16 signals); normalising and expanding masks happen on the device
(``training/tensors.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ecgscan_ray import text
from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError, RecordingError
from ecgscan_ray.paper import Pages, Renderer, page_key
from ecgscan_ray.paper.layout import MAX_STRIPS
from ecgscan_ray.recording.leads import lead_residual_uv
from ecgscan_ray.recording.recording import Recording

Batch = dict[str, np.ndarray]

UNKNOWN = -1
"""Key of a patient or report that is not known; never masked as a false negative."""

TOKENISED_REPORTS = 16_384
"""Reports whose tokens a maker keeps: 10 MB at 48 tokens each."""

MAX_LAW_RESIDUAL_UV = 50.0
"""A recording that misses the lead laws by more than this is left out of soft leads (its own fault, e.g. a glitch)."""


def stable_key(value: str | None) -> int:
    """A 63-bit hash that is the same in every process; ``UNKNOWN`` for nothing."""
    if not value:
        return UNKNOWN
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "big") >> 1


class BatchMaker:
    """Renders pages, tokenises reports and packs signals; keeps the renderer's caches between calls.

    Args:
        config: The run's settings.
        tokenizer: Fitted or loaded tokenizer.

    Raises:
        ConfigError: Pages of several scales: the decoder reads at one.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        page = config.page
        if page.speeds or page.gains or page.half_gain_precordial_probability:
            raise ConfigError(
                "training reads pages of one paper speed and one gain",
                where="page.speeds, page.gains, page.half_gain_precordial_probability",
                fix="Set page.paper_speed_mm_per_s and page.gain_mm_per_mv; 'ecgscan render' takes the others.",
            )
        self.config, self.tokenizer = config, tokenizer
        # nothing is drawn for a teacher, which never sees a page
        self.renderer = Renderer(config.page) if config.task == "pretrain" else None
        self._layouts = list(config.page.layouts)
        self._tokens = lru_cache(TOKENISED_REPORTS)(self._tokenise)  # reports repeat: "sinusrhythmus normales ekg"

    def make(
        self, recordings: Sequence[Recording], positions: Sequence[int], epochs: Sequence[int], view: int = 0
    ) -> Batch:
        """One batch.

        Args:
            recordings: N recordings.
            positions: Plan position of each.
            epochs: Epoch of each; with seed, id and view it decides the page.
            view: Number of the page among those drawn of a recording.

        Returns:
            ``image`` uint8 (N, H, W, C); ``signal`` int16 (N, 12, T) in steps of ``signal_scale_mv`` (N,), missing
            samples 0; ``valid_bits`` uint8 (N, 12, ceil(T / 8)); ``windows`` float32 (N, 16, 3); ``px_per_mm`` (N, 2);
            ``frame_corners`` float32 (N, 4, 2), fractions of the image; ``layout`` int64 (N,), place in ``page.layouts``;
            ``token_ids`` int32, ``attention_mask`` uint8 (N, L); ``has_signal``, ``has_text``, ``page_ok``, ``law_ok``
            bool (N,); ``recording_key``, ``patient_key``, ``report_key``, ``position``, ``view`` int64 (N,). A
            recording that cannot be drawn has ``page_ok`` False and a white page; it is counted, never dropped. For a
            teacher all that concerns pages is left out, and ``page_ok`` is true.
        """
        reports = [text.normalise(r.report or "") if text.is_finding(r.report) else "" for r in recordings]
        tokens = [self._tokens(report) for report in reports]
        signals = [self._signal(recording) for recording in recordings]
        return {
            **self._pages(recordings, epochs, view),
            "signal": np.stack([signal for signal, _, _ in signals]),
            "signal_scale_mv": np.array([scale for _, scale, _ in signals], np.float32),
            "valid_bits": np.stack([bits for _, _, bits in signals]),
            "token_ids": np.stack([ids for ids, _ in tokens]),
            "attention_mask": np.stack([mask for _, mask in tokens]),
            "has_signal": np.array([bits.any() for _, _, bits in signals]),
            "has_text": np.array([bool(report) for report in reports]),
            "law_ok": np.array([lead_residual_uv(r.signal_mv) <= MAX_LAW_RESIDUAL_UV for r in recordings]),
            "recording_key": np.array([stable_key(f"{r.source}/{r.id}") for r in recordings], np.int64),
            "patient_key": np.array(
                [stable_key(r.patient_id and f"{r.source}/{r.patient_id}") for r in recordings], np.int64
            ),
            "report_key": np.array([stable_key(report) for report in reports], np.int64),
            "position": np.array(positions, np.int64),
            "view": np.full(len(recordings), view, np.int64),
        }

    def keys(self, recordings: Sequence[Recording], epochs: Sequence[int], view: int = 0) -> NDArray[np.uint64]:
        """The key that decides each page's looks: uint64 (N,)."""
        pairs = zip(epochs, recordings, strict=True)
        return np.array([page_key(self.config.seed, epoch, r.id, view) for epoch, r in pairs], np.uint64)

    def _tokenise(self, report: str) -> tuple[np.ndarray, np.ndarray]:
        ids, mask = text.encode(self.tokenizer, [report], self.config.model.text.max_length)
        return ids[0], mask[0]

    def _signal(self, recording: Recording) -> tuple[np.ndarray, float, np.ndarray]:
        """The recording at the model's rate and length: int16 (12, T), mV a step, validity bits."""
        model = self.config.model
        signal = recording.resampled(model.signal_fs).signal_mv[:, : model.sig_len]
        known = np.isfinite(signal)
        # 1 uV where it fits into int16 (32.7 mV), else the finest step that does
        scale = max(1e-3, float(np.max(np.abs(signal), initial=0.0, where=known)) / 32767)
        packed, valid = np.zeros((12, model.sig_len), np.int16), np.zeros((12, model.sig_len), bool)
        packed[:, : signal.shape[1]] = np.where(known, np.rint(signal / scale), 0)
        valid[:, : signal.shape[1]] = known
        return packed, scale, np.packbits(valid, axis=-1)

    def _pages(self, recordings: Sequence[Recording], epochs: Sequence[int], view: int) -> Batch:
        if self.renderer is None:
            return {"page_ok": np.ones(len(recordings), bool)}
        keys = self.keys(recordings, epochs, view)
        try:
            return self._arrays(self.renderer.render(recordings, keys))
        except RecordingError:  # find the one at fault; the others keep their pages
            rows = [self._page_or_blank(self.renderer, r, key) for r, key in zip(recordings, keys, strict=True)]
            return concatenate(rows)

    def _page_or_blank(self, renderer: Renderer, recording: Recording, key: np.uint64) -> Batch:
        try:
            return self._arrays(renderer.render([recording], np.array([key])))
        except RecordingError:
            page = self.config.page
            return {
                "image": np.full((1, page.height, page.width, page.channels), 255, np.uint8),
                "windows": np.full((1, MAX_STRIPS, 3), -1, np.float32),
                "px_per_mm": np.zeros((1, 2), np.float32),
                "frame_corners": np.zeros((1, 4, 2), np.float32),
                "layout": np.zeros(1, np.int64),
                "page_ok": np.zeros(1, bool),
            }

    def _arrays(self, pages: Pages) -> Batch:
        return {
            "image": pages.image,
            "windows": pages.windows,
            "px_per_mm": pages.px_per_mm,
            "frame_corners": np.stack([truth.frame_corners() for truth in pages.truth]),
            "layout": np.array([self._layouts.index(truth.layout) for truth in pages.truth], np.int64),
            "page_ok": np.ones(len(pages.image), bool),
        }


def concatenate(batches: Sequence[Batch]) -> Batch:
    """Batches of the same keys, row after row."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
