"""A thousand mutated checkpoints through what evaluates a run and what goes on with it."""

from __future__ import annotations

import hashlib
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray.runs.names import CHECKPOINT_FILES as FILES
from ecgscan_ray.runs.names import WEIGHTS
from ecgscan_ray.tasks.loading import load_run
from ecgscan_ray.training.checkpoint import restore
from ecgscan_ray.training.optimizer import build_optimizer
from tests.checkpoints import sign, tiny_model, write_checkpoint
from tests.fuzz.harness import fuzz, mutate
from tests.tiny import tiny_config

NAMES = (*FILES, "state.json")


def make(number: int, folder: Path) -> Path:
    """A run with one mutated file; of every two mutants of a file one has digests made to fit."""
    run, rng = folder / "run", np.random.default_rng(number)
    shutil.rmtree(run, ignore_errors=True)
    checkpoint = run / "checkpoints" / "checkpoint_000000002"
    shutil.copytree(_whole(folder), checkpoint)
    name = NAMES[number % len(NAMES)]
    content = (checkpoint / name).read_bytes()
    head = 8 + int.from_bytes(content[:8], "little") if name == WEIGHTS and rng.random() < 0.7 else len(content)
    (checkpoint / name).write_bytes(mutate(content[:head], rng) + content[head:])
    if name != "state.json" and number // len(NAMES) % 2:
        sign(checkpoint)
    return run


@cache
def _whole(folder: Path) -> Path:
    whole = folder / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    return write_checkpoint(whole, 2, 0.5)


def attempt(run: Path) -> str:
    return "same" if _content(run) == _unchanged(run.with_name("whole")) else "other"


@cache
def _unchanged(run: Path) -> str:
    return _content(run)


def _content(run: Path) -> str:
    """All that is read of a run, by ``evaluate`` and by ``pretrain``."""
    loaded, model = load_run(str(run)), tiny_model()
    optimizer = build_optimizer(model, tiny_config().training)
    state = restore(run / "checkpoints" / "checkpoint_000000002", model, optimizer)
    moments = [value for entry in optimizer.state_dict()["state"].values() for value in entry.values()]
    digest = hashlib.sha256()
    for tensor in (*loaded.model.state_dict().values(), *model.state_dict().values(), *moments):
        digest.update(tensor.numpy().tobytes())
    return f"{digest.hexdigest()} {state} {loaded.state} {loaded.tokenizer.to_str()} {loaded.config}"


@pytest.mark.verify
def test_mutated_checkpoints_end_in_one_line(tmp_path: Path) -> None:
    tally = fuzz("checkpoints", make, attempt, 1000, tmp_path)
    assert tally.findings == []
