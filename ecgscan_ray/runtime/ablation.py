"""An ablation is a sweep over named arms: each is trained with each seed and measured, then all are set beside the first."""

from __future__ import annotations

from typing import Any

from safetensors.numpy import load

from ecgscan_ray.config import Config, SweepConfig, build, merge
from ecgscan_ray.cores import set_torch_threads
from ecgscan_ray.evaluation.ablation import Rows, compare
from ecgscan_ray.filesystem import join, read_bytes
from ecgscan_ray.report.ablation import write_ablation_report
from ecgscan_ray.report.evaluate import evaluate
from ecgscan_ray.runs.names import ROWS
from ecgscan_ray.runs.trials import TrialStore
from ecgscan_ray.runtime.pretrain import pretrain, teach

SHARED = "shared"
"""``teacher.run`` of an arm: the sweep's own teacher."""


def grid(config: SweepConfig) -> list[dict[str, Any]]:
    """All trials, seed after seed: a deadline that comes early still leaves arms of equal seeds."""
    return [{"arm": arm, "seed": seed} for seed in config.seeds for arm in config.arms]


def arms_with_teacher(config: SweepConfig, out: str) -> dict[str, dict[str, Any]]:
    """The arms' changes, with the place of the shared teacher for ``SHARED``."""
    place = {"teacher.run": join(out, "teacher")}
    return {
        arm: {**changes, **place} if changes.get("teacher.run") == SHARED else changes
        for arm, changes in config.arms.items()
    }


def teach_shared(config: SweepConfig, base: dict[str, Any], store: str, out: str) -> None:
    """The teacher of all arms that name it; nothing to do where none does, or where it is there."""
    if any(changes.get("teacher.run") == SHARED for changes in config.arms.values()):
        settings = build(Config, merge(base, config.teacher_overrides), where="teacher_overrides")
        teach(settings, store, join(out, "teacher"), quiet=True)


def train_and_measure(config: Config, store: str, out: str, **options: Any) -> None:
    """One trial: all arms have as many steps, so that it is the last checkpoint that is measured."""
    pretrain(config, store, out, **options)
    set_torch_threads(config.resources.torch_threads)
    evaluate(out, store=store, which="last")


def write_report(config: SweepConfig, book: TrialStore) -> dict[str, Any]:
    """The table of what was measured, as a report; its content."""
    trials = book.trials()
    runs: dict[str, dict[int, Rows]] = {arm: {} for arm in config.arms}
    for trial in trials:
        if trial.state == "done":
            rows = load(read_bytes(join(book.run_folder(trial.id), ROWS)))
            runs[trial.config["arm"]][trial.config["seed"]] = rows
    return write_ablation_report(book.out, compare(runs, config.baseline), config, trials)
