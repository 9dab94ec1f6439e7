"""Fine-tuning: a pretrained page encoder and a small head learn classes, all layers together.

The same task is two controls of the benchmark: from random first weights it is supervised training from scratch, and on
recordings instead of pages it is a supervised ceiling.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.config import Config
from ecgscan_ray.evaluation.bootstrap import macro_auroc_statistic
from ecgscan_ray.evaluation.scores import best_thresholds
from ecgscan_ray.model.classifier import ClassifierOutput, PageClassifier
from ecgscan_ray.model.leads import LeadsEncoder
from ecgscan_ray.objective.classes import classification_loss
from ecgscan_ray.tasks.labelled import LabelledBatch, LabelledDeviceBatch
from ecgscan_ray.tasks.loading import load_run
from ecgscan_ray.tasks.task import Changes, FirstWeights
from ecgscan_ray.training.task import BatchTransform, Loss, Tensors
from ecgscan_ray.training.tensors import to_device


class Finetune:
    """The task of ``ecgscan finetune``."""

    name: str = "finetune"
    embeds_pages: ClassVar[bool] = False
    row_name: str = "pages"
    contents: ClassVar[str] = "a fine-tuned page encoder"
    scores: ClassVar[tuple[str, ...]] = ("score", "macro_auroc")

    def build_model(self, config: Config, tokenizer: Tokenizer) -> PageClassifier:
        """A freshly initialised model; its random weights are decided by ``config.seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return PageClassifier(config)

    def to_device(self, batch: LabelledBatch, device: torch.device, config: Config) -> LabelledDeviceBatch:
        """Pages or leads as read, and classes."""
        return cast(LabelledDeviceBatch, to_device(batch, device, config.model.signal_fs))

    def build_loss(self, config: Config) -> Loss:
        """Binary cross-entropy."""

        def loss(output: ClassifierOutput, batch: LabelledDeviceBatch, progress: float = 0.0) -> Tensors:
            term = classification_loss(output["logits"], batch["classes"], batch["has_classes"])
            return {"classification_loss": term, "loss": term}

        return loss

    def metrics(self, output: ClassifierOutput, batch: LabelledDeviceBatch) -> Tensors:
        """Share of rows whose classes are known."""
        return {"labelled": batch["has_classes"].float().mean()}

    def batch_transforms(self, config: Config) -> Sequence[BatchTransform]:
        """None."""
        return ()

    def diagnosed_module(self, model: PageClassifier) -> nn.Module:
        """The tower that embeds pages."""
        of_signals = model.of_recordings or isinstance(model.page, LeadsEncoder)
        return model.page.signal_encoder.signal if of_signals else cast(nn.Module, model.page.tower)

    def after_step(self, model: PageClassifier) -> None:
        """Nothing to keep within a range."""

    def init_weights(self, model: PageClassifier, source: FirstWeights) -> None:
        """The page encoder of a run of ``pretrain``; the head keeps its random weights."""
        if source.init_from:
            model.page.load_state_dict(load_run(source.init_from).model.page.state_dict())

    def validation_score(self, model: PageClassifier, batches: Iterable[LabelledDeviceBatch]) -> dict[str, float]:
        """Macro AUROC over the classes that some rows have and others do not, as ``validation.score`` too."""
        logits, classes = validation_logits(model, batches)
        if not len(logits):
            return {}
        auroc = float(macro_auroc_statistic(logits, classes, np.ones((1, len(logits))))[0])
        return {"validation.score": auroc, "validation.macro_auroc": auroc} if np.isfinite(auroc) else {}

    def uses_text(self, config: Config) -> bool:
        """It reads no reports."""
        return False

    def without_text(self, config: Config, store: str) -> Changes:
        """Nothing changes."""
        return {}


@torch.inference_mode()
def validation_logits(model: PageClassifier, batches: Iterable[LabelledDeviceBatch]) -> tuple[np.ndarray, np.ndarray]:
    """Log odds and classes of the rows whose classes are known, in evaluation mode: (N, C) float32 and (N, C) bool."""
    was_training = model.training
    model.eval()
    try:
        parts = [(model(cast(DeviceBatch, batch))["logits"], batch) for batch in batches]
    finally:
        model.train(was_training)
    rows = [(logits[batch["has_classes"]], batch["classes"][batch["has_classes"]]) for logits, batch in parts]
    if not rows:
        return np.zeros((0, 0), np.float32), np.zeros((0, 0), bool)
    logits, classes = (torch.cat(column).cpu().numpy() for column in zip(*rows, strict=True))
    return logits, classes


def choose_thresholds(
    model: PageClassifier, batches: Iterable[LabelledDeviceBatch], names: Sequence[str]
) -> dict[str, float | None]:
    """Class -> the probability from which on it is predicted: the one with the best F1 on validation rows.

    ``None`` for a class that none of them has.
    """
    logits, classes = validation_logits(model, batches)
    if not len(logits):
        return dict.fromkeys(names, None)
    probability = torch.from_numpy(logits).sigmoid().numpy()
    thresholds = best_thresholds(probability, classes)
    return {name: float(value) if np.isfinite(value) else None for name, value in zip(names, thresholds, strict=True)}
