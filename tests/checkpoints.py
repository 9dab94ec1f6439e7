"""Run folders with checkpoints, made without training, and digests that fit what was changed by hand."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ecgscan_ray import text
from ecgscan_ray.config import Config
from ecgscan_ray.runs.checkpoints import TrainingState
from ecgscan_ray.runs.names import CHECKPOINT_FILES as FILES
from ecgscan_ray.tasks.task import get_task
from ecgscan_ray.training.checkpoint import Snapshot, save_checkpoint
from ecgscan_ray.training.optimizer import build_optimizer
from tests.tiny import tiny_config

TOKENIZER = text.fit_tokenizer(["sinusrhythmus normales ekg", "linksschenkelblock"], 300)


FINETUNE: dict[str, Any] = {"task": "superclass", "classes": {"NORM": ["NORM"], "MI": ["IMI"]}}
"""Section of the settings of a tiny fine-tuned model."""


@cache
def tiny_model(task: str = "pretrain") -> nn.Module:
    config = tiny_config(finetune=FINETUNE) if task == "finetune" else tiny_config()
    return get_task(task).build_model(config, TOKENIZER)


@cache
def tiny_optimizer(task: str = "pretrain") -> torch.optim.Optimizer:
    """After one step of length 0, so that it has moments."""
    optimizer = build_optimizer(tiny_model(task), tiny_config(training__learning_rate=1e-30).training)
    for parameter in [p for p in tiny_model(task).parameters() if p.requires_grad]:
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def write_checkpoint(
    run: Path, step: int, score: float | None = None, config: Config | None = None, task: str = "pretrain"
) -> Path:
    """A whole checkpoint of an untrained tiny model in the run's folder; its path."""
    folder = run / "checkpoints" / f"checkpoint_{step:09d}"
    folder.mkdir(parents=True)
    config = config or tiny_config()
    state = TrainingState(step, step * 12, config.digest(), task, score)
    save_checkpoint(folder, Snapshot.of(tiny_model(task), tiny_optimizer(task)), config, TOKENIZER.to_str(), state)
    return folder


def damage(path: Path) -> None:
    """One bit in the middle of a file is flipped."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def sign(folder: Path) -> None:
    """Make a checkpoint's digests fit what is there."""
    state = json.loads((folder / "state.json").read_text())
    state["digests"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    (folder / "state.json").write_text(json.dumps(state))


def sign_encoder(folder: Path) -> None:
    """Make an exported encoder's digests fit what is there: of the files, and of ``config.json`` without its own."""
    content = json.loads((folder / "config.json").read_text())
    ours = content["ecgscan"]
    ours["sha256"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ours["sha256"]}
    ours.pop("digest", None)
    ours["digest"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(content))
