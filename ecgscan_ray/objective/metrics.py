"""What the losses do not say of a batch: volumes, cosines, signs, hubs, lead residual, correlations. Without gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ecgscan_ray.objective.gram import gram_volume
from ecgscan_ray.objective.reconstruction import pearson_per_lead
from ecgscan_ray.objective.soft_leads import lead_residual, precordial_residual

MAX_ROWS = 1024
"""Rows that volumes and hubs are measured on: each with each."""


def hub_size(distance: Tensor) -> Tensor:
    """How many rows have the same nearest column, at its worst; about 1 to 5 where nothing is wrong.

    Args:
        distance: (N, N), or (0, 0).
    """
    if not len(distance):
        return distance.new_zeros(())
    return distance.argmin(1).bincount().max().to(distance.dtype)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    return (values * counts).sum() / counts.sum().clamp_min(1)


@torch.no_grad()
def batch_metrics(output: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of this rank's rows.

    Args:
        output: The model's.
        batch: Tensors of the batch.

    Returns:
        ``volume_matching``, ``volume_other``: mean volumes; ``cosine_*``: mean cosines of matching pairs;
        ``negative_diagonals``: share of pages that point away from their signal or report; ``hub_volume``, ``hub_signal``,
        ``hub_text``: the most pages whose nearest pair, signal, report is the same one; ``lead_residual_mv``,
        ``precordial_residual_mv``: mean absolute residual of the laws, of the fitted ties; ``r_shown``, ``r_derivable``,
        ``r_unseen``; the logit scales.
    """
    image, signal, text = (output[f"{name}_features"].float() for name in ("image", "signal", "text"))
    with_signal, with_text = batch["page_ok"] & batch["has_signal"], batch["page_ok"] & batch["has_text"]
    with_both = with_signal & with_text
    image_signal, image_text = (image * signal).sum(-1), (image * text).sum(-1)
    whole = with_both.nonzero().squeeze(1)[:MAX_ROWS]
    volumes = gram_volume(image[whole], signal[whole], text[whole])
    own = volumes.diagonal()
    redrawn, target = output["redrawn_mv"].float(), batch["centred_mv"]
    tie, counts = precordial_residual(redrawn, batch["shown"])
    metrics = {
        "volume_matching": own.sum() / max(len(own), 1),
        "volume_other": (volumes.sum() - own.sum()) / max(volumes.numel() - len(own), 1),
        "cosine_image_signal": _mean(image_signal, with_signal),
        "cosine_image_text": _mean(image_text, with_text),
        "cosine_signal_text": _mean((signal * text).sum(-1), with_both),
        "negative_diagonals": _mean(
            ((image_signal < 0) & with_signal) | ((image_text < 0) & with_text), with_signal | with_text
        ),
        "hub_volume": hub_size(volumes),
        "hub_signal": hub_size(-image[whole] @ signal[whole].T),
        "hub_text": hub_size(-image[whole] @ text[whole].T),
        "lead_residual_mv": _mean(lead_residual(redrawn).abs().mean((1, 2)), batch["page_ok"]),
        "precordial_residual_mv": _mean(tie.abs(), counts & batch["page_ok"][:, None, None]),
        "gram_logit_scale": output["gram_logit_scale"],
        "pair_logit_scale": output["pair_logit_scale"],
    }
    for part in ("shown", "derivable", "unseen"):
        r, defined = pearson_per_lead(redrawn, target, batch[part] & batch["valid"])
        metrics[f"r_{part}"] = _mean(r, defined)
    return {name: value.detach().float() for name, value in metrics.items()}
