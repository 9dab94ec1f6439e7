"""What a store and a run's length do not allow is left out of the settings, each with one line that says so."""

from __future__ import annotations

import logging
from typing import Any

from ecgscan_ray.config import Config, ObjectiveConfig, build
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.runs.spec import total_steps
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.store.shards import iterate_reports
from ecgscan_ray.text import is_finding

logger = logging.getLogger(__name__)


def fit_to_store(config: Config, store: str, manifest: Manifest) -> Config:
    """The settings that a run on this store has.

    Without reports, the terms that need them are left out. Without validation recordings, nothing is validated. A
    warm-up that takes the whole run is shortened to a tenth of it.

    Args:
        config: Settings as asked for.
        store: URI of the store.
        manifest: Of the store; it has training recordings.

    Raises:
        ConfigError: A teacher is to learn from reports, and there are none; or nothing of the loss is left.
    """
    _warn_of_repeats(config, manifest)
    changes = _validation_changes(config, manifest) | _warmup_changes(config, total_steps(config, manifest))
    if _needs_text(config) and not has_reports(store, manifest):
        changes |= _text_changes(config, store, validated=manifest.rows("validation") > 0)
    return build(Config, _changed(config, changes), where=store) if changes else config


def has_reports(store: str, manifest: Manifest) -> bool:
    """Whether any training recording has a report that says something."""
    return any(is_finding(report) for report in iterate_reports(store, manifest, "train"))


def _changed(config: Config, changes: dict[tuple[str, str], Any]) -> dict[str, Any]:
    content = config.model_dump(mode="json")
    for (section, name), value in changes.items():
        content[section][name] = value
    return content


def _needs_text(config: Config) -> bool:
    return config.teacher.report_weight > 0 if config.task == "teach" else config.objective.uses_text


def _text_changes(config: Config, store: str, validated: bool) -> dict[tuple[str, str], Any]:
    if config.task == "teach":
        raise ConfigError(
            "no training recording has a report, and a teacher learns from reports",
            where=store,
            fix="Prepare a store with reports, or run 'ecgscan pretrain', which can do without.",
        )
    shares = _shares_without_text(config.objective)
    if not config.objective.pair_weight:
        raise ConfigError(
            "no training recording has a report, and objective.pair_weight=0 leaves nothing to align pages with",
            where=store,
            fix="Set objective.pair_weight above 0.",
        )
    logger.warning(
        "no reports in the store: pages are aligned with signals alone, the volume and the text pairs are left out "
        "(objective.gram_weight=0)%s",
        "; validation.score is the mean of MRR page to signal and r on shown leads" if validated else "",
    )
    return {("objective", "gram_weight"): 0.0, ("objective", "pair_weights"): shares}


def _shares_without_text(objective: ObjectiveConfig) -> dict[str, float]:
    return {"image_signal": objective.pair_weights.get("image_signal") or 1.0}


def _validation_changes(config: Config, manifest: Manifest) -> dict[tuple[str, str], Any]:
    if not config.training.validation_rows or manifest.rows("validation"):
        return {}
    logger.warning(
        "no validation recordings in the store: nothing is validated, and the last checkpoint counts as the best. "
        "To validate, prepare the store with other --validation-folds or a column 'split'"
    )
    return {("training", "validation_rows"): 0}


def _warmup_changes(config: Config, steps: int) -> dict[tuple[str, str], Any]:
    if config.training.warmup_steps < max(steps, 2):
        return {}
    warmup = steps // 10
    logger.warning(
        "training.warmup_steps=%d is not less than the run's %d steps: set to %d, or the learning rate would never "
        "reach its value",
        config.training.warmup_steps,
        steps,
        warmup,
    )
    return {("training", "warmup_steps"): warmup}


def _warn_of_repeats(config: Config, manifest: Manifest) -> None:
    """A batch larger than the split is allowed: a recording is never its own negative."""
    rows, batch = manifest.rows("train"), config.training.global_batch_size
    if rows < batch:
        logger.warning(
            "%d training recordings are fewer than training.global_batch_size=%d: each batch holds some of them more "
            "than once, on different pages",
            rows,
            batch,
        )
