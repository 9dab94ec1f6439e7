"""The tutorial runs from its first cell to its last, on an untrained tiny encoder, and its file stays small."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.unit.docs.pages import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.ipynb"
MAX_BYTES = 1_000_000


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECGSCAN_ENCODER", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(TUTORIAL, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = "".join(output.get("data", {}).get("text/plain", "") for output in outputs)
    assert "AUROC" in shown and "page1" in shown


def test_the_tutorial_is_small() -> None:
    assert TUTORIAL.stat().st_size <= MAX_BYTES
