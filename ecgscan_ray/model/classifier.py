"""A page encoder with a small head for classes: what fine-tuning trains.

Letters: N pages, 12 leads, T samples, F features, C classes.
"""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.model.ecgscan import PageEncoder
from ecgscan_ray.model.leads import LeadsEncoder

DROPOUT = 0.2
"""Of the features in front of the head."""


class ClassifierOutput(TypedDict):
    """What a classifier gives."""

    logits: Tensor
    """(N, C) log odds."""


class ClassHead(nn.Sequential):
    """Features to log odds: normalise, drop out, multiply: (N, F) -> (N, C).

    Args:
        features: F.
        classes: C.
    """

    def __init__(self, features: int, classes: int) -> None:
        linear = nn.Linear(features, classes)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        super().__init__(nn.LayerNorm(features), nn.Dropout(DROPOUT), linear)


class PageClassifier(nn.Module):
    """The towers that embed pages, and the head. The decoder and the heads of alignment keep their weights.

    Args:
        config: The run's settings, with the section ``finetune``.

    Raises:
        ConfigError: They have none.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.finetune is None:
            raise ConfigError("the settings have no section 'finetune'", fix="Use 'ecgscan finetune'.")
        model, augment = config.model, config.training.augment
        self.page: PageEncoder | LeadsEncoder
        if model.input == "leads":
            self.page = LeadsEncoder(model, augment)
        else:
            self.page = PageEncoder(model, config.page, augment)
        self.of_recordings = config.finetune.input == "recordings"
        signal = self.page.signal_encoder
        features = 2 * signal.signal.channels if self.of_recordings else self.page.feature_dim
        self.head = ClassHead(features, len(config.finetune.classes))
        trained: list[nn.Module] = [signal.signal, signal.mean_max]
        if isinstance(self.page, PageEncoder) and not self.of_recordings:
            trained.append(self.page.tower)
        self.page.requires_grad_(False)
        for module in trained:
            module.requires_grad_(True)

    def features(self, batch: DeviceBatch) -> Tensor:
        """Pages, or recordings, to (N, F)."""
        if self.of_recordings:
            return self.page.signal_encoder.pool(batch["centred_mv"])[0]
        if isinstance(self.page, LeadsEncoder):
            return self.page.features(batch["leads_mv"], batch["leads_shown"])
        return self.page(batch["image"], (batch["frame_corners"], batch["layout"]) if self.training else None)[
            "features"
        ]

    def forward(self, batch: DeviceBatch) -> ClassifierOutput:
        """A batch on the device to log odds."""
        return {"logits": self.head(self.features(batch)).float()}

    @torch.inference_mode()
    def probability(self, features: Tensor) -> Tensor:
        """Features (N, F) to the chance of each class: (N, C)."""
        return self.head(features).float().sigmoid()
