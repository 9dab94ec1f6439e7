"""Settings that a sweep and an ablation share: what each trial starts from, and how trials run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from ecgscan_ray.config.loading import by_key
from ecgscan_ray.config.section import Section
from ecgscan_ray.config.settings import Config


class TrialsConfig(Section):
    """Many short runs of one base config with other settings."""

    base: str = "laptop"
    """Preset (or path of a YAML file) that every trial starts from."""
    base_overrides: dict[str, Any] = {}
    """Dotted keys changed in every trial, e.g. fewer steps."""
    metric: str = "validation.score"
    """What trials are ranked by; higher is better."""
    max_concurrent: int = Field(1, ge=1)
    """Trials that run at the same time."""
    deadline_s: float = Field(3600.0, gt=0)
    """No trial starts after this, and running ones stop at their next report."""

    overrides: ClassVar[tuple[str, ...]] = ("base_overrides",)
    """Fields that hold settings of a run by dotted keys."""

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, content: Any) -> Any:
        return cls.mergeable(content) if isinstance(content, Mapping) else content

    @classmethod
    def mergeable(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """What trials change, by dotted keys: nested settings change only what they name."""
        by_dots = dict(content)
        for name in cls.overrides:
            if isinstance(by_dots.get(name), Mapping):
                by_dots[name] = by_key(Config, by_dots[name])
        return by_dots
