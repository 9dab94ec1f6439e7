"""The one quick figure by which checkpoints and trials are compared. It does not depend on the loss weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from ecgscan_ray.evaluation.redraw import recording_pearson
from ecgscan_ray.evaluation.retrieval import rank_matches

SCORES = {
    "pretrain": ("score", "mrr_page_to_signal", "mrr_page_to_text", "r_shown"),
    "teach": ("score", "mrr_signal_to_text", "mrr_hidden_to_signal", "r_hidden"),
}
"""Task -> what its validation can measure, each as ``validation.NAME``."""


@torch.inference_mode()
def validation_score(model: Any, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of MRR page to signal, MRR page to text, and Pearson's r on the leads the page shows.

    A part that has no rows (a store without reports) is left out of the dict and of the mean.

    Args:
        model: The towers and decoder; put into evaluation mode for the call, and back.
        batches: Batches on the model's device, as ``training.tensors.to_device`` makes them.

    Returns:
        ``validation.score``, ``validation.mrr_page_to_signal``, ``validation.mrr_page_to_text`` and
        ``validation.r_shown``; empty where there are no batches.
    """
    was_training = model.training
    model.eval()
    try:
        columns = [_batch_columns(model, batch) for batch in batches]
    finally:
        model.train(was_training)
    if not columns:
        return {}
    data = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    signal = rank_matches(
        data["page"], data["signal"], data["recording_key"], data["recording_key"], has_gallery=data["has_signal"]
    )
    text = rank_matches(
        data["page"],
        data["text"],
        data["report_key"],
        data["report_key"],
        has_query=data["has_text"],
        has_gallery=data["has_text"],
    )
    parts = {
        "validation.mrr_page_to_signal": signal.reciprocal,
        "validation.mrr_page_to_text": text.reciprocal,
        "validation.r_shown": data["r_shown"][np.isfinite(data["r_shown"])],
    }
    scores = {name: float(values.mean()) for name, values in parts.items() if len(values)}
    return {"validation.score": float(np.mean(list(scores.values()))), **scores} if scores else {}


@torch.inference_mode()
def teacher_score(model: Any, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Mean of MRR signal to text, MRR of a recording with parts hidden to the whole one, and r on what was hidden.

    A part that has no rows, or that the teacher cannot do, is left out of the dict and of the mean.

    Args:
        model: The ``Teacher``; put into evaluation mode for the call, and back.
        batches: As above; they need no pages.

    Returns:
        ``validation.score``, ``validation.mrr_signal_to_text``, ``validation.mrr_hidden_to_signal`` and
        ``validation.r_hidden``; empty where there are no batches.
    """
    was_training = model.training
    model.eval()
    try:
        columns = [_teacher_columns(model, batch) for batch in batches]
    finally:
        model.train(was_training)
    if not columns:
        return {}
    data = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    ranked = {"has_gallery": data["has_text"], "has_query": data["has_text"] & data["has_signal"]}
    text = rank_matches(data["signal"], data["text"], data["report_key"], data["report_key"], **ranked)
    keys = data["recording_key"]
    hidden = rank_matches(data["left"], data["signal"], keys, keys, has_gallery=data["has_signal"])
    parts = {"validation.mrr_signal_to_text": text.reciprocal, "validation.mrr_hidden_to_signal": hidden.reciprocal}
    if "r_hidden" in data:
        parts["validation.r_hidden"] = data["r_hidden"][np.isfinite(data["r_hidden"])]
    scores = {name: float(values.mean()) for name, values in parts.items() if len(values)}
    return {"validation.score": float(np.mean(list(scores.values()))), **scores} if scores else {}


def _teacher_columns(model: Any, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    output = model(batch)
    columns = {
        "signal": output["signal_features"],
        "text": output["text_features"],
        "left": output["masked_view_features"],
    }
    if "reconstructed_mv" in output:
        mask = output["hidden"] & batch["valid"]
        columns["r_hidden"] = recording_pearson(output["reconstructed_mv"], batch["centred_mv"], mask)
    arrays = {name: value.float().cpu().numpy() for name, value in columns.items()}
    return arrays | {
        name: batch[name].cpu().numpy() for name in ("recording_key", "report_key", "has_signal", "has_text")
    }


def _batch_columns(model: Any, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    page, _, redrawn_mv = model.encode_image(batch["image"])
    columns = {
        "page": page,
        "signal": model.encode_signal(batch["centred_mv"]),
        "text": model.encode_text(batch["token_ids"], batch["attention_mask"]),
        "r_shown": recording_pearson(redrawn_mv, batch["centred_mv"], batch["shown"] & batch["valid"]),
    }
    arrays = {name: value.float().cpu().numpy() for name, value in columns.items()}
    for name in ("recording_key", "report_key", "has_signal", "has_text"):
        value = batch[name]
        arrays[name] = value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    return arrays
