"""Settings of the networks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ecgscan_ray.config.section import Hertz, Seconds, Section, Unit

SIGNAL_SECONDS = 10.0
"""Length of the signal tower's input and of the redrawn leads: as long as a page (``paper.layout.PAGE_SECONDS``)."""


class ImageTowerConfig(Section):
    name: str = "resnet10t"
    """Any timm model by name."""
    kwargs: dict[str, Any] = {}
    """Passed to ``timm.create_model``."""
    path: str | None = None
    """First weights instead of random ones: a local folder with weights and ``config.json`` (timm's ``local-dir:``), or a
    checkpoint file that timm converts for ``name``, e.g. of open_clip. Positions are interpolated to the page's size, and
    colours summed up for grey pages."""


class SignalTowerConfig(Section):
    kind: Literal["resnet1d", "transformer1d"] = "resnet1d"
    """Architecture of the signal encoder."""
    width: int = Field(48, ge=8)
    """Channels of the first stage (ResNet) or of every layer (transformer)."""
    depth: int = Field(4, ge=1)
    """Stages (ResNet, each doubling the stride) or layers (transformer)."""


class TextTowerConfig(Section):
    name: str = "small"
    """``small`` (trained from scratch with a tokenizer fitted on the corpus), or a transformers encoder's name or path."""
    width: int = Field(128, ge=16)
    """Features of each token (``small`` only)."""
    depth: int = Field(2, ge=0)
    """Transformer layers (``small`` only); 0 = the mean of the tokens' embeddings."""
    heads: int = Field(4, ge=1)
    """Attention heads (``small`` only)."""
    max_length: int = Field(64, ge=8)
    """Tokens a report is cut to."""
    vocab_size: int = Field(2000, ge=64)
    """Size of the fitted tokenizer (``small`` only)."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout in training (``small`` only)."""


class DecoderConfig(Section):
    width: int = Field(96, ge=16)
    """Features of each column read."""
    columns_per_s: int = Field(50, ge=5)
    """Columns read from each second of trace; divides ``model.signal_fs``."""
    sample_range_mv: float = Field(2.4, gt=0)
    """A row is sampled this far above and below its baseline."""
    sample_rows: int = Field(64, ge=16)
    """Samples of the image in each column."""
    cell_s: float = Field(0.4, gt=0)
    """Seconds of one lead in one cell of what is embedded."""


class ModelConfig(Section):
    """Towers, projections and decoder (room ``model``)."""

    embed_dim: int = Field(256, ge=8)
    """Size of an embedding, content and timing part together."""
    timing_dim: int = Field(64, ge=4)
    """Dimensions of the timing part, which encodes when things happen; the text loss does not see it."""
    timing_share: float = Field(0.3, ge=0, lt=1)
    """Weight of the timing part in a cosine between page and signal."""
    signal_fs: Annotated[int, Unit("Hz")] = Field(100, ge=25)
    """Sampling rate of the signal tower's input and of the redrawn leads."""
    input: Literal["image", "leads"] = "image"
    """What of a page is embedded: its picture, by the image tower, or the leads that the page reader reads from it, by the
    signal tower. Leads are trained on recordings cut to what pages show, with a reader's errors: no page is drawn."""
    image: ImageTowerConfig = ImageTowerConfig()
    signal: SignalTowerConfig = SignalTowerConfig()
    text: TextTowerConfig = TextTowerConfig()
    decoder: DecoderConfig = DecoderConfig()

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.timing_dim >= self.embed_dim:
            raise ValueError(f"timing_dim={self.timing_dim} is not below embed_dim={self.embed_dim}")
        if self.signal_fs % self.decoder.columns_per_s:
            raise ValueError(
                f"decoder.columns_per_s={self.decoder.columns_per_s} does not divide signal_fs={self.signal_fs}"
            )
        return self

    @property
    def content_dim(self) -> int:
        """Dimensions of the content part."""
        return self.embed_dim - self.timing_dim

    @property
    def sig_len(self) -> int:
        """Samples a lead, T."""
        return round(self.signal_fs * SIGNAL_SECONDS)


class ExternalEncoderConfig(Section):
    """An external signal encoder, frozen, as the signal side of a teacher."""

    path: str
    """Its weights: TorchScript, or safetensors for a ``factory``. TorchScript is a program: it reaches no files, but it
    may never return."""
    factory: str | None = None
    """``package.module:function`` that gives the module without weights; what it imports must be installed, and the command
    must name the module: ``--trust package.module``."""
    dim: int = Field(ge=1)
    """Dimensions of its embedding."""
    fs: Hertz = Field(500.0, gt=0)
    """Sampling rate of its input."""
    seconds: Seconds = Field(10.0, gt=0)
    """Length of its input."""
    leads: tuple[str, ...] | None = None
    """Order of its leads, e.g. I II III aVR aVF aVL V1 ... V6; none = ours."""
    units_per_mv: float = Field(1.0, gt=0)
    """Its unit: 1 = mV, 1000 = uV."""
    known: str
    """Safetensors file with ``signal_mv`` (K, 12, T), in mV, in our order of leads and at its rate, and ``embedding`` (K, E),
    from its own code: they are compared whenever it is loaded."""
