"""The pages of the benchmark: the same for every encoder, whatever it was trained on.

Each recording has one page in each condition; its looks depend on the recording and the condition alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ecgscan_ray.config import Config, PageConfig, build

SEED = 0
"""Of pages, subsets and resamples."""


@dataclass(frozen=True)
class Condition:
    """Pages of one kind.

    Attributes:
        name: As in the names of figures.
        title: For the report.
        page: Settings of ``page`` that make it; all others are the defaults.
        as_trained: The pages that probes are fitted on: encoders of leads get them without drawing and reading, as in their
            training.
    """

    name: str
    title: str
    page: tuple[tuple[str, Any], ...] = ()
    as_trained: bool = False

    @property
    def page_config(self) -> PageConfig:
        """Settings of its pages."""
        return PageConfig(**dict(self.page))

    def digest(self) -> str:
        """Identifies the pages."""
        content = [SEED, self.name, self.as_trained, self.page_config.model_dump(mode="json")]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


FIT = Condition("fit", "training pages", (("effects", "mixed"),), as_trained=True)
"""Training and validation pages, for probes of all conditions."""
RECORDING = Condition("recording", "recordings")
"""No page: the recorded signal, and the report."""
MIXED = Condition("mixed", "mixed", (("effects", "mixed"),))
"""The headline condition: its name is left out of names of figures."""
LAYOUTS = Condition("layouts", "other layouts", (("effects", "mixed"), ("layouts", {"6x2": 1.0, "12x1": 1.0})))
"""Not held out from a run that was trained on one of them: the report says so."""
CONDITIONS = (
    MIXED,
    Condition("clean", "clean", (("effects", "clean"),)),
    Condition("photo", "photographs", (("effects", "photo"),)),
    LAYOUTS,
)
"""Test pages."""

ALL = (FIT, RECORDING, *CONDITIONS)


def with_pages(config: Config, condition: Condition) -> Config:
    """A run's settings with the condition's pages, in the size and colour that its encoder takes."""
    content = config.model_dump(mode="json")
    own = {key: content["page"][key] for key in ("height", "width", "channels", "fit")}
    page = condition.page_config.model_dump(mode="json") | own
    return build(Config, content | {"seed": SEED, "page": page}, where=f"condition {condition.name}")


def is_held_out(config: Config, condition: Condition) -> bool:
    """Whether a run saw none of the condition's layouts in training."""
    return not set(condition.page_config.layouts) & set(config.page.layouts)
