"""A thousand mutated encoder folders through ``load_encoder`` and one page."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray.encoder import export, load_encoder
from ecgscan_ray.encoder.exported import BACKBONE_NAME, CONFIG_NAME, PROJECTION_NAME
from tests.checkpoints import sign_encoder
from tests.fuzz.harness import fuzz, mutate
from tests.unit.test_encoder import SMALL, make_run, pages

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError)
"""What a mutated ``config.json`` raises where nobody can sign it."""
NAMES = (CONFIG_NAME, BACKBONE_NAME, PROJECTION_NAME)


def make(number: int, folder: Path) -> Path:
    """An encoder with one mutated file; of every two mutants of a file one has digests made to fit."""
    encoder, rng = folder / "encoder", np.random.default_rng(number)
    shutil.rmtree(encoder, ignore_errors=True)
    shutil.copytree(_whole(folder), encoder)
    name = NAMES[number % len(NAMES)]
    content = (encoder / name).read_bytes()
    is_weights = name != CONFIG_NAME
    head = 8 + int.from_bytes(content[:8], "little") if is_weights and rng.random() < 0.7 else len(content)
    (encoder / name).write_bytes(mutate(content[:head], rng) + content[head:])
    if number // len(NAMES) % 2:
        with contextlib.suppress(*UNREADABLE):
            sign_encoder(encoder)
    return encoder


@cache
def _whole(folder: Path) -> Path:
    if not (folder / "whole").exists():
        export(str(make_run(folder / "run", 1, "resnet10t", SMALL)[0]), folder / "whole")
    return folder / "whole"


def attempt(encoder: Path) -> str:
    return "same" if _features(encoder) == _unchanged(encoder.with_name("whole")) else "other"


@cache
def _unchanged(encoder: Path) -> str:
    return _features(encoder)


def _features(encoder: Path) -> str:
    features = load_encoder(encoder).embed(pages(1))
    assert np.isfinite(features).all()
    return hashlib.sha256(features.tobytes()).hexdigest()


@pytest.mark.verify
def test_mutated_encoders_end_in_one_line(tmp_path: Path) -> None:
    tally = fuzz("encoder folders", make, attempt, 1000, tmp_path)
    assert tally.findings == []
