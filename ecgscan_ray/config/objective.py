"""Settings of what is learned: weights and temperatures of pretraining, and the teacher."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ecgscan_ray.config.model import ExternalEncoderConfig
from ecgscan_ray.config.section import Section, Weight
from ecgscan_ray.uris import absolute


class Schedule(Section):
    """How the weight of one loss term moves over the run."""

    warmup: float = Field(0.0, ge=0, le=1)
    """Share of the run over which it rises from 0."""
    final_factor: float = Field(1.0, ge=0)
    """Factor on it at the run's end, linear from 1 at the start."""


class ObjectiveConfig(Section):
    """Weights and temperatures of every loss term (room ``objective``)."""

    gram_weight: Weight = Field(1.0, ge=0)
    """All three at once: Gramian volume of image, signal and text (or what ``triple`` names)."""
    triple: Literal["gram", "triangle"] = "gram"
    """Volume of the three vectors, or area of the triangle of their ends."""
    pair_weight: Weight = Field(0.5, ge=0)
    """Pairwise contrastive term: fixes the sign, and contrasts reports directly."""
    pair: Literal["infonce", "siglip"] = "infonce"
    """Cross-entropy over the batch, or a sigmoid for each pair (better in small batches)."""
    pair_weights: dict[Literal["image_signal", "image_text", "signal_text"], float] = {
        "image_signal": 1.0,
        "image_text": 1.0,
        "signal_text": 1.0,
    }
    """Shares of the pairs in the pairwise term, a weighted mean; 0 or absent = left out."""
    mask_false_negatives: bool = True
    """Recordings of one patient, or with the same report, are not each other's negatives."""
    center_targets: bool = False
    """Subtract the batch's mean from signal and report features: a common direction makes hubs under the volume."""
    block_rows: int | None = Field(None, ge=1)
    """Rows of the score matrix held at once; none = all where they are few, else by size."""
    reconstruction_weight: Weight = Field(1.0, ge=0)
    """Redrawing the twelve leads in mV."""
    soft_lead_weight: Weight = Field(1.0, ge=0)
    """Residual of the four lead laws on the redrawn leads."""
    frame_weight: Weight = Field(0.3, ge=0)
    """Page frame and layout (truth from the renderer)."""
    soft_lead_delta_mv: float = Field(0.02, gt=0)
    """Where the Huber penalty on the residual turns from square to linear."""
    schedules: dict[Literal["gram", "pair", "reconstruction", "soft_lead", "frame"], Schedule] = {}
    """Term -> how its weight moves: ``{gram: {warmup: 0.1}, pair: {final_factor: 0.2}}``; none = constant. A volume gives a
    fresh embedding no direction, pairs do."""
    temperature: float = Field(0.07, gt=0)
    """Start of the learnable temperature (1 / logit scale)."""

    @model_validator(mode="after")
    def _some_pair(self) -> ObjectiveConfig:
        shares = self.pair_weights.values()
        if min(shares, default=0) < 0 or sum(shares) <= 0:
            raise ValueError("pair_weights requires weights of at least 0, and one above 0")
        return self

    @property
    def uses_text(self) -> bool:
        """Whether any term of the loss depends on reports."""
        pairs = [name for name, share in self.pair_weights.items() if share and "text" in name]
        return self.gram_weight > 0 or (self.pair_weight > 0 and bool(pairs))


class TeacherConfig(Section):
    """The signal-text teacher: how ``teach`` trains it, and which one ``pretrain`` aligns pages to."""

    run: str | None = None
    """URI of the run of a finished teacher that pages are aligned to, frozen; none = all towers train together."""
    report_weight: Weight = Field(1.0, ge=0)
    """Contrast of recordings with their reports."""
    masked_view_weight: Weight = Field(0.5, ge=0)
    """Contrast of a recording with a masked view of itself."""
    mask_ratio: float = Field(0.5, gt=0, lt=1)
    """Share of the samples that are masked."""
    encoder: ExternalEncoderConfig | None = None
    """External signal encoder; none = ``model.signal``, trained from scratch."""

    @field_validator("run")
    @classmethod
    def _without_credentials(cls, run: str | None) -> str | None:
        if run:
            absolute(run)  # raises; settings are printed and kept
        return run
