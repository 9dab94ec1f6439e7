"""The batch of fine-tuning: that of pretraining, with the classes of each recording. No torch: render actors load it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from ecgscan_ray.batch import Batch, BatchMaker, DeviceBatch, Integers
from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.recording.recording import Recording

if TYPE_CHECKING:
    from torch import Tensor


class LabelledBatch(Batch):
    """Rows for fine-tuning."""

    classes: np.ndarray
    """bool (N, C): which recording has which class."""
    has_classes: np.ndarray
    """bool (N,): false where it is not known; such rows count for nothing."""


class LabelledDeviceBatch(DeviceBatch):
    """The same as tensors on the model's device."""

    classes: Tensor
    has_classes: Tensor


class LabelledMaker:
    """Makes the batches of a run of ``ecgscan finetune``.

    Args:
        config: The run's settings.
        tokenizer: Of the run.

    Raises:
        ConfigError: The settings are not for this task.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        if config.finetune is None:
            raise ConfigError("the settings have no section 'finetune'", fix="Use 'ecgscan finetune'.")
        self.config, self._settings = config, config.finetune
        self._maker = BatchMaker(config, tokenizer, with_pages=self._settings.input == "pages")

    def make(
        self, recordings: Sequence[Recording], positions: Integers, epochs: Integers, view: int = 0
    ) -> LabelledBatch:
        """One batch of N recordings; arguments as of ``BatchMaker.make``."""
        members = [frozenset(codes) for codes in self._settings.classes.values()]
        classes = np.array([[not codes.isdisjoint(r.labels) for codes in members] for r in recordings], bool)
        classes = classes.reshape(len(recordings), len(members))
        labelled = np.array([bool(r.labels) for r in recordings], bool)
        has_classes = labelled if self._settings.keep_negatives else classes.any(1)
        batch = self._maker.make(recordings, positions, epochs, view)
        return {**batch, "classes": classes, "has_classes": has_classes & batch["page_ok"]}
