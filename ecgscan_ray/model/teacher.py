"""The teacher: recordings and reports in one space, learned without pages.

Three tasks train it: a recording finds its report, a recording finds itself with parts hidden, and what was hidden is filled
in (masked signal modelling). Letters: N recordings, T samples, F channels, D features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.config import Config, ModelConfig
from ecgscan_ray.model.external import ExternalSignalEncoder
from ecgscan_ray.model.reader import SignalEncoder, join
from ecgscan_ray.model.text import TextEncoder


def mask_spans(
    signal_mv: Tensor, share: float, span: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
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


class SignalReconstructionHead(nn.Module):
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


def signal_reader(config: Config) -> SignalEncoder | ExternalSignalEncoder:
    """The teacher's signal side."""
    if config.teacher.encoder is not None:
        return ExternalSignalEncoder(config.teacher.encoder, config.model)
    return SignalEncoder(config.model, config.training.augment)


class Teacher(nn.Module):
    """Signal reader and report reader, and what trains them.

    Args:
        config: The run's settings.
        vocab_size: Tokens of the tokenizer (small text tower only).
    """

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        model, augment = config.model, config.training.augment
        self.share = config.teacher.mask_ratio
        self.span = max(round(config.teacher.hidden_seconds * model.signal_fs), 1)
        self.reader = signal_reader(config)
        self.report = TextEncoder(model, vocab_size, augment)
        self.fill_in: SignalReconstructionHead | None = None
        if isinstance(self.reader, SignalEncoder):
            with torch.no_grad():
                places = self.reader.signal(torch.zeros(1, 12, model.sig_len)).shape[-1]
            self.fill_in = SignalReconstructionHead(self.reader.signal.channels, places, model.sig_len)
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
        return {
            "signal_features": self.encode_signal(signal),
            "text_features": self.encode_text(batch["token_ids"], batch["attention_mask"]),
            **self.reconstruct_masked(signal),
            "pair_logit_scale": self.pair_log_scale.exp(),
        }

    def reconstruct_masked(self, signal_mv: Tensor) -> dict[str, Tensor]:
        """Hide parts and fill them in; in evaluation mode the same parts at every call.

        Args:
            signal_mv: (N, 12, T), centred, missing samples 0.

        Returns:
            ``hidden`` (N, 12, T), ``hidden_features`` (N, D) of what was left, and ``filled_mv`` (N, 12, T), unless the signal
            encoder is one of others, which has no map to fill in from.
        """
        generator = None if self.training else torch.Generator(signal_mv.device).manual_seed(0)
        left, hidden = mask_spans(signal_mv, self.share, self.span, generator)
        if self.fill_in is None or not isinstance(self.reader, SignalEncoder):
            return {"hidden": hidden, "hidden_features": self.reader(left)}
        features = self.reader.signal(left)
        embedded = self.reader.embed_map(features)
        return {"hidden": hidden, "hidden_features": embedded, "filled_mv": self.fill_in(features)}

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Keep the learnable logit scale within its range; called after each optimiser step."""
        self.pair_log_scale.clamp_(0.0, self.max_log_scale)


class Projection(nn.Linear):
    """From the teacher's space into one like it: centre, normalise, multiply. Where it starts, it does not turn anything.

    Vectors that share a direction would make hubs of it.

    Args:
        dim: Of both spaces.
    """

    mean: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim)
        self.register_buffer("mean", torch.zeros(dim))
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, vectors: Tensor) -> Tensor:
        """(N, D) -> (N, D)."""
        return super().forward(F.normalize(vectors - self.mean, dim=-1))


class FrozenTeacher(nn.Module):
    """A teacher that stays as it is, and trainable projections of what it says.

    Args:
        config: The run's settings; those of the model's signal and text side are the teacher's own.
        vocab_size: Tokens of the teacher's tokenizer (small text tower only).
    """

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        model: ModelConfig = config.model
        self.content_dim, self.timing_dim, self.timing_share = model.content_dim, model.timing_dim, model.timing_share
        self.reader = signal_reader(config).requires_grad_(False)
        self.report = TextEncoder(model, vocab_size, config.training.augment).requires_grad_(False)
        self.signal_projection, self.report_projection = Projection(model.embed_dim), Projection(model.content_dim)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """The projections train; what the teacher says of a recording stays the same."""
        super().train(mode)
        self.reader.eval()
        self.report.eval()
        return self

    def load_teacher(self, teacher: Teacher, signal_mean: Tensor, report_mean: Tensor) -> None:
        """Take over a teacher's weights, and the means (D,), (L,) of what it says of the training recordings."""
        self.reader.load_state_dict(teacher.reader.state_dict())
        self.report.load_state_dict(teacher.report.state_dict())
        self.signal_projection.mean.copy_(signal_mean)
        self.report_projection.mean.copy_(report_mean)

    @torch.no_grad()
    def embed_signal(self, signal_mv: Tensor) -> Tensor:
        """What is kept of a recording: (N, 12, T) in mV, centred -> (N, D)."""
        return self.reader(signal_mv)

    @torch.no_grad()
    def embed_report(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What is kept of a report: token ids and mask (N, L) -> (N, level)."""
        return self.report(token_ids, attention_mask)[:, : self.content_dim]

    def project_signal(self, said: Tensor) -> Tensor:
        """(N, D) of ``embed_signal`` -> (N, D) of unit norm in fp32."""
        level, timing = self.signal_projection(said).split([self.content_dim, self.timing_dim], dim=-1)
        return join(level, timing, self.timing_share)

    def project_report(self, said: Tensor) -> Tensor:
        """(N, level) of ``embed_report`` -> (N, D) of unit norm in fp32, 0 in the timing part."""
        return F.pad(F.normalize(self.report_projection(said).float(), dim=-1), (0, self.timing_dim))
