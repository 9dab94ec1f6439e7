"""The protocol of a task, and the tasks by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np
from tokenizers import Tokenizer

from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError, RunError
from ecgscan_ray.training.task import ModelT, TrainingTask

TASKS = {
    "pretrain": ("ecgscan_ray.tasks.pretrain", "Pretrain"),
    "teach": ("ecgscan_ray.tasks.teach", "Teach"),
    "finetune": ("ecgscan_ray.tasks.finetune", "Finetune"),
    "rectifier": ("ecgscan_ray.tasks.rectifier", "Rectifier"),
}
"""Name -> module and class. The name is that of the command."""

Changes = dict[tuple[str, str], Any]
"""(section, key) of a setting -> its new value."""


@dataclass(frozen=True)
class FirstWeights:
    """Where a new run's first weights come from, besides its seed.

    Attributes:
        init_from: URI of a run of the same task.
        teacher: URI of the run of the frozen teacher that pages are aligned to.
        signal_mean: (D,), mean of the teacher's signal embeddings over the training recordings.
        report_mean: (C,), mean of its report embeddings.
    """

    init_from: str | None = None
    teacher: str | None = None
    signal_mean: np.ndarray | None = None
    report_mean: np.ndarray | None = None


class Task(TrainingTask[ModelT], Protocol[ModelT]):
    """One kind of run. A new one is one file in this room, and one line in ``TASKS`` and in ``makers.MAKERS``."""

    embeds_pages: ClassVar[bool]
    """Whether the model is a page encoder: pages may be aligned to a frozen teacher, and validation shows pictures."""
    contents: ClassVar[str]
    """What a run of this task holds, in the words of an error message."""
    scores: ClassVar[tuple[str, ...]]
    """Names that ``validation_score`` can measure."""

    def build_model(self, config: Config, tokenizer: Tokenizer) -> ModelT:
        """A freshly initialised model; its random weights are decided by ``config.seed``."""

    def init_weights(self, model: ModelT, source: FirstWeights) -> None:
        """Replace random weights by those of other runs.

        Raises:
            RunError: A run cannot be read, or is of another task.
        """

    def validation_score(self, model: ModelT, batches: Iterable[Any]) -> dict[str, float]:
        """``validation.*`` over batches on the model's device; empty without batches."""

    def uses_text(self, config: Config) -> bool:
        """Whether the loss needs reports."""

    def without_text(self, config: Config, store: str) -> Changes:
        """Changes to the settings for a store without reports; one line in the log says what is left out.

        Raises:
            ConfigError: The task cannot train without reports.
        """


SECTIONS = {
    "rectifier": "Use --preset rectifier, or a file based on it.",
    "finetune": "'ecgscan finetune' adds it to the settings of the run that it is given.",
}
"""Tasks with a section of their own in the settings -> where settings with it come from."""


def check_section(config: Config, task: str) -> None:
    """Settings with a section of one task are those of no other: it decides what a batch holds.

    Raises:
        ConfigError: They are for another task, or lack the section.
    """
    for name, fix in SECTIONS.items():
        given = getattr(config, name) is not None
        if task == name and not given:
            raise ConfigError(f"the settings have no section '{name}'", fix=fix)
        if task != name and given:
            what = f"settings of 'ecgscan {name}', not of 'ecgscan {task}'"
            raise ConfigError(what, where=name, fix=f"Leave the section '{name}' out, or use another preset.")


def get_task(name: str) -> Task[Any]:
    """The task of a name.

    Raises:
        RunError: There is no such task in this version.
    """
    if name not in TASKS:
        raise RunError(f"task '{name[:40]}' is not one of {', '.join(TASKS)}")
    module, cls = TASKS[name]
    task: Task[Any] = getattr(import_module(module), cls)()
    return task
