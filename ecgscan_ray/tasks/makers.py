"""What makes each task's batches. Render actors load this file and no model: torch would cost each of them 0.6 GB."""

from __future__ import annotations

from collections.abc import Callable

from tokenizers import Tokenizer

from ecgscan_ray.batch import BatchMaker, RowMaker
from ecgscan_ray.config import Config
from ecgscan_ray.errors import RunError
from ecgscan_ray.reading.maker import SampleMaker
from ecgscan_ray.tasks.labelled import LabelledMaker


def pages(config: Config, tokenizer: Tokenizer) -> BatchMaker:
    """Pages, or what a reader would give of them, with signals and reports."""
    return BatchMaker(config, tokenizer)


def recordings(config: Config, tokenizer: Tokenizer) -> BatchMaker:
    """Signals and reports; nothing is rendered."""
    return BatchMaker(config, tokenizer, with_pages=False)


def samples(config: Config, tokenizer: Tokenizer) -> SampleMaker:
    """Samples cut from pages of several kinds."""
    return SampleMaker(config)


MAKERS: dict[str, Callable[[Config, Tokenizer], RowMaker]] = {
    "pretrain": pages,
    "teach": recordings,
    "finetune": LabelledMaker,
    "rectifier": samples,
}
"""Name of a task -> what turns recordings into the batches that its ``to_device`` takes."""


def build_maker(task: str, config: Config, tokenizer: Tokenizer) -> RowMaker:
    """The maker of a task's batches.

    Raises:
        RunError: There is no such task in this version.
        ConfigError: The settings are not for this task.
    """
    if task not in MAKERS:
        raise RunError(f"task '{task[:40]}' is not one of {', '.join(MAKERS)}")
    return MAKERS[task](config, tokenizer)
