"""Pretraining of the signal-text teacher, without pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from tokenizers import Tokenizer
from torch import nn

from ecgscan_ray.batch import Batch, DeviceBatch
from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.evaluation.score import TEACHER_SCORES, teacher_score
from ecgscan_ray.model.output import TeacherOutput
from ecgscan_ray.model.teacher import Teacher
from ecgscan_ray.objective.teacher import TeacherObjective, teacher_metrics
from ecgscan_ray.tasks.loading import load_teacher
from ecgscan_ray.tasks.task import Changes, FirstWeights
from ecgscan_ray.training.task import BatchTransform, Loss, Tensors
from ecgscan_ray.training.tensors import to_device
from ecgscan_ray.training.transforms import control_transforms


class Teach:
    """The task of ``ecgscan teach``."""

    name: str = "teach"
    embeds_pages: ClassVar[bool] = False
    row_name: str = "recordings"
    contents: ClassVar[str] = "a teacher, which reads no pages"
    scores: ClassVar[tuple[str, ...]] = TEACHER_SCORES

    def build_model(self, config: Config, tokenizer: Tokenizer) -> Teacher:
        """A freshly initialised model; its random weights are decided by ``config.seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return Teacher(config, tokenizer.get_vocab_size())

    def to_device(self, batch: Batch, device: torch.device, config: Config) -> DeviceBatch:
        """Signals in mV, and tokens."""
        return to_device(batch, device, config.model.signal_fs)

    def build_loss(self, config: Config) -> Loss:
        """Contrast with reports and with the masked recording, and reconstruction of masked samples."""
        return TeacherObjective(config)

    def metrics(self, output: TeacherOutput, batch: DeviceBatch) -> Tensors:
        """Metrics of this rank's rows."""
        return teacher_metrics(output, batch)

    def batch_transforms(self, config: Config) -> Sequence[BatchTransform]:
        """The control experiments."""
        return control_transforms(config.training)

    def diagnosed_module(self, model: Teacher) -> nn.Module:
        """The signal encoder, which every term trains."""
        return model.signal_encoder

    def after_step(self, model: Teacher) -> None:
        """Clamp the logit scale."""
        model.clamp_scales()

    def init_weights(self, model: Teacher, source: FirstWeights) -> None:
        """Weights of an earlier teacher."""
        if source.init_from:
            model.load_state_dict(load_teacher(source.init_from).model.state_dict())

    def validation_score(self, model: Teacher, batches: Iterable[DeviceBatch]) -> dict[str, float]:
        """Retrieval from signals to reports and from masked recordings to whole ones, and the reconstruction."""
        return teacher_score(model, batches)

    def uses_text(self, config: Config) -> bool:
        """Whether the contrast with reports has a weight."""
        return config.teacher.report_weight > 0

    def without_text(self, config: Config, store: str) -> Changes:
        """A teacher needs reports."""
        raise ConfigError(
            "no training recording has a report, and a teacher learns from reports",
            where=store,
            fix="Prepare a store with reports, or run 'ecgscan pretrain', which can do without.",
        )
