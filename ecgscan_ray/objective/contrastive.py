"""Contrast over the global batch: of pages with (signal, report) pairs, and of any two of the three.

Rows are this rank's items, columns the items of all ranks. Items without what is compared are left out, and so are
negatives that are no negatives (the same patient, the same report, the same recording).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.distributed import gather, rank, row_counts
from ecgscan_ray.objective.blockwise import BlockPlan, PairMask, cross_entropy, sigmoid_loss
from ecgscan_ray.objective.gram import gram_schmidt
from ecgscan_ray.objective.scores import Area, Cosine, Volume

MODALITIES = ("image", "signal", "text")
KEYS = ("recording_key", "patient_key", "report_key")


@dataclass(frozen=True)
class GatheredFeatures:
    """This rank's rows (n) and everybody's (N) of the three modalities' features and of the keys."""

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
    start: int
    """The rows are start .. start + n of the columns."""

    def comparison(self, *modalities: str) -> PairMask:
        """Between items that have all of these."""
        valid = torch.stack([self.has[name] for name in modalities]).all(0)
        all_valid = torch.stack([self.all_has[name] for name in modalities]).all(0)
        return PairMask(valid, all_valid, self.keys, self.all_keys, self.start)


def at_least_fp32(values: Tensor) -> Tensor:
    """bf16 and fp16 widened to fp32; fp64 kept."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def gather_features(
    output: dict[str, Tensor],
    batch: dict[str, Tensor],
    *,
    mask_false_negatives: bool = True,
    center_targets: bool = False,
    equal_rows: bool = True,
) -> GatheredFeatures:
    """Features in fp32, gathered over ranks with gradient, and the masks that go with them.

    Args:
        output: ``image_features``, ``signal_features``, ``text_features`` (n, D).
        batch: ``page_ok``, ``has_signal``, ``has_text`` (n,), and (n,) the ``KEYS``.
        mask_false_negatives: Leave out negatives that share a key with the row.
        center_targets: Subtract the global batch's mean from signals and from reports: teachers whose vectors share a
            direction make hubs of the volume.
        even: All ranks hold the same number of rows.
    """
    # renormalised after the cast: a bf16 unit vector is not one. A vector of zeros stays one, with a finite gradient
    rows = {name: F.normalize(at_least_fp32(output[f"{name}_features"]), dim=-1, eps=1e-6) for name in MODALITIES}
    flags = torch.stack([batch["page_ok"], batch["has_signal"], batch["has_text"]], dim=1).bool()
    keys = torch.stack([batch[name] for name in KEYS], dim=1)[:, : len(KEYS) if mask_false_negatives else 0]
    counts = row_counts(len(flags), flags.device, equal_rows=equal_rows)
    start = sum(counts[: rank()])
    all_flags = gather(flags.to(torch.uint8), counts).bool()
    columns = {name: gather(rows[name], counts) for name in ("signal", "text")}
    all_has = dict(zip(MODALITIES, all_flags.unbind(1), strict=True))
    if center_targets:
        for name, features in columns.items():
            weight = all_has[name].to(features.dtype)[:, None]
            centred = features - (features * weight).sum(0) / weight.sum().clamp_min(1)
            columns[name] = F.normalize(centred, dim=-1, eps=1e-6)
            rows[name] = columns[name][start : start + len(flags)]
    has = dict(zip(MODALITIES, flags.unbind(1), strict=True))
    return GatheredFeatures(rows, columns, has, all_has, keys, gather(keys, counts), start)


def triple_loss(
    items: GatheredFeatures,
    logit_scale: Tensor,
    kind: Literal["gram", "triangle"] = "gram",
    smoothing: float = 0.0,
    block_rows: int | None = None,
) -> Tensor:
    """Each image against all (signal, text) pairs, each pair against all images; logits are -scale x volume or area."""
    comparison = items.comparison(*MODALITIES)
    image, signal, text = items.rows["image"], items.columns["signal"], items.columns["text"]
    if kind == "triangle":
        plan = BlockPlan(Area(), comparison, smoothing, block_rows)
        return cross_entropy(plan, logit_scale, (signal * text).sum(-1), image, signal, text)
    across, squared_sine = gram_schmidt(signal, text)
    return cross_entropy(
        BlockPlan(Volume(), comparison, smoothing, block_rows), logit_scale, squared_sine, image, signal, across
    )


def pair_losses(
    items: GatheredFeatures,
    logit_scale: Tensor,
    pairs: Sequence[str] = ("image_signal", "image_text", "signal_text"),
    bias: Tensor | None = None,
    smoothing: float = 0.0,
    block_rows: int | None = None,
) -> dict[str, Tensor]:
    """InfoNCE of each of the ``pairs``, or SigLIP where a ``bias`` is given.

    They fix the sign of the page's features and keep the text in. Signal with text is among them since the volume says little
    of it once page and signal agree.
    """
    losses = {}
    for pair in pairs:
        one, other = pair.split("_")
        columns = items.columns[other]
        plan, nothing = (
            BlockPlan(Cosine(), items.comparison(one, other), smoothing, block_rows),
            columns.new_zeros(len(columns)),
        )
        if bias is None:
            losses[pair] = cross_entropy(plan, logit_scale, nothing, items.rows[one], columns)
        else:
            losses[pair] = sigmoid_loss(plan, bias, logit_scale, nothing, items.rows[one], columns)
    return losses


def weighted_mean(losses: Mapping[str, Tensor], shares: Mapping[str, float]) -> Tensor:
    """Mean of the pairs' losses by their shares."""
    total = sum(shares.values())
    return torch.stack([loss * (shares[name] / total) for name, loss in losses.items()]).sum()
