"""Zero-shot classification: each class is described in words, and pages are compared with the text features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from ecgscan_ray import text
from ecgscan_ray.evaluation.model import SignalTextModel


@torch.inference_mode()
def class_vectors(
    model: SignalTextModel,
    tokenizer: Tokenizer,
    prompts: Mapping[str, Sequence[str]],
    max_length: int,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """One unit vector per class: the mean of its prompts' text features.

    Args:
        model: In evaluation mode.
        tokenizer: That of the run.
        prompts: Class -> wordings in any language.
        max_length: Tokens to which a prompt is cut.
        device: Where the model lives.

    Returns:
        (C, D) float32 in the order of ``prompts``.
    """
    vectors = []
    for wordings in prompts.values():
        ids, mask = text.encode(tokenizer, [text.normalise(wording) for wording in wordings], max_length)
        features = model.encode_text(torch.as_tensor(ids, device=device), torch.as_tensor(mask, device=device))
        mean = features.float().mean(0)
        vectors.append((mean / mean.norm().clamp_min(1e-12)).cpu().numpy())
    return np.stack(vectors)


def zero_shot_scores(features: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(N, C) how much nearer features (N, D) are to each class vector (C, D) than to the classes on average, as cosines.

    The classes' words share a direction, that of findings as against none. Cosines alone rank recordings along it, whatever the
    class. A single class has its cosine.
    """
    cosine = features @ vectors.T
    return cosine if len(vectors) == 1 else cosine - cosine.mean(1, keepdims=True)
