"""Settings of pages: what they look like, what happened to them, which kinds a rectifier reads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ecgscan_ray.config.section import Chance, Gain, Pixels, Section, Share, Speed


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
    def _ranges(self) -> PageConfig:
        for name, (low, high) in self.effect_ranges.items():
            if not 0 <= low <= high < 1e3:
                raise ValueError(f"effect_ranges.{name}: {low:g} to {high:g} is no range")
        return self


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
