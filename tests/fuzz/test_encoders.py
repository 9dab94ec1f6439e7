"""Mutated encoder folders: with the digests of the good one, and with digests made to fit.

Under true digests everything that was changed is refused. Digests made to fit say that the content is right: other features
can come out of it, but no exception, no code and no gigabytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgscan_ray.encoder import load_encoder
from tests.fuzz.harness import fuzz, mutate
from tests.unit.test_encoder import SMALL, make_run

pytestmark = pytest.mark.verify

NAMES = ("config.json", "model.safetensors", "projection.safetensors")
_PAGE = np.random.default_rng(0).integers(0, 256, (64, 96), dtype=np.uint8)
_ODD = (
    None,
    True,
    -1,
    0,
    2**31,
    10**30,
    1e308,
    "",
    "../x",
    "/etc/passwd",
    [],
    {},
    [[]],
    {"a": 1},
    "resnet152",
    float("nan"),
)


@cache
def _features(folder: Path) -> np.ndarray:
    return load_encoder(folder).embed([_PAGE])


def _good(folder: Path) -> Path:
    place = folder / "good"
    if not place.exists():
        from ecgscan_ray.encoder import export

        run, _ = make_run(folder / "run", 1, "resnet10t", SMALL)
        export(str(run), place)
    return place


def _copy(number: int, folder: Path) -> Path:
    copy = folder / f"encoder-{number}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.rmtree(folder / f"encoder-{number - 1}", ignore_errors=True)
    return Path(shutil.copytree(_good(folder), copy))


def make_damaged(number: int, folder: Path) -> Path:
    copy, rng = _copy(number, folder), np.random.default_rng(number)
    name = (*NAMES, "SHA256SUMS")[number % 4]
    (copy / name).write_bytes(mutate((copy / name).read_bytes(), rng))
    return copy


def make_fitting(number: int, folder: Path) -> Path:
    copy, rng = _copy(number, folder), np.random.default_rng(number)
    if number % 4 == 3:
        content = json.loads((copy / "config.json").read_text())
        _replace_one(content, rng)
        (copy / "config.json").write_text(json.dumps(content))
    else:
        name = NAMES[number % 4]
        data = (copy / name).read_bytes()
        head = 4096 if rng.random() < 0.7 else len(data)  # mostly the part that is text
        (copy / name).write_bytes(mutate(data[:head], rng) + data[head:])
    lines = [f"{hashlib.sha256((copy / name).read_bytes()).hexdigest()}  {name}\n" for name in NAMES]
    (copy / "SHA256SUMS").write_text("".join(lines))
    return copy


def _replace_one(content: Any, rng: np.random.Generator) -> None:
    """Put an odd value at a random place of nested dicts and lists."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = keys[int(rng.integers(len(keys)))]
        inside = content[key]
        if not (isinstance(inside, dict | list) and inside and rng.random() < 0.8):
            content[key] = _ODD[int(rng.integers(len(_ODD)))]
            return
        content = inside


def attempt(path: Path) -> str:
    features = load_encoder(path).embed([_PAGE])
    assert np.isfinite(features).all()
    return "same" if np.array_equal(features, _features(path.parent / "good")) else "other"


def test_damaged_encoders(tmp_path: Path) -> None:
    tally = fuzz("encoders, damaged", make_damaged, attempt, 500, tmp_path)
    assert not tally.findings, tally.findings
    assert tally.outcomes["other"] == 0


def test_encoders_with_digests_made_to_fit(tmp_path: Path) -> None:
    tally = fuzz("encoders, digests made to fit", make_fitting, attempt, 500, tmp_path)
    assert not tally.findings, tally.findings
