"""Pretraining of a page encoder: all towers together, or pages aligned to a frozen teacher."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from tokenizers import Tokenizer
from torch import nn

from ecgscan_ray.batch import Batch, DeviceBatch
from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.evaluation.score import PAGE_SCORES, page_score
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.leads import LeadsEncoder
from ecgscan_ray.model.output import ModelOutput
from ecgscan_ray.model.signal_encoder import SignalEncoder
from ecgscan_ray.objective.metrics import batch_metrics
from ecgscan_ray.objective.objective import Objective
from ecgscan_ray.tasks.loading import load_run, load_teacher
from ecgscan_ray.tasks.task import Changes, FirstWeights
from ecgscan_ray.training.task import BatchTransform, Loss, Tensors
from ecgscan_ray.training.tensors import to_device
from ecgscan_ray.training.transforms import control_transforms

logger = logging.getLogger(__name__)


class Pretrain:
    """The task of ``ecgscan pretrain``."""

    name: str = "pretrain"
    embeds_pages: ClassVar[bool] = True
    row_name: str = "images"
    contents: ClassVar[str] = "a page encoder"
    scores: ClassVar[tuple[str, ...]] = PAGE_SCORES

    def build_model(self, config: Config, tokenizer: Tokenizer) -> ECGScan:
        """A freshly initialised model; its random weights are decided by ``config.seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return ECGScan(config, tokenizer.get_vocab_size())

    def to_device(self, batch: Batch, device: torch.device, config: Config) -> DeviceBatch:
        """Pages, signals in mV, and masks of what the page shows."""
        return to_device(batch, device, config.model.signal_fs)

    def build_loss(self, config: Config) -> Loss:
        """Contrast of the three modalities, reconstruction of the leads, and the page's frame."""
        return Objective(config.objective)

    def metrics(self, output: ModelOutput, batch: DeviceBatch) -> Tensors:
        """Metrics of this rank's rows."""
        return batch_metrics(output, batch)

    def batch_transforms(self, config: Config) -> Sequence[BatchTransform]:
        """The control experiments."""
        return control_transforms(config.training)

    def diagnosed_module(self, model: ECGScan) -> nn.Module:
        """The image tower, or that of the leads: contrast trains both, and the decoder's terms the former alone."""
        return model.page.signal_encoder.signal if isinstance(model.page, LeadsEncoder) else model.page.tower

    def after_step(self, model: ECGScan) -> None:
        """Clamp the logit scales."""
        model.clamp_scales()

    def init_weights(self, model: ECGScan, source: FirstWeights) -> None:
        """Weights of the frozen teacher and of an earlier run; with a teacher, only the page encoder of the latter."""
        if source.teacher is not None and model.teacher is not None:
            assert source.signal_mean is not None and source.report_mean is not None
            teacher = load_teacher(source.teacher).model
            means = torch.from_numpy(source.signal_mean), torch.from_numpy(source.report_mean)
            model.teacher.load_teacher(teacher, *means)
            # redrawn leads are embedded as recorded ones are
            if isinstance(teacher.signal_encoder, SignalEncoder):
                model.page.signal_encoder.load_state_dict(teacher.signal_encoder.state_dict())
        if source.init_from:
            earlier = load_run(source.init_from).model
            if source.teacher is not None:
                model.page.load_state_dict(earlier.page.state_dict())
            else:
                model.load_state_dict(earlier.state_dict())

    def validation_score(self, model: ECGScan, batches: Iterable[DeviceBatch]) -> dict[str, float]:
        """Retrieval from pages to signals and reports, and the redrawn leads."""
        return page_score(model, batches)

    def uses_text(self, config: Config) -> bool:
        """Whether any term with reports has a weight."""
        return config.objective.uses_text

    def without_text(self, config: Config, store: str) -> Changes:
        """Pages are aligned with signals alone."""
        objective = config.objective
        if not objective.pair_weight:
            raise ConfigError(
                "no training recording has a report, and objective.pair_weight=0 leaves nothing to align pages with",
                where=store,
                fix="Set objective.pair_weight above 0.",
            )
        logger.warning(
            "no reports in the store: pages are aligned with signals alone, the volume and the text pairs are left out "
            "(objective.gram_weight=0); validation.score is the mean of MRR page to signal and r on shown leads"
        )
        weights = {"image_signal": objective.pair_weights.get("image_signal") or 1.0}
        return {("objective", "gram_weight"): 0.0, ("objective", "pair_weights"): weights}
