"""Settings that a store or the run's length does not allow are changed, each with one line in the log."""

from __future__ import annotations

import logging
from typing import Any

from ecgscan_ray.config import Config, build
from ecgscan_ray.runs.spec import total_steps
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.store.shards import iterate_reports
from ecgscan_ray.tasks.task import Changes, Task
from ecgscan_ray.text import is_finding

logger = logging.getLogger(__name__)


def fit_to_store(config: Config, task: Task[Any], store: str, manifest: Manifest) -> Config:
    """The settings that a run on this store has.

    Without reports, the terms that need them are left out. Without validation recordings, nothing is validated. A
    warm-up that takes the whole run is shortened to a tenth of it.

    Args:
        config: Settings as asked for.
        task: Of the run.
        store: URI of the store.
        manifest: Of the store; it has training recordings.

    Raises:
        ConfigError: The store has no reports, and the task cannot train without.
    """
    _warn_of_repeats(config, manifest)
    changes = _validation_changes(config, manifest) | _warmup_changes(config, total_steps(config, manifest))
    if task.uses_text(config) and not has_reports(store, manifest):
        changes |= task.without_text(config, store)
    return build(Config, _changed(config, changes), where=store) if changes else config


def has_reports(store: str, manifest: Manifest) -> bool:
    """Whether any training recording has a report that says something."""
    return any(is_finding(report) for report in iterate_reports(store, manifest, "train"))


def _changed(config: Config, changes: Changes) -> dict[str, Any]:
    content = config.model_dump(mode="json")
    for (section, name), value in changes.items():
        content[section][name] = value
    return content


def _validation_changes(config: Config, manifest: Manifest) -> Changes:
    if not config.training.validation_rows or manifest.rows("validation"):
        return {}
    logger.warning(
        "no validation recordings in the store: nothing is validated, and the last checkpoint counts as the best. "
        "To validate, prepare the store with other --validation-folds or a column 'split'"
    )
    return {("training", "validation_rows"): 0}


def _warmup_changes(config: Config, steps: int) -> Changes:
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
