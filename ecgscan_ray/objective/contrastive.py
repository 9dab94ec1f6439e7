"""Contrastive cross-entropy in both directions over the global batch, for the Gramian volume and for pairs.

Rows are this rank's items, columns the items of all ranks. Columns without the needed modality, and negatives that
are no negatives (the same patient, the same report), are left out of the denominator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.objective.gather import gather, global_mean, rank
from ecgscan_ray.objective.gram import gram_volume


@dataclass(frozen=True)
class Items:
    """This rank's rows (n) and everybody's (N = W n) of one modality's features and of the keys."""

    image: Tensor
    signal: Tensor
    text: Tensor
    all_image: Tensor
    all_signal: Tensor
    all_text: Tensor
    has_signal: Tensor
    has_text: Tensor
    all_has_signal: Tensor
    all_has_text: Tensor
    same: Tensor
    """(n, N): the column is another recording of the row's patient, or has the row's report."""
    target: Tensor
    """(n,): the column of each row's own item."""


def at_least_fp32(values: Tensor) -> Tensor:
    """bf16 and fp16 widened to fp32; fp64 kept."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def gather_items(output: dict[str, Tensor], batch: dict[str, Tensor]) -> Items:
    """Features in fp32, gathered over ranks with gradient, and the masks that go with them."""
    local = {}
    for name in ("image", "signal", "text"):
        # renormalised after the cast: a bf16 unit vector is not one
        local[name] = F.normalize(at_least_fp32(output[f"{name}_features"]), dim=-1)
    has_signal, has_text = batch["has_signal"].bool(), batch["has_text"].bool()
    keys = torch.stack([batch["patient_key"], batch["report_key"]], dim=1)
    all_keys = gather(keys)
    target = rank() * len(keys) + torch.arange(len(keys), device=keys.device)
    same = ((keys[:, None] == all_keys[None]) & (keys[:, None] != -1)).any(-1)
    same[torch.arange(len(keys), device=keys.device), target] = False
    return Items(
        **local,
        **{f"all_{name}": gather(features) for name, features in local.items()},
        has_signal=has_signal,
        has_text=has_text,
        all_has_signal=gather(has_signal.to(torch.uint8)).bool(),
        all_has_text=gather(has_text.to(torch.uint8)).bool(),
        same=same,
        target=target,
    )


def _cross_entropy(logits: Tensor, items: Items, valid: Tensor, all_valid: Tensor, smoothing: float) -> Tensor:
    """Mean over valid rows of -log softmax at the own column, over columns that are valid and true negatives."""
    logits = logits.masked_fill(items.same | ~all_valid[None], float("-inf"))
    logits = torch.where(valid[:, None], logits, torch.zeros_like(logits))  # rows of no use must not give NaN
    log_probability = logits.log_softmax(-1)
    own = log_probability.gather(1, items.target[:, None]).squeeze(1)
    if smoothing:
        finite = log_probability.isfinite()
        mean = log_probability.masked_fill(~finite, 0).sum(-1) / finite.sum(-1)
        own = (1 - smoothing) * own + smoothing * mean
    return global_mean(-(own * valid).sum(), valid.sum())


def gram_loss(items: Items, logit_scale: Tensor, smoothing: float = 0.0) -> Tensor:
    """Each image against all (signal, text) pairs, each pair against all images; logits are -scale x volume."""
    valid = items.has_signal & items.has_text
    all_valid = items.all_has_signal & items.all_has_text
    by_image = -logit_scale * gram_volume(items.image, items.all_signal, items.all_text)
    by_pair = -logit_scale * gram_volume(items.all_image, items.signal, items.text).T
    return 0.5 * (
        _cross_entropy(by_image, items, valid, all_valid, smoothing)
        + _cross_entropy(by_pair, items, valid, all_valid, smoothing)
    )


PAIRS = ("image_signal", "image_text", "signal_text")


def pair_losses(
    items: Items, logit_scale: Tensor, pairs: Sequence[str] = PAIRS, smoothing: float = 0.0
) -> dict[str, Tensor]:
    """InfoNCE of each of the ``pairs``, both directions."""
    both = items.has_signal & items.has_text
    all_both = items.all_has_signal & items.all_has_text
    known = {
        "image_signal": (items.has_signal, items.all_has_signal),
        "image_text": (items.has_text, items.all_has_text),
        "signal_text": (both, all_both),
    }
    losses = {}
    for pair in pairs:
        (one, all_one), (other, all_other) = (
            (getattr(items, name), getattr(items, f"all_{name}")) for name in pair.split("_")
        )
        ways = [
            _cross_entropy(logit_scale * logits, items, *known[pair], smoothing)
            for logits in (one @ all_other.T, other @ all_one.T)
        ]
        losses[pair] = (ways[0] + ways[1]) / 2
    return losses


def pair_loss(items: Items, logit_scale: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean of the three pairs' losses: it fixes the sign of the page's features and keeps the text in.

    Signal with text is among them since the volume says little of it once page and signal agree.
    """
    losses = pair_losses(items, logit_scale, PAIRS, smoothing)
    return torch.stack(list(losses.values())).mean()
