"""A hospital's own folder, as a new user has it, in one command."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecgscan_ray.cli import app
from ecgscan_ray.store.manifest import SPLITS, read_manifest
from ecgscan_ray.store.shards import iterate_rows
from tests.archives import own_folder


def test_latin_1_semicolons_several_rates_and_names_of_leads(
    ray_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truths = {truth.id: truth for truth in own_folder(tmp_path / "ekg", 60)}
    store = str(tmp_path / "store")
    result = CliRunner().invoke(app, ["prepare", "--source", "folder", "--from", str(tmp_path / "ekg"), "--to", store])
    assert result.exit_code == 0, result.output
    manifest = read_manifest(store)
    rows = [row for split in SPLITS for row in iterate_rows(store, manifest, split)]
    assert {row.id for row in rows} == truths.keys() and {row.fs for row in rows} == {100}
    assert all(row.report == truths[row.id].report and set(row.labels) == truths[row.id].labels for row in rows)
    notes = [manifest.counts[split].get("note", {}) for split in SPLITS]
    assert sum(note.get("derived from I and II: III, aVR, aVL, aVF", 0) for note in notes) == 15
    assert "read as Latin-1" in caplog.text and "separated by semicolons" in caplog.text
