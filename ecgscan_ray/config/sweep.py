"""Settings of a sweep: a search space, or named arms, over the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from ecgscan_ray.config.loading import by_key
from ecgscan_ray.config.settings import Config, Section


class SearchRange(Section):
    """One dimension of a sweep: a range, or a list of choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: list[Any] | None = None

    @model_validator(mode="after")
    def _range_or_choices(self):
        if self.choices is None and (self.low is None or self.high is None or self.low >= self.high):
            raise ValueError("give low < high, or choices")
        if self.choices is None and self.log and (self.low is None or self.low <= 0):
            raise ValueError("a log range wants low > 0")
        return self


class SweepConfig(Section):
    """A search over settings of a base config (room ``runtime``)."""

    base: str = "laptop"
    """Preset (or path of a YAML file) that every trial starts from."""
    base_overrides: dict[str, Any] = {}
    """Dotted keys changed in every trial, e.g. fewer steps."""
    space: dict[str, SearchRange] = {}
    """Dotted key -> range, to be searched."""
    arms: dict[str, dict[str, Any]] = {}
    """Instead of a space, an ablation: name -> dotted keys that it changes. The first is what the others are set beside.
    ``teacher.run: shared`` is a teacher that is taught first, one for all arms that name it."""
    baseline: dict[str, str] = {}
    """Arm -> the arm it is set beside, instead of the first."""
    seeds: list[int] = [0]
    """Each arm is trained with each of these seeds."""
    teacher_overrides: dict[str, Any] = {}
    """Dotted keys changed for the shared teacher, beside ``base_overrides``."""
    metric: str = "validation.score"
    trials: int = Field(4, ge=1)
    max_concurrent: int = Field(1, ge=1)
    deadline_s: float = Field(3600.0, gt=0)
    """No trial starts after this, and running ones stop at their next report."""
    prune_quantile: float = Field(0.0, ge=0, lt=1)
    """A trial stops itself at a report when it lies below this quantile of earlier trials at the same step; 0 = never."""
    prune_grace: int = Field(1, ge=1)
    """Reports before a trial may stop."""
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, content: Any) -> Any:
        return cls.mergeable(content) if isinstance(content, Mapping) else content

    @classmethod
    def mergeable(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """What trials change, by dotted keys: nested settings change what they name alone."""
        by_dots = dict(content)
        for name in ("base_overrides", "teacher_overrides"):
            if isinstance(by_dots.get(name), Mapping):
                by_dots[name] = by_key(Config, by_dots[name])
        if isinstance(by_dots.get("arms"), Mapping):
            by_dots["arms"] = {
                arm: by_key(Config, changes) if isinstance(changes, Mapping) else changes
                for arm, changes in by_dots["arms"].items()
            }
        return by_dots

    @model_validator(mode="after")
    def _space_or_arms(self):
        if bool(self.space) == bool(self.arms):
            raise ValueError("give either a space to search or arms to set beside each other")
        for name in (*self.baseline, *self.baseline.values()):
            if name not in self.arms:
                raise ValueError(f"baseline names '{name}', which is no arm")
        return self

    @property
    def length(self) -> int:
        """Trials of the whole sweep."""
        return len(self.arms) * len(self.seeds) if self.arms else self.trials
