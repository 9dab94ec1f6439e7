"""``ecgscan finetune`` from an untrained tiny run to classes of a page, and into the benchmark's tables beside its controls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from ecgscan_ray.cli import app
from ecgscan_ray.encoder import export, load_encoder
from ecgscan_ray.errors import InputError
from tests.integration.test_benchmark import LABELS, REPORTS, tiny_run
from tests.records import recording
from tests.stores import write_store


def call(*words: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == exit_code, result.output
    return result.output


def test_classes_of_a_task_are_learned_exported_and_measured(ray_cluster: None, tmp_path: Path) -> None:
    recordings = [
        recording(str(n), seed=n, labels=LABELS[n % 2], report=REPORTS[n % 2], patient_id=f"p{n}") for n in range(48)
    ]
    store, run = write_store(tmp_path / "store", recordings), tiny_run(tmp_path / "ours")
    short = ["--store", store, "--set", "training.global_batch_size=12", "--set", "training.steps=5"]
    short += ["--set", "training.checkpoint_every=2", "--set", "resources.render_actors=1"]
    tuned, control = tmp_path / "tuned", tmp_path / "control"
    words = ["finetune", run, "--task", "superclass", "--out"]
    assert "5 classes" in call(*words, tuned, *short)
    assert not (tmp_path / "tuned.labelled").exists(), "the store's own labels are used"
    steps = (tuned / "finished.json").read_bytes()
    call(*words, tuned, *short)
    assert (tuned / "finished.json").read_bytes() == steps, "a finished run stays as it is"
    call(*words, control, "--from-scratch", "--share", 0.5, *short)
    warmup = [yaml.safe_load((run / "config.yaml").read_text())["training"]["warmup_steps"] for run in (tuned, control)]
    assert warmup == [0, 1], "of five steps: a twentieth; a fifth from random weights"
    part = json.loads((tmp_path / "control.labelled" / "manifest.json").read_text())
    assert sum(shard["rows"] for shard in part["shards"] if shard["split"] == "train") == 8

    encoder = load_encoder(export(str(tuned), tmp_path / "encoder"))
    card = (tmp_path / "encoder" / "README.md").read_text()
    assert "Fine-tuned for 5 classes (superclass): NORM, MI, STTC, CD, HYP." in card and "encoder.predict" in card
    pages = np.random.default_rng(0).integers(0, 256, (3, 96, 128, 1), dtype=np.uint8)
    predicted = encoder.predict(pages)
    assert predicted.classes == encoder.classes == ("NORM", "MI", "STTC", "CD", "HYP")
    assert predicted.probability.shape == (3, 5) and ((predicted.probability > 0) & (predicted.probability < 1)).all()
    np.testing.assert_allclose(predicted.probability, load_encoder(str(tuned)).predict(pages).probability, atol=1e-6)
    assert np.isinf(predicted.thresholds[2:]).all() and not predicted.positive[:, 2:].any(), "nobody has these"
    assert list(predicted.to_dataframe().columns) == list(predicted.classes)
    with pytest.raises(InputError, match="knows no classes"):
        load_encoder(run).predict(pages)

    out = tmp_path / "benchmark"
    words = ["benchmark", run, "--store", store, "--out", out, "--task", "superclass", "--resamples", "20"]
    call(*words, "--finetuned", tuned, "--finetuned", control)
    figures = json.loads((out / "benchmark.json").read_text())
    assert 0 <= figures["superclass.finetune.macro_auroc"]["value"] <= 1
    assert 0 <= figures["superclass.finetune.photo.macro_auroc"]["value"] <= 1
    assert 0 <= figures["supervised.superclass.finetune_50.macro_auroc"]["value"] <= 1
    html = (out / "benchmark.html").read_text()
    assert "fine-tuned on pages" in html and "supervised from scratch on pages" in html and "<th>50 %</th>" in html
    assert "tuned was trained on another store" not in html and "control was trained on another store" not in html


def test_the_length_of_a_run_follows_from_its_recordings(ray_cluster: None, tmp_path: Path) -> None:
    recordings = [recording(str(n), seed=n, labels=LABELS[n % 2], patient_id=f"p{n}") for n in range(48)]
    store, run, out = write_store(tmp_path / "store", recordings), tiny_run(tmp_path / "ours"), tmp_path / "control"
    words = [
        "finetune",
        run,
        "--task",
        "superclass",
        "--store",
        store,
        "--out",
        out,
        "--from-scratch",
        "--input",
        "recordings",
    ]
    call(
        *words,
        "--set",
        "training.epochs=8",
        "--set",
        "training.global_batch_size=8",
        "--set",
        "resources.render_actors=1",
    )
    training = yaml.safe_load((out / "config.yaml").read_text())["training"]
    rows = sum(
        s["rows"] for s in json.loads((Path(store) / "manifest.json").read_text())["shards"] if s["split"] == "train"
    )
    steps = 8 * rows // 8
    assert training["warmup_steps"] == steps // 5 and training["checkpoint_every"] == -(-steps // 10)
    assert training["augment"]["lead_dropout"] == 0, "recordings have all leads"
    refused = [*words[:-2], "--set", "training.global_batch_size=0"]
    assert "training.global_batch_size" in call(*refused, exit_code=2)
