"""``ecgscan benchmark`` from an untrained tiny run and a small store to its report, and once more."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import timm
from typer.testing import CliRunner

from ecgscan_ray.cli import app
from ecgscan_ray.runtime import benchmark as runtime
from tests.checkpoints import TOKENIZER, write_checkpoint
from tests.records import recording
from tests.stores import write_store
from tests.tiny import tiny_config

LABELS = ({"NORM": 100.0, "SR": 0.0}, {"IMI": 100.0, "AFIB": 0.0})
REPORTS = ("sinusrhythmus normales ekg", "linksschenkelblock")


def tiny_run(folder: Path) -> str:
    config = tiny_config()
    write_checkpoint(folder, 6, score=0.5, config=config)
    (folder / "config.yaml").write_text(config.model_dump_json())
    (folder / "environment.json").write_text(json.dumps({"manifest_digest": "of another store"}))
    (folder / "tokenizer.json").write_text(TOKENIZER.to_str())
    return str(folder)


def generic_weights(folder: Path) -> str:
    model = timm.create_model("test_vit", num_classes=0)
    timm.models.save_for_hf(model, str(folder), safe_serialization=True)
    return str(folder)


def test_a_benchmark_is_written_and_goes_on(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = [
        recording(str(number), seed=number, labels=LABELS[number % 2], report=REPORTS[number % 2])
        for number in range(48)
    ]
    store = write_store(tmp_path / "store", recordings)
    run, out = tiny_run(tmp_path / "ours"), tmp_path / "benchmark"
    words = ["benchmark", run, "--store", store, "--out", str(out), "--task", "superclass", "--task", "age"]
    words += ["--generic", generic_weights(tmp_path / "vit"), "--resamples", "20"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    figures = json.loads((out / "benchmark.json").read_text())
    for encoder in ("", "random.", "teacher.", "digitised.", "generic."):
        assert 0 <= figures[f"{encoder}superclass.probe.macro_auroc"]["value"] <= 1
    assert figures["superclass.probe.minus_generic"]["n"] == figures["superclass.zero_shot.macro_auroc"]["n"] == 16
    html = (out / "benchmark.html").read_text()
    assert "ours was trained on another store" in html and "Not comparable" in html
    assert "generic image encoder &" in (out / "benchmark.tex").read_text()
    assert (out / "benchmark.csv").read_text().count("\n") > 50

    files = sorted((tmp_path / "ours" / "features").rglob("*.parquet"))
    missing, half = files[0], files[3]
    before = {path: path.stat().st_mtime_ns for path in files}
    missing.unlink()
    half.write_bytes(half.read_bytes()[:200])
    pieces = []
    monkeypatch.setattr(runtime, "write_features", _recorded(pieces, runtime.write_features))
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, again.output
    assert sorted(spec.folder(p.condition) for p in pieces for spec in p.specs) == [
        str(missing.parent),
        str(half.parent),
    ]
    assert {path for path in files if path.stat().st_mtime_ns != before[path]} == {missing, half}
    assert json.loads((out / "benchmark.json").read_text()) == figures

    two = CliRunner().invoke(app, [words[0], run, tiny_run(tmp_path / "theirs"), *words[2:]])
    assert two.exit_code == 0, two.output
    side_by_side = json.loads((out / "benchmark.json").read_text())
    assert side_by_side["theirs.retrieval.page_to_text.mrr"] == figures["retrieval.page_to_text.mrr"], (
        "the same weights"
    )
    assert side_by_side["retrieval.page_to_signal.minus_theirs"]["value"] == 0
    assert "theirs: pages" in (out / "benchmark.html").read_text()


def test_a_killed_benchmark_keeps_the_features_it_has(tmp_path: Path) -> None:
    recordings = [recording(str(n), seed=n, labels=LABELS[n % 2], report=REPORTS[n % 2]) for n in range(96)]
    store, run = write_store(tmp_path / "store", recordings), tiny_run(tmp_path / "ours")
    command = [sys.executable, "-m", "ecgscan_ray", "benchmark", run, "--store", store, "--out", str(tmp_path / "out")]
    command += ["--task", "superclass", "--resamples", "20"]
    environment = os.environ | {"RAY_ADDRESS": ""}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    features, deadline = tmp_path / "ours" / "features", time.monotonic() + 240
    while not list(features.rglob("*.parquet")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in features.rglob("*.parquet")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    after = {path: path.stat().st_mtime_ns for path in features.rglob("*.parquet")}
    assert kept.items() <= after.items() and len(kept) < len(after)
    folders = list(features.glob("*/mixed"))
    assert folders
    for folder in folders:
        keys = [key for path in folder.glob("*.parquet") for key in pq.read_table(path)["key"].to_pylist()]
        assert len(keys) == len(set(keys)) == 32, "each test recording once"


def _recorded(pieces: list, work):  # type: ignore[no-untyped-def]
    def write(store, given, where, cpus):  # type: ignore[no-untyped-def]
        pieces.extend(given)
        work(store, given, where, cpus)

    return write


def test_images_of_any_size_fit_a_generic_encoder(tmp_path: Path) -> None:
    import torch

    from ecgscan_ray.benchmark.encoders import GenericEncoder

    encoder = GenericEncoder(generic_weights(tmp_path / "vit")).eval()
    features = encoder(torch.from_numpy(np.zeros((2, 3, 60, 80), np.uint8)))
    assert features.shape[0] == 2 and torch.isfinite(features).all()
