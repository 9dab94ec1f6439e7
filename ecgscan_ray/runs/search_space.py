"""The space of a sweep as Optuna's distributions, and which of its settings decide the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from ecgscan_ray.config import SearchRange

MIN_TRIALS = 10
"""Below so many trials importances would be chance."""


def bounds(span: SearchRange) -> tuple[float, float]:
    """Ends of a range that is not a list of choices."""
    assert span.low is not None and span.high is not None  # the config's own check
    return span.low, span.high


def distributions(space: Mapping[str, SearchRange]) -> dict[str, BaseDistribution]:
    """Dotted key -> what Optuna draws from."""
    return {
        key: FloatDistribution(*bounds(span), log=span.log)
        if span.choices is None
        else CategoricalDistribution(span.choices)
        for key, span in space.items()
    }


def importances(
    space: Mapping[str, SearchRange], points: Sequence[tuple[Mapping[str, Any], float]]
) -> dict[str, float] | None:
    """Share of the scores' variance that each setting explains by itself and with others: functional ANOVA (Hutter et al. 2014).

    Args:
        space: Dotted key -> range that was searched.
        points: Settings and score of each trial.

    Returns:
        Dotted key -> share, the greatest first, 1 in all; ``None`` where there are too few trials, or all scored the same.
    """
    if len(points) < MIN_TRIALS or len({score for _, score in points}) < 2:
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, spans = optuna.create_study(direction="maximize"), distributions(space)
    for settings, score in points:
        params = {key: settings[key] for key in space}
        study.add_trial(create_trial(params=params, distributions=spans, value=score))
    return get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
