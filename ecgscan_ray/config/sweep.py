"""Settings of a sweep: a search space over the settings of a run."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from ecgscan_ray.config.section import Section
from ecgscan_ray.config.trials import TrialsConfig


class SearchRange(Section):
    """One dimension of a sweep: a range, or a list of choices."""

    low: float | None = None
    """Least value."""
    high: float | None = None
    """Greatest value."""
    log: bool = False
    """Search on a logarithmic scale."""
    choices: list[Any] | None = None
    """Values to choose from, instead of a range."""

    @model_validator(mode="after")
    def _range_or_choices(self) -> SearchRange:
        if self.choices is None and (self.low is None or self.high is None or self.low >= self.high):
            raise ValueError("give low < high, or choices")
        if self.choices is None and self.log and (self.low is None or self.low <= 0):
            raise ValueError("a log range requires low > 0")
        return self


class SweepConfig(TrialsConfig):
    """A search for the best settings (``ecgscan sweep``)."""

    space: dict[str, SearchRange] = Field(min_length=1)
    """Dotted key -> range, to be searched."""
    trials: int = Field(4, ge=1)
    """Trials of the whole sweep."""
    prune_quantile: float = Field(0.0, ge=0, lt=1)
    """A trial stops itself at a report when it lies below this quantile of earlier trials at the same step; 0 = never."""
    prune_grace: int = Field(1, ge=1)
    """Reports before a trial may stop."""
    reduction_factor: int | None = Field(None, ge=2)
    """Asynchronous successive halving, instead of ``prune_quantile``: of the trials that made ``prune_grace`` reports, this many
    times as many, and so on, those stop that are not among the best 1 / this; none = no."""
    final_seeds: int = Field(0, ge=0)
    """Further seeds with which the best two trials run once more, for the noise between seeds; the better mean wins."""
    seed: int = 0
    """Seed of the search."""

    @model_validator(mode="after")
    def _one_rule_and_own_seeds(self) -> SweepConfig:
        if self.reduction_factor and self.prune_quantile:
            raise ValueError("give prune_quantile or reduction_factor, not both")
        if self.final_seeds and "seed" in self.space:
            raise ValueError("final_seeds repeats the best trials with other seeds, so 'seed' cannot be in the space")
        return self
