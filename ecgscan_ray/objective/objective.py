"""All terms of the loss in one table: tensors in, a dict of terms out.

A new term is one file in this room and one line in ``Objective.terms``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecgscan_ray.config import ObjectiveConfig
from ecgscan_ray.objective.contrastive import Items, at_least_fp32, gather_items, gram_loss, pair_loss
from ecgscan_ray.objective.frame import frame_loss
from ecgscan_ray.objective.gram import mean_volumes
from ecgscan_ray.objective.reconstruction import pearson_per_lead, reconstruction_loss
from ecgscan_ray.objective.soft_leads import lead_residual, soft_lead_loss


class Objective:
    """The weighted loss of one batch and what there is to say about it.

    Args:
        config: Weights, temperatures, scales.
    """

    def __init__(self, config: ObjectiveConfig) -> None:
        self.config = config

    def weights(self, progress: float) -> dict[str, float]:
        """Weight of each term at ``progress`` in [0, 1] of the run."""
        config = self.config
        end = config.pair_weight if config.pair_weight_end is None else config.pair_weight_end
        return {
            "gram_loss": config.gram_weight,
            "pair_loss": config.pair_weight + progress * (end - config.pair_weight),
            "reconstruction_loss": config.reconstruction_weight,
            "soft_lead_loss": config.soft_lead_weight,
            "frame_loss": config.frame_weight,
        }

    def terms(self, items: Items, output: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every term, unweighted."""
        config = self.config
        redrawn = at_least_fp32(output["redrawn_mv"])
        return {
            "gram_loss": gram_loss(items, output["gram_logit_scale"], config.label_smoothing),
            "pair_loss": pair_loss(items, output["pair_logit_scale"], config.label_smoothing),
            "reconstruction_loss": reconstruction_loss(
                redrawn, batch["centred_mv"], self.sample_weight(batch).to(redrawn.dtype)
            ),
            "soft_lead_loss": soft_lead_loss(redrawn, batch["law_ok"] & batch["page_ok"], config.soft_lead_delta_mv),
            "frame_loss": frame_loss(output, batch),
        }

    def sample_weight(self, batch: dict[str, Tensor]) -> Tensor:
        """(N, 12, T): the weight of each sample in the reconstruction, 0 where nothing was recorded."""
        config = self.config
        weight = (
            config.shown_weight * batch["shown"]
            + config.derivable_weight * batch["derivable"]
            + config.unseen_weight * batch["unseen"]
        )
        return weight * batch["valid"] * (batch["has_signal"] & batch["page_ok"])[:, None, None]

    def __call__(self, output: dict[str, Tensor], batch: dict[str, Tensor], progress: float = 0.0) -> dict[str, Tensor]:
        """All ``*_loss`` terms, their weighted sum ``loss``; call within autocast or not, the arithmetic is fp32."""
        with torch.autocast(output["image_features"].device.type, enabled=False):
            terms = self.terms(gather_items(output, batch), output, batch)
            weights = self.weights(progress)
            # a weight of 0 still touches every parameter, so that DDP finds none unused
            terms["loss"] = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return terms


@torch.no_grad()
def batch_metrics(output: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the loss does not say, on this rank's rows: volumes, cosines per pair, sign, lead residual, correlation."""
    image, signal, text = (output[f"{name}_features"].float() for name in ("image", "signal", "text"))
    own_volume, other_volume = mean_volumes(image, signal, text)
    image_signal, image_text = (image * signal).sum(-1), (image * text).sum(-1)
    redrawn, target = output["redrawn_mv"].float(), batch["centred_mv"]
    metrics = {
        "volume_matching": own_volume,
        "volume_other": other_volume,
        "cosine_image_signal": image_signal.mean(),
        "cosine_image_text": image_text.mean(),
        "cosine_signal_text": (signal * text).sum(-1).mean(),
        "negative_diagonals": ((image_signal < 0) | (image_text < 0)).float().mean(),
        "lead_residual_mv": lead_residual(redrawn).abs().mean(),
        "gram_logit_scale": output["gram_logit_scale"],
        "pair_logit_scale": output["pair_logit_scale"],
    }
    for part in ("shown", "derivable", "unseen"):
        r, defined = pearson_per_lead(redrawn, target, batch[part] & batch["valid"])
        metrics[f"r_{part}"] = (r * defined).sum() / defined.sum().clamp_min(1)
    return {name: value.detach().float() for name, value in metrics.items()}
