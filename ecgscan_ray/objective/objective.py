"""All terms of the loss in one table: tensors in, a dict of terms out.

A new term is one file in this room and one line in ``Objective.terms``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecgscan_ray.config import ObjectiveConfig
from ecgscan_ray.objective.contrastive import (
    GatheredFeatures,
    at_least_fp32,
    gather_features,
    pair_losses,
    triple_loss,
    weighted_mean,
)
from ecgscan_ray.objective.frame import frame_loss
from ecgscan_ray.objective.reconstruction import reconstruction_loss
from ecgscan_ray.objective.soft_leads import precordial_tie_loss, soft_lead_loss


class Objective:
    """The weighted loss of one batch and what there is to say about it.

    Args:
        config: Weights, temperatures, scales.
        even_batches: All ranks hold the same number of rows (training does). Else the numbers are exchanged, for which
            the device waits.
    """

    def __init__(self, config: ObjectiveConfig, even_batches: bool = True) -> None:
        self.config, self.even_batches = config, even_batches

    def weights(self, progress: float) -> dict[str, float]:
        """Weight of each term at ``progress`` in [0, 1] of the run."""
        config = self.config
        weights = {
            "gram": config.gram_weight,
            "pair": config.pair_weight,
            "reconstruction": config.reconstruction_weight,
            "soft_lead": config.soft_lead_weight,
            "frame": config.frame_weight,
        }
        if config.precordial_tie_weight:
            weights["precordial_tie"] = config.precordial_tie_weight
        for term, schedule in config.schedules.items():
            if term in weights:
                risen = min(progress / schedule.warmup, 1.0) if schedule.warmup else 1.0
                weights[term] *= risen * (1 + progress * (schedule.final_factor - 1))
        return {f"{config.triple if term == 'gram' else term}_loss": weight for term, weight in weights.items()}

    def terms(self, items: GatheredFeatures, output: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every term, unweighted."""
        config = self.config
        redrawn = at_least_fp32(output["redrawn_mv"])
        lawful = batch["law_ok"] & batch["page_ok"]
        terms = {
            f"{config.triple}_loss": triple_loss(
                items, output["gram_logit_scale"], config.triple, config.label_smoothing, config.block_rows
            ),
            "pair_loss": self._pairs(items, output),
            "reconstruction_loss": reconstruction_loss(
                redrawn, batch["centred_mv"], self.sample_weight(batch).to(redrawn.dtype)
            ),
            "soft_lead_loss": soft_lead_loss(redrawn, lawful, config.soft_lead_delta_mv),
            "frame_loss": frame_loss(output, batch),
        }
        if config.precordial_tie_weight:
            terms["precordial_tie_loss"] = precordial_tie_loss(
                redrawn, batch["shown"], batch["page_ok"], config.precordial_tie_delta_mv
            )
        return terms

    def _pairs(self, items: GatheredFeatures, output: dict[str, Tensor]) -> Tensor:
        config = self.config
        bias = output["pair_logit_bias"] if config.pair == "siglip" else None
        shares: dict[str, float] = {name: share for name, share in config.pair_weights.items() if share}
        losses = pair_losses(
            items, output["pair_logit_scale"], list(shares), bias, config.label_smoothing, config.block_rows
        )
        return weighted_mean(losses, shares)

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
        """All ``*_loss`` terms, each as ``*_weighted`` without gradient, and the sum of these, ``loss``.

        Call it within autocast or not, the arithmetic is fp32.
        """
        with torch.autocast(output["image_features"].device.type, enabled=False):
            config = self.config
            items = gather_features(
                output,
                batch,
                mask_false_negatives=config.mask_false_negatives,
                center_targets=config.center_targets,
                equal_rows=self.even_batches,
            )
            terms = self.terms(items, output, batch)
            weights = self.weights(progress)
            # a weight of 0 still touches every parameter, so that DDP finds none unused
            weighted = {name: weights[name] * term for name, term in terms.items()}
            loss = torch.stack(list(weighted.values())).sum()
        shares = {f"{name.removesuffix('_loss')}_weighted": value.detach() for name, value in weighted.items()}
        return {**terms, **shares, "loss": loss}
