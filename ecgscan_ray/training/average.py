"""Running average of the weights, which is validated, saved as the model, and exported."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a model's parameters and buffers.

    Args:
        model: On the device, with its first weights.
        decay: Weight of the old average at each step, from some step on: at step k it is at most (1 + k) / (10 + k), so that
            the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model's weights after optimiser step ``step``, counted from 1."""
        weights = model.state_dict()
        moving = [name for name, tensor in weights.items() if tensor.is_floating_point()]
        move = get_ema_multi_avg_fn(min(self._decay, (1 + step) / (10 + step)))
        move([self._average[name] for name in moving], [weights[name] for name in moving], None)
        for name in weights.keys() - set(moving):
            self._average[name].copy_(weights[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights, named as the model's."""
        return self._average

    @torch.no_grad()
    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from averaged weights."""
        for name, tensor in weights.items():
            self._average[name].copy_(tensor)
