"""The examples of docs/extend.md and the short Python examples of other pages run as they are printed."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from ecgscan_ray.paper import layout
from ecgscan_ray.recording import sources
from ecgscan_ray.tasks import task
from tests.unit.docs.pages import ROOT, Block, blocks

EXAMPLES = blocks(ROOT / "docs" / "extend.md", "python")


def test_every_kind_of_extension_has_an_example() -> None:
    headings = ["A source of recordings", "A layout", "An effect", "A loss", "A tower", "A task", "An evaluator"]
    assert [example.heading for example in EXAMPLES] == headings


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.heading)
def test_an_example_runs(example: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = [(table, set(table)) for table in (sources.SOURCES, layout.LAYOUTS, task.TASKS)]
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    try:  # what an example adds to a table is gone after it
        exec(compile(example.text, example.id, "exec"), module.__dict__)
    finally:
        for table, names in before:
            for name in set(table) - names:
                del table[name]
