"""The Python examples of the documentation run as they are printed."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ecgscan_ray import digitise
from ecgscan_ray.config import dump_yaml
from ecgscan_ray.encoder import export
from ecgscan_ray.paper import layout
from ecgscan_ray.recording import sources
from ecgscan_ray.runs.checkpoints import write_thresholds
from ecgscan_ray.tasks import makers, task
from tests.checkpoints import FINETUNE, write_checkpoint
from tests.fake_reader import reading
from tests.records import recording
from tests.tiny import tiny_config
from tests.unit.docs.pages import ROOT, Block, blocks

EXTENSIONS = blocks(ROOT / "docs" / "extend.md", "python")
TABLES: tuple[dict[str, Any], ...] = (sources.SOURCES, layout.LAYOUTS, task.TASKS, makers.MAKERS)
"""Tables to which examples add."""


def run(example: Block, monkeypatch: pytest.MonkeyPatch, **names: object) -> dict[str, Any]:
    """Execute an example as a module of its own; what it adds to the package's tables is removed after it."""
    before = [set(table) for table in TABLES]
    module = types.ModuleType("example")
    module.__dict__.update(names)
    monkeypatch.setitem(sys.modules, "example", module)
    try:
        exec(compile(example.text, example.id, "exec"), module.__dict__)
    finally:
        for table, known in zip(TABLES, before, strict=True):
            for name in set(table) - known:
                del table[name]
    return module.__dict__


def test_every_kind_of_extension_has_an_example() -> None:
    headings = ["A source of recordings", "A layout", "An effect", "A loss", "A tower", "A task", "An evaluator"]
    assert [example.heading for example in EXTENSIONS] == headings


@pytest.mark.parametrize("example", EXTENSIONS, ids=lambda example: example.heading)
def test_an_extension_runs(example: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(example, monkeypatch)


def test_the_renderer_alone_draws_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks(ROOT / "docs" / "pages.md", "python")
    pages = run(example, monkeypatch, recordings=[recording("1"), recording("2")])["pages"]
    assert pages.image.shape == (2, 850, 1100, 3)


def test_a_page_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks(ROOT / "docs" / "digitise.md", "python")
    found = reading((120, 200))
    monkeypatch.setattr(digitise, "read_page", lambda *_, speed_mm_per_s: found)
    monkeypatch.chdir(tmp_path)
    names = run(example, monkeypatch)
    assert names["signal_mv"].shape == (12, 5000) and len(names["table"]) == 5000
    assert (tmp_path / "out" / "page.hea").exists() and (tmp_path / "page.png").exists()


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_an_encoder_reads_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    write_checkpoint(folder, 1)
    (folder / "config.yaml").write_text(dump_yaml(tiny_config()))
    (folder / "environment.json").write_text(json.dumps({"store": str(tmp_path / "gone"), "git_revision": None}))
    export(str(folder), str(tmp_path / "encoder"))
    Image.fromarray(np.full((200, 300), 255, np.uint8)).save(tmp_path / "page.jpg")
    monkeypatch.chdir(tmp_path)
    example = next(block for block in blocks(ROOT / page, "python") if "encoder.embed" in block.text)
    names = run(example, monkeypatch)
    assert names["features"].shape[0] == 1 and len(list(tmp_path.rglob("page.hea"))) == 1


def test_a_fine_tuned_encoder_gives_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(finetune=FINETUNE)
    folder = write_checkpoint(tmp_path / "run", 1, config=config, task="finetune")
    write_thresholds(str(folder), {"NORM": 0.0, "MI": None})
    (tmp_path / "run" / "environment.json").write_text(json.dumps({"store": str(tmp_path / "gone")}))
    export(str(tmp_path / "run"), str(tmp_path / "superclass-encoder"))
    Image.fromarray(np.full((200, 300), 255, np.uint8)).save(tmp_path / "page.jpg")
    monkeypatch.chdir(tmp_path)
    example = next(block for block in blocks(ROOT / "docs" / "guide.md", "python") if "predict" in block.text)
    predicted = run(example, monkeypatch)["predicted"]
    assert predicted.classes == ("NORM", "MI") and predicted.positive.tolist() == [[True, False]]
