"""A new user's own archive, as he has it: labels of his own, no reports, no patients, ages or folds. Every verb in turn."""

from __future__ import annotations

import ast
import csv
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from ecgscan_ray.cli import app
from ecgscan_ray.data.unpack import SAMPLE
from ecgscan_ray.store.schema import unpack_signals
from tests.records import heart_uv, write_record
from tests.tiny import TINY

RECORDS = 60


def make_archive(root: Path) -> Path:
    """Records in folders by ward, and a table of their labels and splits: real hearts with and without the two labels."""
    table = pq.read_table(SAMPLE)
    codes = [set(ast.literal_eval(text)) for text in table["scp_codes"].to_pylist()]
    afib = [k for k, found in enumerate(codes) if "AFIB" in found][: RECORDS // 3]
    lbbb = [k for k, found in enumerate(codes) if "CLBBB" in found and k not in afib][: RECORDS // 3]
    rest = [k for k, found in enumerate(codes) if not found & {"AFIB", "CLBBB"}][: RECORDS - len(afib) - len(lbbb)]
    picked = np.random.default_rng(0).permutation([*afib, *lbbb, *rest])
    signals = unpack_signals(table.take(picked))
    rows = []
    for number, (k, signal) in enumerate(zip(picked, signals, strict=True)):
        ward, name = f"ward{number % 3}", f"ecg{number:03d}"
        write_record(root / ward, name, np.rint(signal * 1000).astype(np.int16))
        labels = [label for label, code in (("AFIB", "AFIB"), ("LBBB", "CLBBB")) if code in codes[k]] or ["OTHER"]
        split = "train" if number < 30 else "validation" if number < 40 else "test"
        rows.append({"record": f"{ward}/{name}", "labels": ";".join(labels), "split": split})
    with open(root / "recordings.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["record", "labels", "split"], delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture
def user(tmp_path: Path, ray_cluster: None, caplog: pytest.LogCaptureFixture):
    """Gives a command, and what it printed and logged; a message is read once."""
    caplog.set_level(logging.INFO, logger="ecgscan_ray")

    def command(*arguments: object, exit_status: int = 0) -> str:
        caplog.clear()
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == exit_status, result.output
        said = "\n".join([*caplog.messages, result.output])
        assert "Traceback" not in said
        return said

    return command


@pytest.mark.verify
def test_from_the_archive_to_embeddings(user, tmp_path: Path) -> None:
    archive, store, run = make_archive(tmp_path / "archive"), tmp_path / "store", tmp_path / "run"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TINY))
    settings = ("--config", tmp_path / "mine.yaml", "--store", store)

    said = user("prepare", "--source", "folder", "--from", archive, "--to", store)
    assert "train 30, validation 10, test 20" in said and f"next: ecgscan inspect {store}" in said

    said = user("inspect", store)
    assert "without 30" in said and f"--store {store} --out runs/first" in said

    said = user("teach", *settings, "--out", tmp_path / "teacher", exit_status=2)
    assert "no training recording has a report, and a teacher learns from reports" in said
    assert not (tmp_path / "teacher").exists()

    said = user("pretrain", *settings, "--out", run, "--set", "training.steps=2")
    assert "no reports in the store: pages are aligned with signals alone" in said
    assert "training.warmup_steps=2 is not less than the run's 2 steps: set to 0" in said
    assert f"next: ecgscan evaluate {run}" in said

    said = user("evaluate", run, "--set", "evaluation.bootstrap=50")
    lines = said[said.index("evaluation.recordings") :].splitlines()
    assert len(lines) <= 16, "ten figures or so"
    assert "The patient of 20 of these recordings and of 30 training recordings is not known" in said
    assert "not measured: retrieval.page_to_text: the run learned from no reports" in said
    assert "linear_probe.label.macro_auroc " in said and "linear_probe.superclass" in said
    assert f"next: ecgscan export {run} encoder" in said
    report = json.loads((run / "report.json").read_text())
    assert report["linear_probe.label.AFIB.positives"]["value"] >= 5
    assert 0 <= report["linear_probe.label.LBBB.auroc"]["value"] <= 1
    assert report["retrieval.page_to_text"] == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
        "reason": "the run learned from no reports",
    }
    html = (run / "report.html").read_text()
    assert "Not measured" in html and "AFIB" in html and "None of these patients" not in html

    encoder, pages = tmp_path / "encoder", tmp_path / "pages"
    assert "next: ecgscan embed" in user("export", run, encoder)
    user("render", *settings, "--out", pages, "--count", 2, "--split", "test")
    assert "2 pages embedded, 0 skipped" in user("embed", encoder, pages, tmp_path / "e.parquet")
    assert len(pq.read_table(tmp_path / "e.parquet")) == 2


def archive_of(folder: Path, splits: list[str]) -> Path:
    """Made-up hearts, each in the split it is given; nothing else is known of them."""
    for number in range(len(splits)):
        write_record(folder, f"r{number}", heart_uv(seed=number))
    rows = [f"r{number},{split}" for number, split in enumerate(splits)]
    (folder / "recordings.csv").write_text("\n".join(["record,split", *rows]) + "\n")
    return folder


@pytest.mark.verify
@pytest.mark.parametrize(("other", "workers"), [("test", 1), ("validation", 2)])
def test_without_validation_or_without_a_test_split(user, tmp_path: Path, other: str, workers: int) -> None:
    archive = archive_of(tmp_path / "archive", ["train"] * 20 + [other] * 10)
    store, run = tmp_path / "store", tmp_path / "run"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(TINY))
    user("prepare", "--source", "folder", "--from", archive, "--to", store)
    changes = ("--set", "training.steps=3", "--set", f"resources.num_workers={workers}")
    said = user("pretrain", "--config", tmp_path / "mine.yaml", "--store", store, "--out", run, *changes)
    assert "no reports in the store" in said
    assert ("the last checkpoint counts as the best" in said) == (other == "test")
    if other == "validation":
        said = user("evaluate", run, exit_status=2)
        assert "has no recordings in the split 'test'" in said and "--set evaluation.split=validation" in said
    said = user("evaluate", run, "--set", f"evaluation.split={other}", "--set", "evaluation.bootstrap=20")
    assert ("reject: no validation recordings" in said) == (other == "test")
    assert "retrieval.page_to_signal.mrr " in said and "linear_probe.label.macro_auroc: no labels" in said
