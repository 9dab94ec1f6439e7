"""AdamW with warm-up and cosine; matrices decay, vectors (norms, biases, scales, position embeddings) do not."""

from __future__ import annotations

import math

import torch
from torch import nn

from ecgscan_ray.config import TrainingConfig
from ecgscan_ray.training.towers import tower_layers


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over trainable parameters, in groups with and without weight decay for each factor of the learning rate.

    On GPUs its fused kernels are used: one launch for all parameters.

    Raises:
        ConfigError: ``layer_decay`` and a model without a tower of layers.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    scales = _learning_rate_scales(model, config.layer_decay)
    groups = [
        {"params": [p for p in trainable if scales.get(p, 1.0) == scale and test(p)], "weight_decay": decay}
        | {"lr_scale": scale}
        for scale in sorted({1.0, *scales.values()}, reverse=True)
        for test, decay in ((_is_matrix, config.weight_decay), (_is_vector, 0.0))
    ]
    fused = True if trainable and all(parameter.is_cuda for parameter in trainable) else None
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=fused)


def _is_matrix(parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2


def _is_vector(parameter: nn.Parameter) -> bool:
    return parameter.ndim < 2


def _learning_rate_scales(model: nn.Module, layer_decay: float) -> dict[nn.Parameter, float]:
    """Factor of the learning rate of each parameter of the first tower: 1 in its last layer; empty without a decay."""
    if layer_decay == 1:
        return {}
    layers = tower_layers(model, "training.layer_decay")
    return {p: layer_decay ** (len(layers) - 1 - depth) for depth, layer in enumerate(layers) for p in layer}


def learning_rate(step: int, total_steps: int, config: TrainingConfig) -> float:
    """Rate of optimiser step ``step`` (from 0): linear warm-up, then a half cosine down to its floor."""
    warmup = min(config.warmup_steps, total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(total_steps - warmup, 1)
    floor = config.min_learning_rate_ratio
    return config.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group of parameters the rate, times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
