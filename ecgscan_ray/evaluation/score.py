"""The one quick figure by which checkpoints and trials are compared. It does not depend on the loss weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.evaluation.model import PageModel
from ecgscan_ray.evaluation.redraw import recording_pearson
from ecgscan_ray.evaluation.retrieval import rank_matches
from ecgscan_ray.model.output import TeacherOutput

PAGE_SCORES = ("score", "mrr_page_to_signal", "mrr_page_to_text", "r_shown")
"""What the validation of a page encoder can measure, each as ``validation.NAME``."""

TEACHER_SCORES = ("score", "mrr_signal_to_text", "mrr_hidden_to_signal", "r_hidden")
"""The same of a teacher."""

BATCH_COLUMNS = ("recording_key", "report_key", "has_signal", "has_text")

Columns = dict[str, np.ndarray]


def page_score(model: PageModel, batches: Iterable[DeviceBatch]) -> dict[str, float]:
    """Mean of MRR page to signal, MRR page to text, and Pearson's r on the leads the page shows.

    A part that has no rows (a store without reports) is left out of the dict and of the mean.

    Args:
        model: Put into evaluation mode for the call, and back.
        batches: On the model's device, with pages.

    Returns:
        ``validation.score``, ``validation.mrr_page_to_signal``, ``validation.mrr_page_to_text`` and
        ``validation.r_shown``; empty where there are no batches.
    """
    columns = _columns(model, batches, lambda batch: _page_columns(model, batch))
    if not columns:
        return {}
    keys, has_text = columns["recording_key"], columns["has_text"]
    signal = rank_matches(columns["page"], columns["signal"], keys, keys, has_gallery=columns["has_signal"])
    text = rank_matches(
        columns["page"],
        columns["text"],
        columns["report_key"],
        columns["report_key"],
        has_query=has_text,
        has_gallery=has_text,
    )
    return _mean_of_parts(
        {"mrr_page_to_signal": signal.reciprocal, "mrr_page_to_text": text.reciprocal, "r_shown": columns["r_shown"]}
    )


def teacher_score(model: nn.Module, batches: Iterable[DeviceBatch]) -> dict[str, float]:
    """Mean of MRR signal to text, MRR of the masked recording to the whole one, and r on the masked samples.

    A part that has no rows, or that the teacher cannot do, is left out of the dict and of the mean.

    Args:
        model: The ``Teacher``, whose output is a ``TeacherOutput``; put into evaluation mode for the call, and back.
        batches: On the model's device; they need no pages.

    Returns:
        ``validation.score``, ``validation.mrr_signal_to_text``, ``validation.mrr_hidden_to_signal`` and
        ``validation.r_hidden``; empty where there are no batches.
    """
    columns = _columns(model, batches, lambda batch: _teacher_columns(model(batch), batch))
    if not columns:
        return {}
    text = rank_matches(
        columns["signal"],
        columns["text"],
        columns["report_key"],
        columns["report_key"],
        has_gallery=columns["has_text"],
        has_query=columns["has_text"] & columns["has_signal"],
    )
    keys = columns["recording_key"]
    masked = rank_matches(columns["masked_view"], columns["signal"], keys, keys, has_gallery=columns["has_signal"])
    parts = {"mrr_signal_to_text": text.reciprocal, "mrr_hidden_to_signal": masked.reciprocal}
    if "r_hidden" in columns:
        parts["r_hidden"] = columns["r_hidden"]
    return _mean_of_parts(parts)


@torch.inference_mode()
def _columns(
    model: PageModel | nn.Module, batches: Iterable[DeviceBatch], columns_of: Callable[[DeviceBatch], dict[str, Tensor]]
) -> Columns:
    """Columns of all batches, row after row, computed in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        parts = []
        for batch in batches:
            columns = {name: value.float().cpu().numpy() for name, value in columns_of(batch).items()}
            parts.append(columns | {name: cast(dict[str, Tensor], batch)[name].cpu().numpy() for name in BATCH_COLUMNS})
    finally:
        model.train(was_training)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _page_columns(model: PageModel, batch: DeviceBatch) -> dict[str, Tensor]:
    page, _, redrawn_mv = model.encode_page(batch)
    return {
        "page": page,
        "signal": model.encode_signal(batch["centred_mv"]),
        "text": model.encode_text(batch["token_ids"], batch["attention_mask"]),
        "r_shown": recording_pearson(redrawn_mv, batch["centred_mv"], batch["shown"] & batch["valid"]),
    }


def _teacher_columns(output: TeacherOutput, batch: DeviceBatch) -> dict[str, Tensor]:
    columns = {
        "signal": output["signal_features"],
        "text": output["text_features"],
        "masked_view": output["masked_view_features"],
    }
    if "reconstructed_mv" in output:
        mask = output["hidden"] & batch["valid"]
        columns["r_hidden"] = recording_pearson(output["reconstructed_mv"], batch["centred_mv"], mask)
    return columns


def _mean_of_parts(parts: Columns) -> dict[str, float]:
    """Each part's mean over its defined rows, and the mean of these as ``validation.score``."""
    means = {}
    for name, values in parts.items():
        defined = values[np.isfinite(values)]
        if len(defined):
            means[f"validation.{name}"] = float(defined.mean())
    return {"validation.score": float(np.mean(list(means.values()))), **means} if means else {}
