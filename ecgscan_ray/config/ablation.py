"""Settings of an ablation: named arms, each trained with each seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from ecgscan_ray.config.loading import by_key
from ecgscan_ray.config.settings import Config
from ecgscan_ray.config.trials import TrialsConfig


class AblationConfig(TrialsConfig):
    """A comparison of named arms on test patients (``ecgscan ablate``)."""

    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    """Arm -> dotted keys that it changes. The first is the baseline of the others. ``teacher.run: shared`` is a teacher that
    is trained first, one for all arms that name it."""
    baseline: dict[str, str] = {}
    """Arm -> the arm it is compared with, instead of the first."""
    seeds: list[int] = Field([0], min_length=1)
    """Each arm is trained with each of these seeds."""
    teacher_overrides: dict[str, Any] = {}
    """Dotted keys changed for the shared teacher, in addition to ``base_overrides``."""

    overrides: ClassVar[tuple[str, ...]] = ("base_overrides", "teacher_overrides")

    @classmethod
    def mergeable(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """As for every kind of trials, and in each arm."""
        by_dots = super().mergeable(content)
        if isinstance(by_dots.get("arms"), Mapping):
            by_dots["arms"] = {
                arm: by_key(Config, changes) if isinstance(changes, Mapping) else changes
                for arm, changes in by_dots["arms"].items()
            }
        return by_dots

    @model_validator(mode="after")
    def _known_arms(self) -> Self:
        for name in (*self.baseline, *self.baseline.values()):
            if name not in self.arms:
                raise ValueError(f"baseline names '{name}', which is no arm")
        return self

    @property
    def trials(self) -> int:
        """Trials of the whole ablation."""
        return len(self.arms) * len(self.seeds)
