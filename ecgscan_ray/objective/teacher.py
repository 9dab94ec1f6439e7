"""The loss of the signal-text teacher: contrast with reports and with a masked view, and masked signal modelling."""

from __future__ import annotations

import torch
from torch import Tensor

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.config import Config
from ecgscan_ray.model.output import Features, TeacherOutput
from ecgscan_ray.objective.contrastive import at_least_fp32, gather_features, pair_losses
from ecgscan_ray.objective.reconstruction import pearson_per_lead, reconstruction_loss

HIDDEN_WEIGHT = 1.0
"""Of the reconstruction of the masked samples, in mV; the contrast with reports has the same by default."""


class TeacherObjective:
    """The weighted loss of one batch of recordings and reports.

    Args:
        config: The run's settings; weights are in its ``teacher`` section.
    """

    def __init__(self, config: Config) -> None:
        self.config = config

    def weights(self) -> dict[str, float]:
        teacher = self.config.teacher
        return {
            "report_loss": teacher.report_weight,
            "view_loss": teacher.masked_view_weight,
            "hidden_loss": HIDDEN_WEIGHT,
        }

    def terms(self, output: TeacherOutput, batch: DeviceBatch) -> dict[str, Tensor]:
        """Every term, unweighted; ``hidden_loss`` only of a teacher that can reconstruct."""
        # the masked view takes the image's part: it has to identify its recording as a page does
        objective, scale = self.config.objective, output["pair_logit_scale"]
        features: Features = {
            "image_features": output["masked_view_features"],
            "signal_features": output["signal_features"],
            "text_features": output["text_features"],
        }
        items = gather_features(features, batch, mask_false_negatives=objective.mask_false_negatives)
        pairs = pair_losses(items, scale, ("signal_text", "image_signal"), None, objective.block_rows)
        terms = {"report_loss": pairs["signal_text"], "view_loss": pairs["image_signal"]}
        if "reconstructed_mv" in output:
            reconstructed = at_least_fp32(output["reconstructed_mv"])
            recorded = batch["valid"] & batch["has_signal"][:, None, None]
            weight = (output["hidden"] & recorded).to(reconstructed.dtype)
            terms["hidden_loss"] = reconstruction_loss(reconstructed, batch["centred_mv"], weight)
        return terms

    def __call__(self, output: TeacherOutput, batch: DeviceBatch, progress: float = 0.0) -> dict[str, Tensor]:
        """All ``*_loss`` terms and their weighted sum ``loss``; the arithmetic is fp32. ``progress`` changes nothing."""
        with torch.autocast(output["signal_features"].device.type, enabled=False):
            terms, weights = self.terms(output, batch), self.weights()
            terms["loss"] = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return terms


@torch.no_grad()
def teacher_metrics(output: TeacherOutput, batch: DeviceBatch) -> dict[str, Tensor]:
    """Metrics of this rank's rows: cosines of what belongs together, correlation on hidden parts."""
    signal, text = output["signal_features"].float(), output["text_features"].float()
    view = output["masked_view_features"].float()
    both = batch["has_signal"] & batch["has_text"]
    metrics = {
        "cosine_signal_text": ((signal * text).sum(-1) * both).sum() / both.sum().clamp_min(1),
        "cosine_views": (signal * view).sum(-1).mean(),
        "pair_logit_scale": output["pair_logit_scale"],
    }
    if "reconstructed_mv" in output:
        r, defined = pearson_per_lead(
            output["reconstructed_mv"], batch["centred_mv"], output["hidden"] & batch["valid"]
        )
        metrics["r_hidden"] = (r * defined).sum() / defined.sum().clamp_min(1)
    return {name: value.detach().float() for name, value in metrics.items()}
