"""Contrast over the global batch: of pages with (signal, report) pairs, and of any two of the three.

Rows are this rank's items, columns the items of all ranks. Items without what is compared are left out, and so are false
negatives (the same patient, the same report, the same recording).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.distributed import gather, rank, row_counts
from ecgscan_ray.model.output import Features
from ecgscan_ray.objective.blockwise import PairMask
from ecgscan_ray.objective.gram import gram_loss
from ecgscan_ray.objective.pairwise import info_nce_loss, siglip_loss
from ecgscan_ray.objective.triangle import triangle_loss

MODALITIES = ("image", "signal", "text")
TRIPLET_LOSSES = {"gram": gram_loss, "triangle": triangle_loss}


@dataclass(frozen=True)
class GatheredFeatures:
    """This rank's rows (n) and all ranks' columns (N) of the three modalities' features and of the keys."""

    rows: dict[str, Tensor]
    """Modality -> (n, D), unit rows."""
    columns: dict[str, Tensor]
    """``signal`` and ``text`` -> (N, D), unit rows."""
    has: dict[str, Tensor]
    """Modality -> (n,) bool."""
    all_has: dict[str, Tensor]
    """Modality -> (N,) bool."""
    keys: Tensor
    """(n, k) int64, -1 = unknown; two recordings that share one are not each other's negatives."""
    all_keys: Tensor
    """(N, k)."""
    start: int
    """The rows are start .. start + n of the columns."""

    def pair_mask(self, *modalities: str) -> PairMask:
        """Between items that have all of these."""
        valid = torch.stack([self.has[name] for name in modalities]).all(0)
        all_valid = torch.stack([self.all_has[name] for name in modalities]).all(0)
        return PairMask(valid, all_valid, self.keys, self.all_keys, self.start)


def at_least_fp32(values: Tensor) -> Tensor:
    """bf16 and fp16 widened to fp32; fp64 kept."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def gather_features(
    output: Features,
    batch: DeviceBatch,
    *,
    mask_false_negatives: bool = True,
    center_targets: bool = False,
    equal_rows: bool = True,
) -> GatheredFeatures:
    """Features in fp32, gathered over ranks with gradient, and the masks that belong to them.

    Args:
        output: Features (n, D).
        batch: ``page_ok``, ``has_signal``, ``has_text`` (n,), ``recording_key``, ``patient_key``, ``report_key`` (n,).
        mask_false_negatives: Leave out negatives that share a key with the row.
        center_targets: Subtract the global batch's mean from signals and from reports: targets that share a direction make
            hubs of the volume.
        equal_rows: All ranks hold the same number of rows.
    """
    # renormalised after the cast: a bf16 unit vector is not one. A vector of zeros stays one, with a finite gradient
    features = output["image_features"], output["signal_features"], output["text_features"]
    unit = (F.normalize(at_least_fp32(value), dim=-1, eps=1e-6) for value in features)
    rows = dict(zip(MODALITIES, unit, strict=True))
    flags = torch.stack([batch["page_ok"], batch["has_signal"], batch["has_text"]], dim=1).bool()
    keys = torch.stack([batch["recording_key"], batch["patient_key"], batch["report_key"]], dim=1)
    keys = keys if mask_false_negatives else keys[:, :0]
    counts = row_counts(len(flags), flags.device, equal_rows=equal_rows)
    start = sum(counts[: rank()])
    all_flags = gather(flags.to(torch.uint8), counts).bool()
    columns = {name: gather(rows[name], counts) for name in ("signal", "text")}
    all_has = dict(zip(MODALITIES, all_flags.unbind(1), strict=True))
    if center_targets:
        for name, target in columns.items():
            weight = all_has[name].to(target.dtype)[:, None]
            centered = target - (target * weight).sum(0) / weight.sum().clamp_min(1)
            columns[name] = F.normalize(centered, dim=-1, eps=1e-6)
            rows[name] = columns[name][start : start + len(flags)]
    has = dict(zip(MODALITIES, flags.unbind(1), strict=True))
    return GatheredFeatures(rows, columns, has, all_has, keys, gather(keys, counts), start)


def triplet_loss(
    items: GatheredFeatures,
    logit_scale: Tensor,
    kind: Literal["gram", "triangle"] = "gram",
    block_rows: int | None = None,
) -> Tensor:
    """``gram_loss`` or ``triangle_loss`` of the items that have all three."""
    rows, columns = items.rows["image"], (items.columns["signal"], items.columns["text"])
    return TRIPLET_LOSSES[kind](rows, *columns, logit_scale, items.pair_mask(*MODALITIES), block_rows)


def pair_losses(
    items: GatheredFeatures,
    logit_scale: Tensor,
    pairs: Sequence[str] = ("image_signal", "image_text", "signal_text"),
    logit_bias: Tensor | None = None,
    block_rows: int | None = None,
) -> dict[str, Tensor]:
    """``info_nce_loss`` of each of the ``pairs``, or ``siglip_loss`` where a bias is given.

    They fix the sign of the page's features and keep the text in. Signal with text is among them since the volume depends
    little on it once page and signal agree.
    """
    losses = {}
    for pair in pairs:
        one, other = pair.split("_")
        rows, columns, mask = items.rows[one], items.columns[other], items.pair_mask(one, other)
        if logit_bias is None:
            losses[pair] = info_nce_loss(rows, columns, logit_scale, mask, block_rows)
        else:
            losses[pair] = siglip_loss(rows, columns, logit_scale, logit_bias, mask, block_rows)
    return losses


def weighted_mean(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Mean of the pairs' losses by their weights."""
    total = sum(weights.values())
    return torch.stack([loss * (weights[name] / total) for name, loss in losses.items()]).sum()
