"""What is measured: a run's encoder of pages, and its controls on the same pages.

A run gives several *views*: its own features, those of a random model of its shape, those that its signal tower gives of
the leads redrawn from the page, and, without any page, those of recordings and of reports. The signal tower is the frozen
teacher's where the run has one.

Letters: N recordings, 12 leads, T samples, F features for a classifier, D aligned features.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.benchmark.conditions import RECORDING, Condition
from ecgscan_ray.config import Config, FinetuneConfig, ImageTowerConfig, PageConfig
from ecgscan_ray.errors import InputError, RunError
from ecgscan_ray.filesystem import is_local, join, list_files, read_bytes
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.image import create_backbone, normalisation
from ecgscan_ray.model.signal_encoder import SignalEncoder
from ecgscan_ray.runs.checkpoints import Which, find_checkpoint, read_config, weights_digest
from ecgscan_ray.tasks.loading import load_classifier, load_run
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.tensors import centred

PAGE_VIEWS = ("run", "random", "digitised")
CLASSIFIER, RECORDING_CLASSIFIER = "classifier", "recording_classifier"
RECORDING_VIEWS = ("teacher", "reports")
GENERIC = "generic"
GENERIC_PX = 384
"""Height and width of the pages that a generic image encoder gets where its weights say no other size."""
REVISIONS = {"run": 2, "random": 2}
"""Of the views whose vectors the code has changed: files of an earlier revision are made again, and no others."""

Vectors = tuple[np.ndarray, np.ndarray]
"""Features (N, F) and aligned features (N, D); the second has D = 0 where there are none."""


@dataclass(frozen=True)
class EncoderSpec:
    """One thing to measure, as its files are called and made.

    Attributes:
        name: Unique in a benchmark.
        uri: Run folder, or folder of a timm model.
        view: ``run``, ``random``, ``digitised``, ``teacher``, ``reports``, ``generic``, ``classifier`` or
            ``recording_classifier``; the features of the last two are log odds.
        digest: Of the weights.
        home: Where its files are kept.
        which: Checkpoint.
        classifier: Settings of a fine-tuned run.
    """

    name: str
    uri: str
    view: str
    digest: str
    home: str
    which: Which = "best"
    classifier: FinetuneConfig | None = None

    @property
    def revision(self) -> str:
        """The view, and which code makes it."""
        return f"{self.view}-{REVISIONS[self.view]}" if self.view in REVISIONS else self.view

    def takes(self, condition: Condition) -> bool:
        """Whether it has features under this condition."""
        return (condition == RECORDING) == (self.view in (*RECORDING_VIEWS, RECORDING_CLASSIFIER))

    def folder(self, condition: Condition) -> str:
        """Where its files of a condition are."""
        return join(self.home, "features", f"{self.view}-{self.digest[:12]}", condition.name)


def run_specs(run: str, name: str, which: Which, controls: bool = True) -> list[EncoderSpec]:
    """A run's views; without ``controls`` only its own and those of recordings and reports.

    Raises:
        RunError: The run has no whole checkpoint.
    """
    weights = weights_digest(find_checkpoint(run, which))
    views = (*PAGE_VIEWS, *RECORDING_VIEWS) if controls else ("run", *RECORDING_VIEWS)
    names = {view: name if view == "run" else view if controls else f"{name}.{view}" for view in views}
    return [EncoderSpec(names[view], run, view, weights, run, which) for view in views]


def generic_spec(folder: str, out: str) -> EncoderSpec:
    """An image encoder as timm saves it (``config.json`` and weights), on a local disk.

    Raises:
        InputError: There is none.
    """
    names = set(list_files(folder)) if is_local(folder) else set()
    weights = sorted(name for name in names if name.endswith((".safetensors", ".bin")))
    if "config.json" not in names or not weights:
        fix = "Give a local folder as timm's save_for_hf writes it."
        raise InputError("no weights of timm here (config.json, model.safetensors)", where=folder, fix=fix)
    digest = hashlib.sha256(f"{GENERIC_PX}".encode())
    for name in ("config.json", *weights):
        digest.update(read_bytes(join(folder, name)))
    return EncoderSpec(GENERIC, folder, GENERIC, digest.hexdigest(), out)


def classifier_spec(run: str, name: str, which: Which) -> EncoderSpec:
    """A run of ``ecgscan finetune``.

    Raises:
        RunError: It is none, or has no whole checkpoint.
    """
    checkpoint = find_checkpoint(run, which)
    settings = read_config(checkpoint).finetune
    if settings is None:
        raise RunError("is no fine-tuned run", where=run, fix="Make one by 'ecgscan finetune'.")
    view = CLASSIFIER if settings.input == "pages" else RECORDING_CLASSIFIER
    return EncoderSpec(name, run, view, weights_digest(checkpoint), run, which, settings)


class ClassifierViews:
    """A fine-tuned model, and the log odds of a batch.

    Args:
        run: URI of the run folder.
        which: Checkpoint.
        device: Where the model lives.
    """

    def __init__(self, run: str, which: Which, device: str) -> None:
        loaded = load_classifier(run, which)
        self.config, self.tokenizer = loaded.config, loaded.tokenizer
        self.model = loaded.model.to(device).eval()

    @torch.inference_mode()
    def of_pages(self, batch: DeviceBatch, views: set[str]) -> dict[str, Vectors]:
        """View -> log odds."""
        return {view: _vectors(self.model(batch)["logits"]) for view in views}

    of_recordings = of_pages


class RunViews:
    """A run's model and a random one of its shape, and the views of a batch.

    Args:
        run: URI of the run folder.
        which: Checkpoint.
        device: Where the models live.
    """

    def __init__(self, run: str, which: Which, device: str) -> None:
        loaded = load_run(run, which)
        self.config, self.tokenizer, self.device = loaded.config, loaded.tokenizer, device
        self.model = loaded.model.to(device).eval()

    @cached_property
    def random(self) -> ECGScan:
        """The same architecture with fresh weights."""
        return Pretrain().build_model(self.config, self.tokenizer).to(self.device).eval()

    @torch.inference_mode()
    def of_pages(self, batch: DeviceBatch, views: set[str]) -> dict[str, Vectors]:
        """View -> vectors, of pages."""
        vectors = {}
        if views & {"run", "digitised"}:
            page, features, redrawn_mv = self.model.encode_page(batch)
            vectors["run"] = _vectors(features, page)
            if "digitised" in views:
                every = torch.ones_like(redrawn_mv, dtype=torch.bool)
                vectors["digitised"] = _vectors(signal_features(self.model, centred(redrawn_mv, every)))
        if "random" in views:
            page, features, _ = self.random.encode_page(batch)
            vectors["random"] = _vectors(features, page)
        return {view: vectors[view] for view in views}

    @torch.inference_mode()
    def of_recordings(self, batch: DeviceBatch, views: set[str]) -> dict[str, Vectors]:
        """View -> vectors, of recordings and reports."""
        vectors = {}
        if "teacher" in views:
            leads = batch["centred_mv"]
            vectors["teacher"] = _vectors(signal_features(self.model, leads), self.model.encode_signal(leads))
        if "reports" in views:
            report = self.model.encode_text(batch["token_ids"], batch["attention_mask"])
            vectors["reports"] = _vectors(report[:, :0], report)
        return vectors


def signal_features(model: ECGScan, leads_mv: Tensor) -> Tensor:
    """What a linear probe sees of leads in mV, centred: the signal tower's pooled channels, (N, 12, T) -> (N, F)."""
    encoder = model.teacher.signal_encoder if model.teacher else model.page.signal_encoder
    return encoder.pool(leads_mv)[0] if isinstance(encoder, SignalEncoder) else encoder(leads_mv)


class GenericEncoder(nn.Module):
    """An image encoder with timm's weights.

    Args:
        folder: Of the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, folder: str) -> None:
        super().__init__()
        config = ImageTowerConfig(path=folder)
        self.backbone = create_backbone(config, PageConfig(height=GENERIC_PX, width=GENERIC_PX, channels=3))
        mean, std = normalisation(self.backbone, config, 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        settings = getattr(self.backbone, "pretrained_cfg", None) or {}
        self.size = tuple(settings.get("input_size", ())[1:]) or (GENERIC_PX, GENERIC_PX)

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        """The whole page, fitted into the size of the weights: (N, 3, H, W) uint8 -> (N, F) float32."""
        x = nn.functional.interpolate(image.float() / 255, self.size, mode="bilinear", antialias=True)
        return self.backbone((x - self.mean) / self.std).float()


def generic_config() -> Config:
    """Settings whose pages a generic encoder gets."""
    page = {"height": 768, "width": 960, "channels": 3, "fit": "pad"}
    return Config.model_validate({"model": {"input": "image"}, "page": page})


def _vectors(features: Tensor, aligned: Tensor | None = None) -> Vectors:
    aligned = features[:, :0] if aligned is None else aligned
    return features.float().cpu().numpy(), aligned.float().cpu().numpy()
