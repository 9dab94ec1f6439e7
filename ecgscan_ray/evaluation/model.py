"""The models that evaluation measures, by what it calls of them."""

from __future__ import annotations

from typing import Protocol, Self

from torch import Tensor

from ecgscan_ray.batch import DeviceBatch


class SignalTextModel(Protocol):
    """Embeds recordings and reports in one space of D dimensions; an ``nn.Module``."""

    training: bool

    def eval(self) -> Self:
        """Evaluation mode."""

    def train(self, mode: bool = True) -> Self:
        """Training mode, or evaluation mode with ``False``."""

    def encode_signal(self, signal_mv: Tensor, /) -> Tensor:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> (N, D) of unit norm."""

    def encode_text(self, token_ids: Tensor, attention_mask: Tensor, /) -> Tensor:
        """Token ids and mask (N, L) -> (N, D) of unit norm."""


class PageModel(SignalTextModel, Protocol):
    """Embeds pages in the same space, and redraws their leads."""

    def encode_page(self, batch: DeviceBatch, /) -> tuple[Tensor, Tensor, Tensor]:
        """Pages of a batch, as pictures or as read -> features (N, D) of unit norm, features (N, P) for a classifier, leads in mV
        (N, 12, T)."""
