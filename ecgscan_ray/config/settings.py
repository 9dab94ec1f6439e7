"""Every setting of a run: unit, range, default."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ecgscan_ray.uris import absolute


class Unit(str):
    """Unit of a setting whose key does not end in one; part of its type."""


Weight = float
Pixels = Annotated[int, Unit("px")]
Seconds = Annotated[float, Unit("s")]
Hertz = Annotated[float, Unit("Hz")]
Share = Annotated[float, Field(ge=0)]
Chance = Annotated[float, Field(ge=0, le=1)]
Speed = Annotated[float, Field(ge=1, le=400)]
Gain = Annotated[float, Field(ge=0.1, le=400)]


SIGNAL_SECONDS = 10.0
"""Length of the signal tower's input and of the redrawn leads: as long as a page (``paper.layout.PAGE_SECONDS``)."""

MAX_UNIT_BYTES = 32 * 2**20
"""Of one block: Ray Data splits larger ones."""

SAMPLE_BYTES = (
    4 * (384 * 512 * 3 + 3 * 48 * 64 * 4) + 320 * 320 * 3 + 24 * 40 * 40 * 4 + 240 * 1024 * 3 + 1024 * 5 + 128
)
"""Bytes of one row of the rectifier's batch (``reading.maker.SampleBatch``), keys included."""


class Section(BaseModel):
    """A frozen group of settings; unknown keys are errors, and so are numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def mergeable(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """A file's content in the form in which overrides are merged into it."""
        return dict(content)


class PageConfig(Section):
    """What a page looks like and what happened to it (room ``paper``)."""

    height: Pixels = Field(160, ge=64, le=4096)
    """Page height in pixels."""
    width: Pixels = Field(208, ge=64, le=4096)
    """Page width in pixels."""
    channels: Literal[1, 3] = 1
    """1 = grey, 3 = RGB."""
    fit: Literal["pad", "stretch"] = "stretch"
    """How a page of other proportions fills the image: with a margin, or by unequal px/mm. Never by a crop."""
    layouts: dict[str, Share] = {"3x4+1": 1.0}
    """Layout -> share of pages. A name (``3x4+1``, ``6x2/cabrera``, ``12x1``, ``3x4/simultaneous``), or your own, column by
    column: ``I II III | aVR aVL aVF | V1 V2 V3 | V4 V5 V6 + II``."""
    effects: Literal["clean", "scan", "photo", "fax", "screen", "mixed"] = "mixed"
    """What happened to the page: nothing, a flat-bed scan, a photograph by phone, a fax or worn copy, the photograph of a
    screen, or a mixture of all."""
    strength: float = Field(1.0, ge=0, le=3)
    """Factor on the size of every effect; 0 = none."""
    effect_probabilities: dict[str, Chance] = {}
    """Effect -> probability, instead of the one of ``effects``: ``{turn: 0.25, curl: 0.3, writing: 0}``."""
    effect_ranges: dict[str, tuple[float, float]] = {}
    """Effect -> least and greatest size, instead of those of ``effects``, in the units of ``paper.effects.EFFECTS``. One that
    is not in ``effects`` needs a probability in ``effect_probabilities`` too."""
    keep_leads: bool = True
    """Move and shrink the page until every lead lies in the image; else leads can be cropped (and are then not named)."""
    paper_speed_mm_per_s: float = Field(25.0, ge=1, le=400)
    """Paper speed in mm/s."""
    gain_mm_per_mv: float = Field(10.0, ge=0.1, le=400)
    """Gain in mm/mV."""
    speeds: dict[Speed, Share] = {}
    """Paper speed -> share of pages, instead of the one speed. For pages as files and for ``rectifier``; page encoders are
    trained at one speed."""
    gains: dict[Gain, Share] = {}
    """Gain -> share of pages, instead of the one gain. As ``speeds``."""
    half_gain_precordial_probability: Chance = 0.0
    """Share of pages whose chest leads are drawn at half the gain. As ``speeds``."""
    label_faces: dict[Literal["sans", "bold", "mono", "serif"], Share] = {"sans": 0.6, "bold": 0.3, "serif": 0.1}
    """Face of the lead labels -> share of pages."""
    label_places: dict[Literal["above", "below", "inset"], Share] = {"above": 0.75, "below": 0.25}
    """Place of the lead labels -> share of pages: above or below the trace at its start, or above it and further in."""
    paper: Literal["letter", "a4", "strip"] = "letter"
    """Page size, held sideways; a strip is 112 mm high."""
    jitter: float = Field(1.0, ge=0, le=1)
    """How far position, pitch and margins of the rows vary from page to page; 0 = one fixed geometry."""
    max_extra_header: float = Field(0.15, ge=0, le=0.5)
    """Share of the rows' height that a deeper header takes, at most, on every second page (less with less ``jitter``): rows of
    a printed page can begin 90 mm below its edge."""
    baseline: Literal["median", "none"] = "median"
    """What each strip is drawn around: its own median, as a cart's high-pass filter does, or 0 mV."""
    amplitude_clip: Literal["page", "row"] = "page"
    """Where large amplitudes are cut: at the page's edge (they overlap other rows), or half way to the next row."""

    @model_validator(mode="after")
    def _ranges(self):
        for name, (low, high) in self.effect_ranges.items():
            if not 0 <= low <= high < 1e3:
                raise ValueError(f"effect_ranges.{name}: {low:g} to {high:g} is no range")
        return self


class StreamConfig(Section):
    """How rows become batches (rooms ``store``, ``runtime``)."""

    unit_rows: int | None = Field(None, ge=1)
    """Rows that one rendering task turns into one block; none = the largest divisor of a worker's share of the batch whose
    block is at most 32 MB."""
    window_row_groups: int = Field(4, ge=1)
    """Parquet row groups gathered in one window, inside which rows are permuted."""
    prefetch_units: int = Field(8, ge=1)
    """Units fetched ahead by each trainer."""
    stall_timeout_s: float = Field(60.0, gt=0)
    """After this time without a unit the log names the stage that waits, and what for."""


class ImageTowerConfig(Section):
    name: str = "resnet10t"
    """Any timm model by name."""
    kwargs: dict[str, Any] = {}
    """Passed to ``timm.create_model``."""
    path: str | None = None
    """A local folder with weights and ``config.json`` (timm's ``local-dir:``) instead of random weights."""


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
    image: ImageTowerConfig = ImageTowerConfig()
    signal: SignalTowerConfig = SignalTowerConfig()
    text: TextTowerConfig = TextTowerConfig()
    decoder: DecoderConfig = DecoderConfig()

    @model_validator(mode="after")
    def _fits(self):
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
    def _some_pair(self):
        shares = self.pair_weights.values()
        if min(shares, default=0) < 0 or sum(shares) <= 0:
            raise ValueError("pair_weights requires weights of at least 0, and one above 0")
        return self

    @property
    def uses_text(self) -> bool:
        """Whether any term of the loss depends on reports."""
        pairs = [name for name, share in self.pair_weights.items() if share and "text" in name]
        return self.gram_weight > 0 or (self.pair_weight > 0 and bool(pairs))


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


class PageKind(Section):
    """Some of the pages of a run."""

    share: float = Field(gt=0)
    """How frequent these pages are, relative to those of the other kinds."""
    page: dict[str, Any] = {}
    """Settings of ``page`` that differ on them: ``{effects: scan, paper: a4}``. A mapping replaces the whole one of ``page``;
    other ``effects`` come with their own probabilities and ranges, unless these are given here."""


class RectifierConfig(Section):
    """The networks that read pages of any kind, as ``ecgscan rectifier`` trains them (rooms ``rectification``, ``reading``)."""

    pages: tuple[PageKind, ...] = ()
    """Kinds of pages that are mixed in one run; none = those of ``page`` alone."""


class AugmentConfig(Section):
    """What is done to leads and reports before they are embedded, so that recordings are not memorised."""

    lead_dropout: float = Field(0.5, ge=0, le=1)
    """Largest share of leads that are dropped; drawn for each recording."""
    gain: float = Field(0.2, ge=0)
    """Standard deviation of the logarithm of the gain."""
    noise_mv: float = Field(0.05, ge=0)
    """Largest standard deviation of the noise."""
    token_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of a report's tokens that are left out."""


class TrainingConfig(Section):
    """Optimiser, schedule, bookkeeping (room ``training``)."""

    global_batch_size: int = Field(96, ge=2)
    """Rows in the batch over all workers: the negatives of the contrastive loss."""
    steps: int | None = Field(None, ge=1)
    """Optimiser steps of the run; give this or ``epochs``."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the training rows."""
    learning_rate: float = Field(1.5e-3, gt=0)
    """Highest learning rate, after the warm-up."""
    min_learning_rate_ratio: float = Field(0.01, ge=0, le=1)
    """Where the cosine ends, as a share of ``learning_rate``."""
    warmup_steps: int = Field(30, ge=0)
    """Steps over which the learning rate rises from 0."""
    weight_decay: float = Field(0.05, ge=0)
    """Of AdamW."""
    beta2: float = Field(0.98, gt=0, lt=1)
    """Of AdamW."""
    micro_batch: int | None = Field(None, ge=1)
    """Rows that the towers of one worker see at once; none = all. Fewer rows need less memory and twice the forward work;
    the loss is still that of the whole batch (GradCache)."""
    term_gradients_every: int = Field(100, ge=0)
    """Steps between measurements of each loss term's gradient norm at the image tower; 0 = never."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` = bf16 only where a probe shows that the hardware multiplies in bf16 faster than in fp32."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of metrics."""
    sinks: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Where metrics go besides the run folder's own files."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints; the last step always has one."""
    validation_rows: int = Field(256, ge=0)
    """``validation.score`` is measured on at most this many validation recordings with every checkpoint; 0 = never."""
    augment: AugmentConfig = AugmentConfig()
    drop_signal_fraction: float = Field(0.0, ge=0, le=1)
    """Share of patients whose recorded signals the objective never sees, as if only their pages were available."""
    shuffle_pairs: bool = False
    """Control: pair each page with another recording's signal and report, so that nothing can be learned."""

    @model_validator(mode="after")
    def _one_length(self):
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of training.steps and training.epochs")
        return self


class ResourceConfig(Section):
    """Workers, CPUs, GPUs, memory, failures (room ``runtime``)."""

    num_workers: int = Field(1, ge=1)
    """Ray Train workers."""
    use_gpu: bool = False
    """One GPU for each training worker."""
    cpus_per_worker: float = Field(0.5, ge=0)
    """Ray's logical CPUs a training worker reserves."""
    torch_threads: int | None = Field(None, ge=1)
    """Threads of torch in a training worker; none = the machine's cores."""
    render_actors: int = Field(2, ge=1)
    """Processes that render pages."""
    cpus_per_render_actor: float = Field(0.3, gt=0)
    """Ray's logical CPUs that each of them reserves."""
    cpus_per_read: float = Field(0.25, gt=0)
    """Ray's logical CPUs that each process reserves that reads the store; there is one for ten that render."""
    local_cpus: int | None = Field(None, ge=1)
    """Logical CPUs of a cluster started by the command itself; none = at least 4."""
    object_store_mb: int = Field(400, ge=80)
    """Object store of a cluster started by the command itself, MB (for each trial that a sweep runs at a time)."""
    max_failures: int = Field(3, ge=-1)
    """Restarts after a lost worker; -1 = no limit."""
    train_label: dict[str, str] = {}
    """Node labels that training workers require (empty on one machine)."""
    render_label: dict[str, str] = {}
    """Node labels that reading and rendering require (empty on one machine)."""


class EvaluationConfig(Section):
    split: Literal["validation", "test"] = "test"
    """Recordings that are measured."""
    bootstrap: int = Field(1000, ge=10)
    """Resamples of patients behind each 95 % interval."""
    batch_size: int = Field(64, ge=1)
    """Recordings in one forward pass."""
    probe_views: int = Field(2, ge=1)
    """Pages drawn of each training recording for the linear probe."""
    probe_rows: int = Field(20_000, ge=1)
    """At most this many training recordings (and validation recordings) behind the linear probe."""
    pages_shown: int = Field(12, ge=1)
    """Pages on the report's sheet."""
    redrawn_shown: int = Field(3, ge=1)
    """Recordings whose redrawn leads are plotted."""


class Config(Section):
    """All settings of one run."""

    seed: int = Field(0, ge=0)
    """Of weights, order, pages and dropout: the same seed gives the same run."""
    page: PageConfig = PageConfig()
    stream: StreamConfig = StreamConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    teacher: TeacherConfig = TeacherConfig()
    rectifier: RectifierConfig | None = None
    """Given = a run of ``ecgscan rectifier``; none = of another command."""
    training: TrainingConfig = TrainingConfig(steps=100)
    resources: ResourceConfig = ResourceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _units_fit(self):
        batch, workers, rows = self.training.global_batch_size, self.resources.num_workers, self.stream.unit_rows
        if batch % ((rows or 1) * workers):
            factors = (
                f"resources.num_workers = {workers}"
                if rows is None
                else f"stream.unit_rows x resources.num_workers = {rows} x {workers}"
            )
            raise ValueError(f"training.global_batch_size={batch} is no multiple of {factors}")
        return self

    @model_validator(mode="after")
    def _kinds_are_pages(self):
        self.page_kinds()
        return self

    def page_kinds(self) -> list[tuple[float, PageConfig]]:
        """Share and settings of each kind of page: those of ``rectifier.pages``, or ``page`` alone.

        Raises:
            ValueError: A kind's settings are none of ``page``, or out of their range.
        """
        kinds = self.rectifier.pages if self.rectifier else ()
        return [(kind.share, self._page_of(number, kind)) for number, kind in enumerate(kinds)] or [(1.0, self.page)]

    def _page_of(self, number: int, kind: PageKind) -> PageConfig:
        content = self.page.model_dump()
        if kind.page.get("effects", self.page.effects) != self.page.effects:
            content |= {"effect_probabilities": {}, "effect_ranges": {}}
        try:
            return PageConfig.model_validate(content | kind.page)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(str(part) for part in fault["loc"])[:80]
            raise ValueError(f"rectifier.pages.{number}.page.{key}: {fault['msg']}") from None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a block: page, leads with their masks, text and keys; or a rectifier's samples."""
        if self.rectifier is not None:
            return SAMPLE_BYTES
        return self.page.height * self.page.width * self.page.channels + 24 * self.model.sig_len + 2048

    @property
    def unit_rows(self) -> int:
        """Rows of a unit: ``stream.unit_rows``, derived where it is not given."""
        if self.stream.unit_rows is not None:
            return self.stream.unit_rows
        share = self.training.global_batch_size // self.resources.num_workers
        most = max(1, MAX_UNIT_BYTES // self.row_bytes)
        return max(rows for rows in range(1, min(share, most) + 1) if share % rows == 0)

    def training_identity(self) -> dict[str, Any]:
        """The settings that decide the run's outcome; a resumed run may differ in all others.

        Left out: workers and CPUs, evaluation, logging, checkpoint frequency, prefetching, timeouts, and the teacher's URI
        (not whether there is a teacher).
        """
        free: dict[str, Any] = {
            "resources": True,
            "evaluation": True,
            "stream": {"prefetch_units", "stall_timeout_s"},
            "training": {"log_every", "term_gradients_every", "sinks", "checkpoint_every"},
        }
        content = self.model_dump(mode="json", exclude=free)
        content["teacher"]["run"] = "given" if self.teacher.run else None
        return content

    def digest(self) -> str:
        """sha256 of what decides the run's outcome."""
        return hashlib.sha256(json.dumps(self.training_identity(), sort_keys=True).encode()).hexdigest()
