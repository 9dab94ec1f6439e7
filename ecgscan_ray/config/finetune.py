"""Settings of fine-tuning: what a page encoder learns to tell apart."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ecgscan_ray.config.section import Section


class FinetuneConfig(Section):
    """Classes, and how the encoder starts; ``ecgscan finetune`` fills it in from the task that it is given."""

    task: str
    """Name of the benchmark's task, e.g. ``superclass``."""
    classes: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Class -> codes of the store's labels; a recording with any of them has the class."""
    keep_negatives: bool = False
    """Recordings with labels but none of the classes are negatives of all classes; else they are left out."""
    input: Literal["pages", "recordings"] = "pages"
    """What is embedded: pages, or, as a ceiling, the recordings themselves by the signal tower."""
    first_weights: str | None = None
    """sha256 of the weights that the encoder starts with, those of a run; none = random ones, as a control."""
    label_share: float = Field(1.0, gt=0, le=1)
    """Share of the labelled training recordings that is used."""
    subset: int = Field(0, ge=0)
    """Number of the random subset of that share; the linear probes of the benchmark use the same ones."""
