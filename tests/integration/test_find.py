"""``ecgscan find`` with the networks of the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ecgscan_ray.cli import app
from ecgscan_ray.config import PageConfig
from ecgscan_ray.data import reader_weights
from ecgscan_ray.paper import Renderer, page_key
from tests.recorded import recorded
from tests.stores import write_store

STRANGER, *OTHERS = recorded(41)


@pytest.mark.skipif(not reader_weights().is_file(), reason="this version comes without weights")
def test_drawn_pages_are_read_and_found_from_end_to_end(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", OTHERS)
    drawn = {"in.png": (OTHERS[3], "scan"), "out.png": (STRANGER, "clean")}
    for name, (own, effects) in drawn.items():
        renderer = Renderer(PageConfig(height=1000, width=1333, channels=3, fit="pad", effects=effects))
        page = renderer.render([own], np.array([page_key(0, 0, own.id, 0)], np.uint64)).image[0]
        Image.fromarray(page).save(tmp_path / name)
    pages = [str(tmp_path / name) for name in drawn]
    result = CliRunner().invoke(app, ["find", *pages, "--in", store])
    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    assert f"{tmp_path / 'in.png'}: {OTHERS[3].id} (ptbxl), probability " in first
    assert f"{tmp_path / 'out.png'}: not in the store (nearest " in second
