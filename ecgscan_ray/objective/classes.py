"""The loss of fine-tuning: binary cross-entropy of each class, and the scores that validation compares checkpoints by.

Letters: N rows, C classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.distributed import global_mean


def classification_loss(logits: Tensor, classes: Tensor, applies: Tensor) -> Tensor:
    """Mean over the rows of all ranks, and over classes, of the binary cross-entropy.

    Args:
        logits: (N, C) log odds.
        classes: (N, C) bool, several may be true.
        applies: (N,) bool; false for rows whose classes are not known.

    Returns:
        (); 0 without rows.
    """
    with torch.autocast(logits.device.type, enabled=False):
        each = F.binary_cross_entropy_with_logits(logits.float(), classes.float(), reduction="none").mean(1)
        return global_mean((each * applies).sum(), applies.sum())
