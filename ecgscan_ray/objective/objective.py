"""All terms of the loss in one table: tensors in, a dict of terms out.

A new term is one file in this room and one line in ``Objective.terms``.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.config import ObjectiveConfig
from ecgscan_ray.model.output import FrameOutput, ModelOutput
from ecgscan_ray.objective.contrastive import (
    GatheredFeatures,
    at_least_fp32,
    gather_features,
    pair_losses,
    triplet_loss,
    weighted_mean,
)
from ecgscan_ray.objective.frame import frame_loss
from ecgscan_ray.objective.reconstruction import reconstruction_loss
from ecgscan_ray.objective.soft_leads import soft_lead_loss

SHOWN_WEIGHT, DERIVABLE_WEIGHT, UNSEEN_WEIGHT = 1.0, 0.5, 0.2
"""Weights in the reconstruction of samples that the page shows, that follow from those by the lead laws, and of all others:
the less the page says of a sample, the less it counts."""


class Objective:
    """The weighted loss of one batch, and its terms.

    Args:
        config: Weights, temperatures, scales.
        equal_rows: All ranks hold the same number of rows, as in training. Else the numbers are exchanged, for which the
            device waits.
    """

    def __init__(self, config: ObjectiveConfig, equal_rows: bool = True) -> None:
        self.config, self.equal_rows = config, equal_rows

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
        for term, schedule in config.schedules.items():
            warmup = min(progress / schedule.warmup, 1.0) if schedule.warmup else 1.0
            weights[term] *= warmup * (1 + progress * (schedule.final_factor - 1))
        return {f"{config.triple if term == 'gram' else term}_loss": weight for term, weight in weights.items()}

    def terms(self, items: GatheredFeatures, output: ModelOutput, batch: DeviceBatch) -> dict[str, Tensor]:
        """Every term that the model's output has, unweighted."""
        config = self.config
        redrawn = at_least_fp32(output["redrawn_mv"])
        sample_weight = self.sample_weight(batch).to(redrawn.dtype)
        terms = {
            f"{config.triple}_loss": triplet_loss(items, output["gram_logit_scale"], config.triple, config.block_rows),
            "pair_loss": self._pair_loss(items, output),
            "reconstruction_loss": reconstruction_loss(redrawn, batch["centred_mv"], sample_weight),
            "soft_lead_loss": soft_lead_loss(redrawn, batch["law_ok"] & batch["page_ok"], config.soft_lead_delta_mv),
        }
        if "layout_logits" in output:  # of pictures; leads have no frame
            terms["frame_loss"] = frame_loss(
                cast(FrameOutput, output), batch["frame_corners"], batch["layout"], batch["page_ok"]
            )
        return terms

    def _pair_loss(self, items: GatheredFeatures, output: ModelOutput) -> Tensor:
        config = self.config
        bias = output["pair_logit_bias"] if config.pair == "siglip" else None
        weights: dict[str, float] = {name: weight for name, weight in config.pair_weights.items() if weight}
        losses = pair_losses(items, output["pair_logit_scale"], list(weights), bias, config.block_rows)
        return weighted_mean(losses, weights)

    def sample_weight(self, batch: DeviceBatch) -> Tensor:
        """(N, 12, T): the weight of each sample in the reconstruction, 0 where nothing was recorded."""
        weight = SHOWN_WEIGHT * batch["shown"] + DERIVABLE_WEIGHT * batch["derivable"] + UNSEEN_WEIGHT * batch["unseen"]
        return weight * batch["valid"] * (batch["has_signal"] & batch["page_ok"])[:, None, None]

    def __call__(self, output: ModelOutput, batch: DeviceBatch, progress: float = 0.0) -> dict[str, Tensor]:
        """All ``*_loss`` terms, each as ``*_weighted`` without gradient, and the sum of these, ``loss``.

        The arithmetic is fp32, within autocast too.
        """
        with torch.autocast(output["image_features"].device.type, enabled=False):
            config = self.config
            items = gather_features(
                output,
                batch,
                mask_false_negatives=config.mask_false_negatives,
                center_targets=config.center_targets,
                equal_rows=self.equal_rows,
            )
            terms = self.terms(items, output, batch)
            weights = self.weights(progress)
            # a term of weight 0 stays in the graph, so that DDP finds no parameter unused
            weighted = {name: weights[name] * term for name, term in terms.items()}
            loss = torch.stack(list(weighted.values())).sum()
        logged = {f"{name.removesuffix('_loss')}_weighted": value.detach() for name, value in weighted.items()}
        return {**terms, **logged, "loss": loss}
