"""Run folders with checkpoints, made without training: what the commands find there."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ecgscan_ray import text
from ecgscan_ray.config import Config
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.training.checkpoint import TrainingState, build_model, save_checkpoint
from ecgscan_ray.training.optimizer import build_optimizer
from tests.tiny import tiny_config

TOKENIZER = text.fit_tokenizer(["sinusrhythmus normales ekg", "linksschenkelblock"], 300)


@cache
def tiny_model() -> ECGScan:
    return build_model(tiny_config(), TOKENIZER)


def write_checkpoint(run: Path, step: int, score: float | None = None, config: Config | None = None) -> Path:
    """A whole checkpoint of an untrained tiny model in the run's folder; its path."""
    folder = run / "checkpoints" / f"checkpoint_{step:09d}"
    folder.mkdir(parents=True)
    config, model = config or tiny_config(), tiny_model()
    state = TrainingState(step, step * 12, step * 12, 1, config.digest(), "manifest", score)
    save_checkpoint(folder, model, build_optimizer(model, config.training), config, TOKENIZER.to_str(), state)
    return folder


def damage(path: Path) -> None:
    """One bit in the middle of a file is flipped."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
