"""The page of a store: what was put aside is drawn from its own file, what was derived is counted, all sources are named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import wfdb

from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.report import card
from ecgscan_ray.report.store import write_store_page
from ecgscan_ray.runs import names
from ecgscan_ray.store.inspect import inspect
from ecgscan_ray.store.manifest import Addition, Manifest, write_manifest
from ecgscan_ray.store.shards import ShardWriter, write_quarantine
from tests.records import recording


def put_aside(name: str, origin: Path, reason: str) -> dict[str, str]:
    return {"id": name, "origin": str(origin), "reason": reason, "detail": f"details of {name}"}


def write_record(folder: Path, name: str, leads: int) -> Path:
    signal = np.random.default_rng(0).normal(size=(500, leads))
    names = {"units": ["mV"] * leads, "sig_name": list(LEADS[:leads]), "fmt": ["16"] * leads}
    wfdb.wrsamp(name, fs=250, p_signal=signal, write_dir=str(folder), **names)
    return folder / name


def test_the_page_shows_what_was_put_aside_and_what_was_derived(tmp_path: Path) -> None:
    writer = ShardWriter(str(tmp_path / "store"), "train", 0)
    (tmp_path / "store").mkdir()
    writer.add([recording()])
    shard = writer.close()
    assert shard
    counts = {"train": {"note": {"derived from I and II: III": 1, "none": 0}}}
    write_manifest(str(tmp_path / "store"), Manifest(source="a", shards=[shard], counts=counts))
    eight = write_record(tmp_path, "eight", 8)
    (tmp_path / "broken.hea").write_text("broken 12 500\n")
    rows = [
        put_aside("gone", tmp_path / "gone", "missing_lead"),
        put_aside("eight", eight, "missing_lead"),
        put_aside("broken", tmp_path / "broken", "header"),
        put_aside("nothing", tmp_path / "nothing.edf", "missing_file"),
    ]
    write_quarantine(str(tmp_path / "store"), rows)
    write_store_page(str(tmp_path / "store"), inspect(str(tmp_path / "store")), str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert page.count("signals of a recording put aside") == 1
    assert "eight: 8 signals, 250 Hz, 500 samples, in mV; details of eight" in page
    assert "derived from I and II: III: 1" in page


@pytest.mark.parametrize("second", ["CC-BY-4.0", "ODbL-1.0", None])
def test_all_sources_are_named_with_their_licences(
    second: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"train": {"source": {"a": 5, "b": 2}}, "test": {"source": {"b": 1}}}
    added = [Addition(source="b", licence=second), Addition(source="b", licence=second)]
    manifest = Manifest(source="a", licence="CC-BY-4.0", additions=added, shards=[], counts=counts)
    assert manifest.origins == [("a", "CC-BY-4.0", 5), ("b", second, 3)]
    (tmp_path / names.ENVIRONMENT).write_text(json.dumps({"store": "store"}))
    monkeypatch.setattr(card, "read_manifest", lambda _: manifest)
    config: Any = SimpleNamespace(model=SimpleNamespace(image=SimpleNamespace(path=None)))
    assert card.weights_licence(str(tmp_path), config) == ("cc-by-4.0" if second == "CC-BY-4.0" else "unknown")
