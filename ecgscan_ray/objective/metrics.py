"""Metrics of a batch that are no losses: volumes, cosines, signs, hubs, lead residual, correlations. Without gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.model.output import ModelOutput
from ecgscan_ray.objective.gram import gram_volume
from ecgscan_ray.objective.reconstruction import pearson_per_lead
from ecgscan_ray.objective.soft_leads import lead_law_residual

MAX_ROWS = 1024
"""Most rows that volumes and hubs are measured on: each with each."""


def hub_size(distance: Tensor) -> Tensor:
    """Most rows that share one nearest column; about 1 to 5 in a healthy space.

    Args:
        distance: (N, N), or (0, 0).
    """
    if not len(distance):
        return distance.new_zeros(())
    return distance.argmin(1).bincount().max().to(distance.dtype)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    return (values * counts).sum() / counts.sum().clamp_min(1)


@torch.no_grad()
def batch_metrics(output: ModelOutput, batch: DeviceBatch) -> dict[str, Tensor]:
    """Metrics of this rank's rows.

    Args:
        output: The model's.
        batch: Tensors of the batch.

    Returns:
        ``volume_matching``, ``volume_other``: mean volumes; ``cosine_*``: mean cosines of matching pairs;
        ``negative_diagonals``: share of pages that point away from their signal or report; ``hub_volume``, ``hub_signal``,
        ``hub_text``: the most pages whose nearest pair, signal, report is the same one; ``lead_residual_mv``: mean absolute
        residual of the lead laws; ``r_shown``, ``r_derivable``, ``r_unseen``; the logit scales.
    """
    image, signal, text = (
        value.float() for value in (output["image_features"], output["signal_features"], output["text_features"])
    )
    with_signal, with_text = batch["page_ok"] & batch["has_signal"], batch["page_ok"] & batch["has_text"]
    with_both = with_signal & with_text
    image_signal, image_text = (image * signal).sum(-1), (image * text).sum(-1)
    complete = with_both.nonzero().squeeze(1)[:MAX_ROWS]
    volumes = gram_volume(image[complete], signal[complete], text[complete])
    matching = volumes.diagonal()
    redrawn, target = output["redrawn_mv"].float(), batch["centred_mv"]
    metrics = {
        "volume_matching": matching.sum() / max(len(matching), 1),
        "volume_other": (volumes.sum() - matching.sum()) / max(volumes.numel() - len(matching), 1),
        "cosine_image_signal": _mean(image_signal, with_signal),
        "cosine_image_text": _mean(image_text, with_text),
        "cosine_signal_text": _mean((signal * text).sum(-1), with_both),
        "negative_diagonals": _mean(
            ((image_signal < 0) & with_signal) | ((image_text < 0) & with_text), with_signal | with_text
        ),
        "hub_volume": hub_size(volumes),
        "hub_signal": hub_size(-image[complete] @ signal[complete].T),
        "hub_text": hub_size(-image[complete] @ text[complete].T),
        "lead_residual_mv": _mean(lead_law_residual(redrawn).abs().mean((1, 2)), batch["page_ok"]),
        "gram_logit_scale": output["gram_logit_scale"],
        "pair_logit_scale": output["pair_logit_scale"],
    }
    masks = {"r_shown": batch["shown"], "r_derivable": batch["derivable"], "r_unseen": batch["unseen"]}
    for name, mask in masks.items():
        r, defined = pearson_per_lead(redrawn, target, mask & batch["valid"])
        metrics[name] = _mean(r, defined)
    return {name: value.detach().float() for name, value in metrics.items()}
