"""The batch: its contract as numpy arrays and as tensors, and how recordings become one.

Small integers are sent to the trainer (uint8 pages, int16 signals); they are normalised and masks are expanded on the
device (``training/tensors.py``).

Letters: N rows, 12 leads, T samples, H x W x C pixels, S = 16 strips of a page, L tokens, D and K dimensions of a teacher's
embeddings of signals and reports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ecgscan_ray import text
from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError, RecordingError
from ecgscan_ray.paper import Pages, Renderer, page_key
from ecgscan_ray.paper.as_read import as_read, draw_layout
from ecgscan_ray.paper.layout import MAX_STRIPS, find_layout, positive_weights
from ecgscan_ray.recording.leads import lead_residual_uv
from ecgscan_ray.recording.mean_beat import completed
from ecgscan_ray.recording.recording import Recording

if TYPE_CHECKING:
    from torch import Tensor

Integers = Sequence[int] | NDArray[np.int64]

UNKNOWN = -1
"""Key of a patient or report that is not known; never masked as a false negative."""

READ_STEP_MV = 1e-3
"""Step of the leads as read: far below what a page shows."""

CACHED_REPORTS = 16_384
"""Reports whose tokens a maker keeps: 10 MB at 48 tokens each."""

MAX_LAW_RESIDUAL_UV = 50.0
"""A recording that misses the lead laws by more than this is left out of soft leads (its own fault, e.g. a glitch)."""


class Rows(TypedDict):
    """What the stream and the step loop need of any task's batch; a task's own batch has these entries and more."""

    position: np.ndarray
    """int64 (N,): position in the plan."""
    recording_key: np.ndarray
    """int64 (N,), ``stable_key``."""
    page_ok: np.ndarray
    """bool (N,): false where a recording could not be drawn: its page is white, and it is counted, never dropped."""


class DeviceRows(TypedDict):
    """``Rows`` as tensors on the model's device."""

    position: Tensor
    recording_key: Tensor
    page_ok: Tensor


class RowMaker(Protocol):
    """Turns recordings into a task's batch; pages depend on settings, epoch, recording and view alone."""

    config: Config

    def make(self, recordings: Sequence[Recording], positions: Integers, epochs: Integers, view: int = 0) -> Any:
        """One batch of N recordings: a mapping with the entries of ``Rows``; arguments as of ``BatchMaker.make``."""


class PageArrays(TypedDict):
    """What a batch holds of its pages: pictures, or leads as read (``model.input``); with ``with_pages=False`` only
    ``page_ok``, all true."""

    image: NotRequired[np.ndarray]
    """uint8 (N, H, W, C)."""
    windows: NotRequired[np.ndarray]
    """float32 (N, S, 3): lead (-1 = no strip), start and end of the strip in s."""
    px_per_mm: NotRequired[np.ndarray]
    """float32 (N, 2), across and down."""
    frame_corners: NotRequired[np.ndarray]
    """float32 (N, 4, 2): corners of the frame, as fractions of the image's width and height."""
    layout: NotRequired[np.ndarray]
    """int64 (N,): index in ``page.layouts``."""
    read: NotRequired[np.ndarray]
    """int16 (N, 12, T) in steps of ``READ_STEP_MV``: the leads as read from the page; where nothing was read, mean beats."""
    read_bits: NotRequired[np.ndarray]
    """uint8 (N, 12, ceil(T / 8)): one bit a sample, 1 = read."""
    page_ok: np.ndarray
    """As in ``Rows``."""


class Batch(PageArrays):
    """Rows for training or evaluation, as numpy arrays."""

    signal: np.ndarray
    """int16 (N, 12, T) in steps of ``signal_scale_mv``; missing samples 0."""
    signal_scale_mv: np.ndarray
    """float32 (N,): mV a step."""
    valid_bits: np.ndarray
    """uint8 (N, 12, ceil(T / 8)): one bit a sample, 1 = recorded (``numpy.packbits``)."""
    token_ids: np.ndarray
    """int32 (N, L)."""
    attention_mask: np.ndarray
    """uint8 (N, L): 1 = token, 0 = padding."""
    has_signal: np.ndarray
    """bool (N,): at least one sample was recorded."""
    has_text: np.ndarray
    """bool (N,): the report has a finding."""
    law_ok: np.ndarray
    """bool (N,): the recording keeps the lead laws within ``MAX_LAW_RESIDUAL_UV``."""
    recording_key: np.ndarray
    """int64 (N,), ``stable_key``; so are the next two."""
    patient_key: np.ndarray
    report_key: np.ndarray
    position: np.ndarray
    """As in ``Rows``."""
    view: np.ndarray
    """int64 (N,): number of the page among those drawn of the recording."""
    teacher_signal: NotRequired[np.ndarray]
    """float32 (N, D): the frozen teacher's embedding of the signal."""
    teacher_report: NotRequired[np.ndarray]
    """float32 (N, K): its embedding of the report."""


Arrays = TypeVar("Arrays", bound=Mapping[str, object])


class DeviceBatch(TypedDict):
    """The same as tensors on the model's device, widened (``training.tensors.to_device``)."""

    image: NotRequired[Tensor]
    """uint8 (N, C, H, W)."""
    windows: NotRequired[Tensor]
    px_per_mm: NotRequired[Tensor]
    frame_corners: NotRequired[Tensor]
    layout: NotRequired[Tensor]
    shown: NotRequired[Tensor]
    """bool (N, 12, T): samples that the page shows."""
    derivable: NotRequired[Tensor]
    """bool (N, 12, T): samples that follow from these by the lead laws."""
    unseen: NotRequired[Tensor]
    """bool (N, 12, T): the others."""
    leads_mv: NotRequired[Tensor]
    """float32 (N, 12, T), mV: the leads as read; where nothing was read, mean beats (``recording.mean_beat.completed``)."""
    leads_shown: NotRequired[Tensor]
    """bool (N, 12, T): samples that were read."""
    page_ok: Tensor
    signal_mv: Tensor
    """float32 (N, 12, T), mV; missing samples 0."""
    centred_mv: Tensor
    """float32 (N, 12, T), mV: each lead without its mean over recorded samples; missing samples 0."""
    valid: Tensor
    """bool (N, 12, T): samples that were recorded."""
    token_ids: Tensor
    """int64 (N, l), cut to the longest report of the batch."""
    attention_mask: Tensor
    """uint8 (N, l)."""
    has_signal: Tensor
    has_text: Tensor
    law_ok: Tensor
    recording_key: Tensor
    patient_key: Tensor
    report_key: Tensor
    position: Tensor
    view: Tensor
    teacher_signal: NotRequired[Tensor]
    teacher_report: NotRequired[Tensor]


def stable_key(value: str | None) -> int:
    """A 63-bit hash that is the same in every process; ``UNKNOWN`` for nothing."""
    if not value:
        return UNKNOWN
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "big") >> 1


class BatchMaker:
    """Renders pages, tokenises reports and packs signals; keeps the renderer's caches between calls.

    For an encoder of leads (``model.input``) no page is drawn: ``paper.as_read`` gives what a reader would of it.

    Args:
        config: The run's settings.
        tokenizer: Fitted or loaded tokenizer.
        with_pages: Render pages; a teacher needs none.

    Raises:
        ConfigError: Pages of several scales: the decoder reads at one.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, *, with_pages: bool = True) -> None:
        page = config.page
        if page.speeds or page.gains or page.half_gain_precordial_probability:
            raise ConfigError(
                "training reads pages of one paper speed and one gain",
                where="page.speeds, page.gains, page.half_gain_precordial_probability",
                fix="Set page.paper_speed_mm_per_s and page.gain_mm_per_mv; 'ecgscan render' and 'rectifier' take the others.",
            )
        self.config, self.tokenizer = config, tokenizer
        self.with_pages = with_pages
        self.renderer = Renderer(config.page) if with_pages and config.model.input == "image" else None
        self._layouts = list(config.page.layouts)
        self._tokens = lru_cache(CACHED_REPORTS)(self._tokenise)  # reports repeat: "sinusrhythmus normales ekg"

    def make(self, recordings: Sequence[Recording], positions: Integers, epochs: Integers, view: int = 0) -> Batch:
        """One batch of N recordings.

        Args:
            recordings: The rows.
            positions: Plan position of each.
            epochs: Epoch of each; with seed, id and view it decides the page.
            view: Number of the page among those drawn of a recording.
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

    def keys(self, recordings: Sequence[Recording], epochs: Integers, view: int = 0) -> NDArray[np.uint64]:
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

    def _pages(self, recordings: Sequence[Recording], epochs: Integers, view: int) -> PageArrays:
        if not self.with_pages:
            return {"page_ok": np.ones(len(recordings), bool)}
        keys = self.keys(recordings, epochs, view)
        if self.renderer is None:
            return self._views(recordings, keys)
        try:
            return self._arrays(self.renderer.render(recordings, keys))
        except RecordingError:  # find the one at fault; the others keep their pages
            rows = [self._page_or_blank(self.renderer, r, key) for r, key in zip(recordings, keys, strict=True)]
            return concatenate(rows)

    def _views(self, recordings: Sequence[Recording], keys: NDArray[np.uint64]) -> PageArrays:
        """Layouts, and what a reader would give of pages with these keys."""
        page, model = self.config.page, self.config.model
        weights = positive_weights({find_layout(name).name: share for name, share in page.layouts.items()}, "layouts")
        layouts = [draw_layout(weights, page.paper_speed_mm_per_s, int(key)) for key in keys]
        views = []
        for recording, (_, windows), key in zip(recordings, layouts, keys, strict=True):
            signal = recording.resampled(model.signal_fs).signal_mv
            views.append(as_read(signal, model.signal_fs, windows, int(key)))
        read, bits = pack_read(views, model.signal_fs, model.sig_len)
        names = [find_layout(name).name for name in self._layouts]
        return {
            "windows": np.stack([windows for _, windows in layouts]),
            "layout": np.array([names.index(name) for name, _ in layouts], np.int64),
            "read": read,
            "read_bits": bits,
            "page_ok": np.array([np.isfinite(view).any() for view in views]),
        }

    def _page_or_blank(self, renderer: Renderer, recording: Recording, key: np.uint64) -> PageArrays:
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

    def _arrays(self, pages: Pages) -> PageArrays:
        return {
            "image": pages.image,
            "windows": pages.windows,
            "px_per_mm": pages.px_per_mm,
            "frame_corners": np.stack([truth.frame_corners() for truth in pages.truth]),
            "layout": np.array([self._layouts.index(truth.layout) for truth in pages.truth], np.int64),
            "page_ok": np.ones(len(pages.image), bool),
        }


def pack_read(views: Sequence[np.ndarray], fs: float, sig_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Leads as read, each (12, t) in mV with NaN, as ``read`` (N, 12, T) and ``read_bits`` of a batch."""
    padded = np.full((len(views), 12, sig_len), np.nan, np.float32)
    for row, view in zip(padded, views, strict=True):
        row[:, : view.shape[1]] = view[:, :sig_len]
    leads_mv = np.stack([completed(view, fs) for view in padded])
    steps = np.clip(np.rint(leads_mv / READ_STEP_MV), -32767, 32767).astype(np.int16)
    return steps, np.packbits(np.isfinite(padded), axis=-1)


def concatenate(batches: Sequence[Arrays]) -> Arrays:
    """Batches with the same entries as one, row after row."""
    columns = [cast(dict[str, np.ndarray], batch) for batch in batches]
    return cast(Arrays, {name: np.concatenate([column[name] for column in columns]) for name in columns[0]})
