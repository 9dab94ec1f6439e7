"""Training of the networks that read pages of any kind: pose, grid and marks, the trace of a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ecgscan_ray.config import Config
from ecgscan_ray.objective.rectifier import RectifierObjective, reader_errors, summarise
from ecgscan_ray.reading.maker import DeviceSamples, SampleBatch, samples_to_device
from ecgscan_ray.reading.page_reader import PageReader, ReaderOutput
from ecgscan_ray.tasks.loading import load_rectifier
from ecgscan_ray.tasks.task import Changes, FirstWeights
from ecgscan_ray.training.task import BatchTransform, Loss, Tensors

HALF_SCORES_MM = {"coarse_across_mm": 5.0, "coarse_down_mm": 5.0, "grid_mm": 0.5, "height_mm": 0.25}
"""Mean error that is worth 1/2 in ``validation.score``; none is worth 1."""


class Rectifier:
    """The task of ``ecgscan rectifier``."""

    name: str = "rectifier"
    embeds_pages: ClassVar[bool] = False
    row_name: str = "pages"
    contents: ClassVar[str] = "the networks of a page reader"
    scores: ClassVar[tuple[str, ...]] = ("score", "turn_right", "presence_right")

    def build_model(self, config: Config, tokenizer: Tokenizer) -> PageReader:
        """Freshly initialised networks; their random weights are decided by ``config.seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return PageReader()

    def to_device(self, batch: SampleBatch, device: torch.device, config: Config) -> DeviceSamples:
        """Pictures as bytes, and targets."""
        return samples_to_device(batch, device)

    def build_loss(self, config: Config) -> Loss:
        """Pose, grid, marks, height and presence."""
        return RectifierObjective()

    def metrics(self, output: ReaderOutput, batch: DeviceSamples) -> Tensors:
        """Mean and median errors of this rank's rows."""
        return summarise(reader_errors(output, batch))

    def batch_transforms(self, config: Config) -> Sequence[BatchTransform]:
        """None."""
        return ()

    def diagnosed_module(self, model: PageReader) -> nn.Module:
        """All networks: each term trains its own."""
        return model

    def after_step(self, model: PageReader) -> None:
        """Move the averaged weights."""
        model.update_average()

    def init_weights(self, model: PageReader, source: FirstWeights) -> None:
        """Weights and averages of an earlier run."""
        if source.init_from:
            model.load_state_dict(load_rectifier(source.init_from).model.state_dict())

    @torch.inference_mode()
    def validation_score(self, model: PageReader, batches: Iterable[DeviceSamples]) -> dict[str, float]:
        """Errors of the averaged networks on samples of validation pages.

        Returns:
            ``validation.*`` of each error's mean and median, and ``validation.score``: the mean of the shares of right turns
            and presence and of 1 / (1 + error / its ``HALF_SCORES_MM``), in 0..1.
        """
        was_training = model.training
        model.eval()
        try:
            parts = [reader_errors(model.forward_averaged(batch), batch) for batch in batches]
        finally:
            model.train(was_training)
        if not parts:
            return {}
        means = {name: float(value) for name, value in summarise(_concatenate(parts)).items()}
        scores = [1 / (1 + means[name] / half) for name, half in HALF_SCORES_MM.items()]
        scores += [means["turn_right"], means["presence_right"]]
        return {"validation.score": sum(scores) / len(scores)} | {f"validation.{k}": v for k, v in means.items()}

    def uses_text(self, config: Config) -> bool:
        """It reads no reports."""
        return False

    def without_text(self, config: Config, store: str) -> Changes:
        """Nothing changes."""
        return {}


def _concatenate(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
