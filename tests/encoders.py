"""Exported encoders of untrained tiny runs, and folders of pictures for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ecgscan_ray.config import dump_yaml
from ecgscan_ray.encoder import export
from tests.checkpoints import write_checkpoint
from tests.tiny import tiny_config


def exported_encoder(folder: Path) -> str:
    """An encoder of pictures; its run lies beside it."""
    run = folder / "run"
    write_checkpoint(run, 1)
    (run / "config.yaml").write_text(dump_yaml(tiny_config()))
    (run / "environment.json").write_text(json.dumps({"store": str(folder / "gone"), "git_revision": None}))
    return export(str(run), str(folder / "encoder"))


def save_pictures(folder: Path, count: int) -> Path:
    """Grey pictures ``000.png``, ... of noise, and ``torn.png``, which cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(4).integers(0, 256, (count, 40, 60), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{number:03}.png")
    (folder / "torn.png").write_bytes((folder / "000.png").read_bytes()[:60])
    return folder
