"""The teacher: recordings and reports in one space, learned without pages.

Three tasks train it: a recording finds its report, a recording finds itself with parts hidden, and what was hidden is filled
in (masked signal modelling). Letters: N recordings, T samples, F channels, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ecgscan_ray.config import Config
from ecgscan_ray.model.reader import SignalReader
from ecgscan_ray.model.text import ReportReader


def hide(signal_mv: Tensor, share: float, span: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Hide stretches of the leads: half of the share on all leads at once, half lead by lead.

    What a moment looked like has then to be told from the beats before and after, or from the other leads.

    Args:
        signal_mv: (N, 12, T).
        share: Of the samples, about.
        span: Samples a stretch.
        generator: Of the draw; the device's own if none.

    Returns:
        The leads with 0 where hidden, and where that is: bool (N, 12, T).
    """
    n, leads, samples = signal_mv.shape
    spans = -(-samples // span)
    draw = torch.rand(n, leads + 1, spans, device=signal_mv.device, generator=generator) < share / 2
    hidden = (draw[:, :1] | draw[:, 1:]).repeat_interleave(span, -1)[..., :samples]
    return signal_mv.masked_fill(hidden, 0.0), hidden


class FillIn(nn.Module):
    """The tower's map back to samples: each place of the map draws its own stretch of all leads.

    Args:
        channels: F.
        places: Length of the map.
        samples: T.
    """

    def __init__(self, channels: int, places: int, samples: int) -> None:
        super().__init__()
        self.samples, self.each = samples, -(-samples // places)
        self.mix = nn.Sequential(
            nn.Conv1d(channels, 2 * channels, 5, padding=2), nn.GELU(), nn.Conv1d(2 * channels, 12 * self.each, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, F, t) -> (N, 12, T) in mV."""
        drawn = self.mix(features).unflatten(1, (12, self.each))  # (N, 12, each, t)
        return drawn.transpose(2, 3).flatten(2)[..., : self.samples].float()


class Teacher(nn.Module):
    """Signal reader and report reader, and what trains them.

    Args:
        config: The run's settings.
        vocab_size: Tokens of the tokenizer (small text tower only).
    """

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        model, augment = config.model, config.training.augment
        self.share = config.teacher.hidden_share
        self.span = max(round(config.teacher.hidden_seconds * model.signal_fs), 1)
        self.reader = SignalReader(model, augment)
        self.report = ReportReader(model, vocab_size, augment)
        with torch.no_grad():
            places = self.reader.signal(torch.zeros(1, 12, model.sig_len)).shape[-1]
        self.fill_in = FillIn(self.reader.signal.channels, places, model.sig_len)
        self.pair_log_scale = nn.Parameter(torch.tensor(math.log(1 / config.objective.temperature)))
        self.max_log_scale = math.log(1 / config.objective.temperature_min)

    def encode_signal(self, signal_mv: Tensor) -> Tensor:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> (N, D) of unit norm in fp32."""
        return self.reader(signal_mv)

    def encode_text(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (N, L) -> (N, D) of unit norm in fp32, 0 in the timing part."""
        return self.report(token_ids, attention_mask)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on the device to everything the teacher's objective wants."""
        signal = batch["centred_mv"]
        features, filled, hidden = self.fill(signal)
        return {
            "signal_features": self.encode_signal(signal),
            "text_features": self.encode_text(batch["token_ids"], batch["attention_mask"]),
            "hidden_features": features,
            "filled_mv": filled,
            "hidden": hidden,
            "pair_logit_scale": self.pair_log_scale.exp(),
        }

    def fill(self, signal_mv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hide parts and fill them in; in evaluation mode the same parts at every call.

        Args:
            signal_mv: (N, 12, T), centred, missing samples 0.

        Returns:
            The features of what was left (N, D), all leads as filled in (N, 12, T) in mV, what was hidden (N, 12, T).
        """
        device = signal_mv.device
        generator = None if self.training else torch.Generator(device).manual_seed(0)
        left, hidden = hide(signal_mv, self.share, self.span, generator)
        features = self.reader.signal(left)
        heart, timing = self.reader.read_map(features)
        return self.reader.join(self.reader.heart_level(heart), timing), self.fill_in(features), hidden

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Keep the learnable logit scale within its range; called after each optimiser step."""
        self.pair_log_scale.clamp_(0.0, self.max_log_scale)
