"""A page encoder with a small head for classes: what fine-tuning trains.

Letters: N pages, 12 leads, T samples, F features, C classes, W windows.
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
WINDOW_S = 2.5
"""Length of the windows of recordings that are learned from, at random places, and scored, each half over the next; as the
supervised models of the PTB-XL benchmark (Strodthoff et al., IEEE J-BHI 2021)."""


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
        self.window = round(WINDOW_S * model.signal_fs)
        # masks of recordings are constant: ones would act as one more bias, and Adam would move all its weights at once
        self.known = 0.0 if config.finetune.first_weights is None else 1.0
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
        """Pages to (N, F)."""
        if isinstance(self.page, LeadsEncoder):
            return self.page.features(batch["leads_mv"], batch["leads_shown"])
        return self.page(batch["image"], (batch["frame_corners"], batch["layout"]) if self.training else None)[
            "features"
        ]

    def forward(self, batch: DeviceBatch) -> ClassifierOutput:
        """A batch on the device to log odds. Of a recording those of one window while training, else the largest of all."""
        if not self.of_recordings:
            return {"logits": self.head(self.features(batch)).float()}
        windows = random_window if self.training else all_windows
        leads = windows(batch["centred_mv"], self.window)
        pooled = self.page.signal_encoder.pool(leads.flatten(0, 1), self.known)[0]
        return {"logits": self.head(pooled).float().unflatten(0, leads.shape[:2]).amax(1)}

    @torch.inference_mode()
    def probability(self, features: Tensor) -> Tensor:
        """Features (N, F) to the chance of each class: (N, C)."""
        return self.head(features).float().sigmoid()


def random_window(leads_mv: Tensor, length: int) -> Tensor:
    """Leads (N, 12, T) to a window of each recording at a random place: (N, 1, 12, length), at most T."""
    n, leads, samples = leads_mv.shape
    length = min(length, samples)
    first = torch.randint(samples - length + 1, (n, 1, 1), device=leads_mv.device)
    index = first + torch.arange(length, device=leads_mv.device)
    return leads_mv.gather(-1, index.expand(-1, leads, -1))[:, None]


def all_windows(leads_mv: Tensor, length: int) -> Tensor:
    """Leads (N, 12, T) to windows that begin half a window apart: (N, W, 12, length), at most T."""
    length = min(length, leads_mv.shape[-1])
    return leads_mv.unfold(-1, length, max(length // 2, 1)).transpose(1, 2)
