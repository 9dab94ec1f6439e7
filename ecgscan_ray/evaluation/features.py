"""From recordings to features: pages at fixed keys, through one or several models at once, batch by batch.

Only features and one figure per recording and lead are kept, so that memory grows by a few kB per recording.

Letters: N recordings, 12 leads, T samples, D aligned features, P features for a classifier, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch

from ecgscan_ray.batch import Batch, DeviceBatch, Integers
from ecgscan_ray.evaluation.model import PageModel
from ecgscan_ray.evaluation.redraw import MASKS, lead_pearson, lead_residual_mv, project_on_laws, recording_rmse
from ecgscan_ray.recording.labels import SUPERCLASSES, superclasses
from ecgscan_ray.recording.mean_beat import mean_beat_redraw
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.training.tensors import to_device

Item = TypeVar("Item")

EVALUATION_EPOCH = 2**31 + 1
"""Epoch in the page keys of evaluation (the following ones for more views); no training page has it."""


class Maker(Protocol):
    """The part of ``batch.BatchMaker`` that is used here: recordings, plan positions and epochs to a numpy batch."""

    def make(self, recordings: Sequence[Recording], positions: Integers, epochs: Integers) -> Batch: ...


@dataclass(frozen=True)
class Example:
    """One recording as the report shows it: (12, T) arrays and its page (H, W, C)."""

    id: str
    page: np.ndarray
    truth_mv: np.ndarray
    redrawn_mv: np.ndarray
    valid: np.ndarray
    shown: np.ndarray
    derivable: np.ndarray


@dataclass(frozen=True)
class Features:
    """Columns of N rows; the first axis of every array is N.

    Attributes:
        ids: Recording ids.
        columns: ``page``, ``features`` (``<model>.page`` for others than the first model), ``labels`` (N, C) bool,
            ``patient_key`` and so on.
        examples: The first few recordings.
        codes: The labels of each recording, as the archive gives them.
        skipped: Recordings whose page could not be drawn.
    """

    ids: list[str]
    columns: dict[str, np.ndarray]
    examples: list[Example]
    skipped: list[str]
    codes: list[frozenset[str]] = field(default_factory=list)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.ids)


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items; the last may be shorter."""
    pending = iter(items)
    while batch := list(islice(pending, size)):
        yield batch


def class_labels(recordings: Sequence[Recording]) -> np.ndarray:
    """(N, 5) bool, columns in the order of ``SUPERCLASSES``."""
    return np.array([[name in superclasses(r.labels) for name in SUPERCLASSES] for r in recordings], dtype=bool)


@torch.inference_mode()
def extract(
    models: Mapping[str, PageModel],
    maker: Maker,
    recordings: Iterable[Recording],
    *,
    batch_size: int,
    fs: int,
    view: int = 0,
    everything: bool = True,
    num_examples: int = 0,
    device: torch.device | str = "cpu",
) -> Features:
    """Draw each recording's evaluation page and run every model over it.

    Args:
        models: Name -> model in evaluation mode. The columns of the first have plain names (``page``), those of the
            others the prefix of their name (``random.page``). Only the first model's redrawn leads are scored.
        maker: Draws the pages.
        recordings: Read once.
        batch_size: Pages per forward pass.
        fs: Rate of the truth and of the redrawn leads, Hz.
        view: Which page of each recording: 0, 1, ... are different ones, the same at every call.
        everything: Signal, text and all about redrawn leads too; else page features and the error on shown leads.
        num_examples: Recordings kept as ``Example``.
        device: Where the models live.
    """
    extraction = Features([], {}, [], [], [])
    parts: list[dict[str, np.ndarray]] = []
    for batch_recordings in in_batches(recordings, batch_size):
        start = len(extraction.ids) + len(extraction.skipped)
        positions = np.arange(start, start + len(batch_recordings), dtype=np.int64)
        batch = maker.make(batch_recordings, positions, np.full(len(positions), EVALUATION_EPOCH + view))
        page_ok = np.asarray(batch["page_ok"], bool)
        rendered = [r for r, ok in zip(batch_recordings, page_ok, strict=True) if ok]
        extraction.skipped.extend(r.id for r, ok in zip(batch_recordings, page_ok, strict=True) if not ok)
        extraction.ids.extend(r.id for r in rendered)
        extraction.codes.extend(frozenset(r.labels) for r in rendered)
        tensors = to_device(batch, device, fs)
        columns, redrawn_mv = _model_columns(models, tensors, fs, everything)
        columns |= _facts(batch, batch_recordings)
        rows = np.flatnonzero(page_ok)[: max(num_examples - len(extraction.examples), 0)]
        extraction.examples.extend(make_example(batch_recordings[i].id, i, tensors, redrawn_mv) for i in rows)
        parts.append({name: column[page_ok] for name, column in columns.items()})
    if parts:
        extraction.columns.update({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return extraction


def _model_columns(
    models: Mapping[str, PageModel], batch: DeviceBatch, fs: int, everything: bool
) -> tuple[dict[str, np.ndarray], torch.Tensor]:
    """The columns of all models (see ``extract``), and the first model's redrawn leads (N, 12, T)."""
    columns: dict[str, np.ndarray] = {}
    first_redrawn_mv: torch.Tensor | None = None
    for name, model in models.items():
        is_first = first_redrawn_mv is None
        prefix = "" if is_first else f"{name}."
        page, features, redrawn_mv = model.encode_page(batch)
        columns |= {f"{prefix}page": _numpy(page), f"{prefix}features": _numpy(features)}
        if first_redrawn_mv is None:
            first_redrawn_mv, shown = redrawn_mv, batch["shown"] & batch["valid"]
            columns["shown.rmse_mv"] = _numpy(recording_rmse(redrawn_mv, batch["centred_mv"], shown))
        if everything:
            signal = model.encode_signal(batch["centred_mv"])
            text = model.encode_text(batch["token_ids"], batch["attention_mask"])
            columns |= {f"{prefix}signal": _numpy(signal), f"{prefix}text": _numpy(text)}
        if everything and is_first:
            columns |= _redraw_columns(redrawn_mv, batch, fs)
    assert first_redrawn_mv is not None  # there is at least one model
    return columns, first_redrawn_mv


def _facts(batch: Batch, recordings: Sequence[Recording]) -> dict[str, np.ndarray]:
    return {
        "labels": class_labels(recordings),
        "recording_key": batch["recording_key"],
        "patient_key": batch["patient_key"],
        "report_key": batch["report_key"],
        "has_signal": batch["has_signal"],
        "has_text": batch["has_text"],
    }


def _redraw_columns(redrawn_mv: torch.Tensor, batch: DeviceBatch, fs: int) -> dict[str, np.ndarray]:
    """(N, 12) r and (N,) RMSE for each mask: of the decoder, projected on the lead laws, of the mean-beat oracle."""
    truth, valid, shown = batch["centred_mv"], batch["valid"], batch["shown"]
    pairs = zip(truth.cpu().numpy(), (shown & valid).cpu().numpy(), strict=True)
    oracle = torch.as_tensor(np.stack([mean_beat_redraw(t, s, fs) for t, s in pairs]), dtype=torch.float32)
    oracle = oracle.to(truth.device)
    columns = {"lead_residual_mv": _numpy(lead_residual_mv(redrawn_mv))}
    projected = project_on_laws(redrawn_mv, shown)
    masks = {"shown": shown, "derivable": batch["derivable"], "unseen": batch["unseen"]}
    for name in MASKS:
        mask = masks[name] & valid
        columns[f"{name}.r"] = _numpy(lead_pearson(redrawn_mv, truth, mask))
        columns[f"{name}.rmse_mv"] = _numpy(recording_rmse(redrawn_mv, truth, mask))
        columns[f"projected.{name}.r"] = _numpy(lead_pearson(projected, truth, mask))
        columns[f"projected.{name}.rmse_mv"] = _numpy(recording_rmse(projected, truth, mask))
        known = mask & torch.isfinite(oracle)
        columns[f"mean_beat.{name}.r"] = _numpy(lead_pearson(oracle.nan_to_num(0.0), truth, known))
        columns[f"mean_beat.{name}.rmse_mv"] = _numpy(recording_rmse(oracle.nan_to_num(0.0), truth, known))
    return columns


def make_example(name: str, row: int, batch: DeviceBatch, redrawn_mv: torch.Tensor) -> Example:
    """One row of a batch on the model's device, with its redrawn leads (N, 12, T), as arrays."""
    page = batch["image"][row].permute(1, 2, 0).cpu().numpy()
    truth_mv, redrawn = _numpy(batch["centred_mv"][row]), _numpy(redrawn_mv[row])
    valid, shown, derivable = (batch[mask][row].cpu().numpy() for mask in ("valid", "shown", "derivable"))
    return Example(name, page, truth_mv, redrawn, valid, shown, derivable)


def _numpy(value: torch.Tensor) -> np.ndarray:
    return value.float().cpu().numpy()
