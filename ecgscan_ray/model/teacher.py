"""The teacher: recordings and reports in one space, trained without pages.

Three losses train it: contrast of a recording with its report, contrast with a masked view of itself, and reconstruction of
the masked samples (masked signal modelling). Letters: N recordings, T samples, F channels, D features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.config import Config, ModelConfig
from ecgscan_ray.model.external import ExternalSignalEncoder
from ecgscan_ray.model.output import MaskedView, TeacherOutput
from ecgscan_ray.model.signal_encoder import SignalEncoder, join
from ecgscan_ray.model.text import TextEncoder

MASKED_SPAN_S = 0.6
"""Length of a masked span: most of a beat, so that it cannot be continued from its own ends."""

MAX_LOG_SCALE = math.log(1 / 0.01)
"""Bound of the learnable logit scales: a temperature of 0.01, as in CLIP (arXiv 2103.00020); lower ones are unstable."""


def mask_spans(
    signal_mv: Tensor, share: float, span_len: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Mask spans of the leads: half of the share on all leads at once, half lead by lead.

    The masked samples then have to be inferred from the beats before and after, or from the other leads.

    Args:
        signal_mv: (N, 12, T).
        share: Of the samples, about.
        span_len: Samples of a span.
        generator: Random generator; none = the device's.

    Returns:
        The leads with 0 where masked, and where that is: bool (N, 12, T).
    """
    n, leads, samples = signal_mv.shape
    spans = -(-samples // span_len)
    masked = torch.rand(n, leads + 1, spans, device=signal_mv.device, generator=generator) < share / 2
    hidden = (masked[:, :1] | masked[:, 1:]).repeat_interleave(span_len, -1)[..., :samples]
    return signal_mv.masked_fill(hidden, 0.0), hidden


class SignalReconstructionHead(nn.Module):
    """The tower's map back to samples: each position of the map gives its own stretch of all leads.

    Args:
        channels: F.
        positions: Length of the map.
        samples: T.
    """

    def __init__(self, channels: int, positions: int, samples: int) -> None:
        super().__init__()
        self.samples, self.samples_per_position = samples, -(-samples // positions)
        self.mix = nn.Sequential(
            nn.Conv1d(channels, 2 * channels, 5, padding=2),
            nn.GELU(),
            nn.Conv1d(2 * channels, 12 * self.samples_per_position, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, F, t) -> (N, 12, T) in mV."""
        stretches = self.mix(features).unflatten(1, (12, self.samples_per_position))  # (N, 12, samples, t)
        return stretches.transpose(2, 3).flatten(2)[..., : self.samples].float()


def build_signal_encoder(config: Config) -> SignalEncoder | ExternalSignalEncoder:
    """The teacher's signal side."""
    if config.teacher.encoder is not None:
        return ExternalSignalEncoder(config.teacher.encoder, config.model)
    return SignalEncoder(config.model, config.training.augment)


class Teacher(nn.Module):
    """Signal encoder, text encoder, and the head that reconstructs masked samples.

    Args:
        config: The run's settings.
        vocab_size: Tokens of the tokenizer (small text tower only).
    """

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        model, augment = config.model, config.training.augment
        self.mask_ratio = config.teacher.mask_ratio
        self.span_len = max(round(MASKED_SPAN_S * model.signal_fs), 1)
        self.signal_encoder = build_signal_encoder(config)
        self.text_encoder = TextEncoder(model, vocab_size, augment)
        self.reconstruction_head: SignalReconstructionHead | None = None
        if isinstance(self.signal_encoder, SignalEncoder):
            signal = torch.zeros(1, 12, model.sig_len)
            with torch.no_grad():
                positions = self.signal_encoder.feature_map(signal, torch.ones_like(signal)).shape[-1]
            channels = self.signal_encoder.signal.channels
            self.reconstruction_head = SignalReconstructionHead(channels, positions, model.sig_len)
        self.pair_log_scale = nn.Parameter(torch.tensor([math.log(1 / config.objective.temperature)]))

    def encode_signal(self, signal_mv: Tensor) -> Tensor:
        """Leads in mV, centred, missing samples 0: (N, 12, T) -> (N, D) of unit norm in fp32."""
        return self.signal_encoder(signal_mv)

    def encode_text(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask (N, L) -> (N, D) of unit norm in fp32, 0 in the timing part."""
        return self.text_encoder(token_ids, attention_mask)

    def forward(self, batch: DeviceBatch) -> TeacherOutput:
        """A batch on the device to what the teacher's objective needs."""
        signal = batch["centred_mv"]
        return {
            "signal_features": self.encode_signal(signal),
            "text_features": self.encode_text(batch["token_ids"], batch["attention_mask"]),
            **self.reconstruct_masked(signal),
            "pair_logit_scale": self.pair_log_scale[0].exp(),
        }

    def reconstruct_masked(self, signal_mv: Tensor) -> MaskedView:
        """Mask spans and reconstruct them; in evaluation mode the same spans at every call.

        Args:
            signal_mv: (N, 12, T), centred, missing samples 0.
        """
        generator = None if self.training else torch.Generator(signal_mv.device).manual_seed(0)
        visible, hidden = mask_spans(signal_mv, self.mask_ratio, self.span_len, generator)
        if self.reconstruction_head is None or not isinstance(self.signal_encoder, SignalEncoder):
            return {"hidden": hidden, "masked_view_features": self.signal_encoder(visible)}
        features = self.signal_encoder.feature_map(visible, ~hidden)
        return {
            "hidden": hidden,
            "masked_view_features": self.signal_encoder.forward_map(features),
            "reconstructed_mv": self.reconstruction_head(features),
        }

    @torch.no_grad()
    def clamp_scales(self) -> None:
        """Keep the learnable logit scale within its range; called after each optimiser step."""
        self.pair_log_scale.clamp_(0.0, MAX_LOG_SCALE)


class Projection(nn.Linear):
    """From the teacher's space into a trainable one: centre, normalise, multiply. It starts as the identity.

    Centring, since vectors that share a direction make hubs.

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
    """A frozen teacher, and trainable projections of its embeddings.

    Args:
        config: The run's settings; those of the model's signal and text side are the teacher's.
        vocab_size: Tokens of the teacher's tokenizer (small text tower only).
    """

    def __init__(self, config: Config, vocab_size: int) -> None:
        super().__init__()
        model: ModelConfig = config.model
        self.content_dim, self.timing_dim, self.timing_share = model.content_dim, model.timing_dim, model.timing_share
        self.signal_encoder = build_signal_encoder(config).requires_grad_(False)
        self.text_encoder = TextEncoder(model, vocab_size, config.training.augment).requires_grad_(False)
        self.signal_projection, self.report_projection = Projection(model.embed_dim), Projection(model.content_dim)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """The projections train; the encoders stay in evaluation mode."""
        super().train(mode)
        self.signal_encoder.eval()
        self.text_encoder.eval()
        return self

    def load_teacher(self, teacher: Teacher, signal_mean: Tensor, report_mean: Tensor) -> None:
        """Copy a teacher's weights, and the means (D,), (content_dim,) of its embeddings of the training recordings."""
        self.signal_encoder.load_state_dict(teacher.signal_encoder.state_dict())
        self.text_encoder.load_state_dict(teacher.text_encoder.state_dict())
        self.signal_projection.mean.copy_(signal_mean)
        self.report_projection.mean.copy_(report_mean)

    @torch.no_grad()
    def embed_signal(self, signal_mv: Tensor) -> Tensor:
        """The teacher's embedding of a recording: (N, 12, T) in mV, centred -> (N, D)."""
        return self.signal_encoder(signal_mv)

    @torch.no_grad()
    def embed_report(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The teacher's embedding of a report: token ids and mask (N, L) -> (N, content_dim)."""
        return self.text_encoder(token_ids, attention_mask)[:, : self.content_dim]

    def project_signal(self, embeddings: Tensor) -> Tensor:
        """(N, D) of ``embed_signal`` -> (N, D) of unit norm in fp32."""
        projected = self.signal_projection(embeddings)
        content, timing = projected.split([self.content_dim, self.timing_dim], dim=-1)
        return join(content, timing, self.timing_share)

    def project_report(self, embeddings: Tensor) -> Tensor:
        """(N, content_dim) of ``embed_report`` -> (N, D) of unit norm in fp32, 0 in the timing part."""
        return F.pad(F.normalize(self.report_projection(embeddings).float(), dim=-1), (0, self.timing_dim))
