"""Measures on made-up features: what is better, by how much, and under which name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray.benchmark.benchmark import Benchmark, trained_name
from ecgscan_ray.benchmark.conditions import ALL, FIT, MIXED, RECORDING
from ecgscan_ray.benchmark.encoders import EncoderSpec
from ecgscan_ray.benchmark.facts import Facts, Part
from ecgscan_ray.benchmark.feature_files import FeatureTable, read_all, read_features, write_features
from ecgscan_ray.benchmark.measure import subset
from ecgscan_ray.benchmark.registry import get_tasks, statements
from ecgscan_ray.config import FinetuneConfig
from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.store.manifest import Shard
from tests.unit.benchmark.made_up import made_up_facts

SHARD = Shard(path="test-00000.parquet", split="test", rows=4, row_groups=[4], bytes=1, sha256="a" * 64)


def spec(view: str, home: str = "nowhere") -> EncoderSpec:
    return EncoderSpec("ours" if view == "run" else view, "run-uri", view, "0" * 64, home)


def made_up_benchmark(facts: Facts, noise: dict[str, float]) -> Benchmark:
    """Features are the superclass in noise, and aligned features one of two directions."""
    rng = np.random.default_rng(0)
    norm = np.array(["NORM" in labels for labels in facts.labels])
    specs = [spec(view) for view in noise]
    tables = {}
    for each in specs:
        for condition in ALL:
            if each.takes(condition):
                rows = len(facts)
                features = rng.normal(size=(rows, 4)) * noise[each.view]
                features[:, 0] += norm
                aligned = np.stack([norm, ~norm], 1) + rng.normal(size=(rows, 2)) * noise[each.view]
                ok = np.ones(rows, bool)
                tables[each.name, condition.name] = FeatureTable(
                    facts.key, ok, features.astype(np.float32), aligned.astype(np.float32)
                )
    vectors = {"ours": {"superclass": {0: np.array([1.0, 0.0]), 1: np.array([0.0, 1.0])}}}
    return Benchmark(facts, specs, tables, vectors, resamples=50)


NOISE = {"run": 0.3, "random": 3.0, "teacher": 0.05, "reports": 0.3}


def test_figures_are_named_and_paired() -> None:
    results = made_up_benchmark(made_up_facts(200), NOISE).run(get_tasks("ptbxl", ["superclass", "age"]))
    figures = results.figures
    assert figures["superclass.probe.macro_auroc"].value > 0.9
    assert figures["random.superclass.probe.macro_auroc"].value < 0.75
    difference = figures["superclass.probe.minus_random"]
    expected = figures["superclass.probe.macro_auroc"].value - figures["random.superclass.probe.macro_auroc"].value
    assert difference.value == pytest.approx(expected)
    assert difference.low is not None and difference.low > 0
    teacher = figures["superclass.probe.photo.minus_teacher"]  # a recording has no pages: its one figure counts for all
    assert teacher.value == pytest.approx(
        figures["superclass.probe.photo.macro_auroc"].value - figures["teacher.superclass.probe.macro_auroc"].value
    )
    names = {
        *("superclass.probe_1.macro_auroc", "superclass.probe_10.minus_teacher", "superclass.knn.macro_auroc"),
        *("superclass.zero_shot.macro_auroc", "superclass.probe.macro_f1", "superclass.probe.macro_auprc"),
        *("superclass.probe.calibration_error", "superclass.probe.brier", "age.probe.mean_absolute_error"),
        *("retrieval.page_to_text.recall_at_10", "retrieval.text_to_page.photo.mrr"),
    }
    assert names <= figures.keys()
    assert all(figures[name].low is not None for name in names)
    assert results.tasks["superclass"].positives["NORM"] == 25
    assert figures["age.constant.mean_absolute_error"].value < figures["age.probe.mean_absolute_error"].value + 3


def test_retrieval_of_several_runs_is_side_by_side_and_paired() -> None:
    ours = made_up_benchmark(made_up_facts(200), NOISE)
    specs, tables = list(ours.specs), dict(ours.tables)
    for view in ("run", "teacher", "reports"):
        name = "worse" if view == "run" else f"worse.{view}"
        specs.append(replace(spec(view), name=name, uri="another run"))
        for condition in ALL:
            if spec(view).takes(condition):
                table = tables[spec(view).name, condition.name]
                tables[name, condition.name] = replace(
                    table, aligned=-table.aligned if view == "run" else table.aligned
                )
    figures = replace(ours, specs=specs, tables=tables).run(get_tasks("ptbxl", ["superclass"])).figures
    for pages in ("", ".photo"):
        good = figures[f"retrieval.page_to_text{pages}.mrr"].value
        bad = figures[f"worse.retrieval.page_to_text{pages}.mrr"].value
        assert good > bad and figures[f"worse.retrieval.text_to_page{pages}.recall_at_10"].n
        difference = figures[f"retrieval.page_to_text{pages}.minus_worse"]
        assert difference.value == pytest.approx(good - bad) and difference.low is not None


def test_a_leaking_task_is_named_and_the_others_are_measured() -> None:
    facts = made_up_facts(200)
    reports = [" ".join(labels) for labels in facts.labels]
    results = made_up_benchmark(replace(facts, reports=reports), NOISE).run(get_tasks("ptbxl", ["superclass"]))
    assert any(note.startswith("leaks: the reports contain the labels") for note in results.tasks["superclass"].notes)
    patients = facts.patient_key.copy()
    patients[3] = patients[0]
    age = np.where(np.arange(200) == 3, np.nan, facts.age)
    leaking = replace(facts, patient_key=patients, age=age)
    results = made_up_benchmark(leaking, NOISE).run(get_tasks("ptbxl", ["superclass", "age"]))
    assert "1 patients are in 'train' and in 'test'" in results.not_measured["superclass"]
    assert set(results.tasks) == {"age"}


def test_all_encoders_are_compared_on_the_same_rows() -> None:
    facts = made_up_facts(200)
    benchmark = made_up_benchmark(facts, NOISE)
    table = benchmark.tables["random", MIXED.name]
    table.ok[np.flatnonzero(facts.split == "test")[:10]] = False  # pages that could not be drawn for one of them
    results = benchmark.run(get_tasks("ptbxl", ["superclass"]))
    assert results.figures["superclass.probe.macro_auroc"].n == 40


def test_a_subset_has_every_class_and_is_the_same_at_every_call() -> None:
    labels = np.zeros((500, 2), bool)
    labels[::2, 0] = True
    labels[7, 1] = True
    rows = subset(labels, 0.01, seed=3)
    assert labels[rows].any(0).all() and len(rows) in (5, 6)
    assert rows.tolist() == subset(labels, 0.01, seed=3).tolist() != subset(labels, 0.01, seed=4).tolist()


def test_a_file_of_something_else_or_damaged_is_none(tmp_path: Path) -> None:
    ours, part = spec("run", str(tmp_path)), Part(SHARD, 3)
    table = FeatureTable(np.arange(3), np.ones(3, bool), np.eye(3, dtype=np.float32), np.zeros((3, 0), np.float32))
    write_features(ours, FIT, part, table)
    (again,) = [read_features(ours, FIT, part)]
    assert again is not None and (again.features == table.features).all() and again.aligned.shape == (3, 0)
    assert read_features(ours, FIT, Part(SHARD, 2)) is None  # another limit
    assert read_features(replace(ours, digest="1" * 64), FIT, part) is None
    assert read_features(spec("random", str(tmp_path)), FIT, part) is None
    (path,) = tmp_path.rglob("*.parquet")
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        read = read_features(ours, FIT, part)
        assert read is None or read.digest() == table.digest()
    path.write_bytes(whole[: len(whole) // 2])
    assert read_features(ours, FIT, part) is None
    with pytest.raises(StoreError, match="missing or damaged"):
        read_all(ours, FIT, [part])


def test_recordings_have_no_pages() -> None:
    assert spec("teacher").takes(RECORDING) and not spec("teacher").takes(MIXED)
    assert spec("run").takes(MIXED) and spec("run").takes(FIT) and not spec("run").takes(RECORDING)


def classifier(name: str, first_weights: str | None, **settings: object) -> EncoderSpec:
    classes = {label: tuple(sorted(codes)) for label, codes in statements("superclass").items()}
    section = FinetuneConfig(task="superclass", classes=classes, first_weights=first_weights, **settings)
    view = "classifier" if section.input == "pages" else "recording_classifier"
    return EncoderSpec(name, f"uri of {name}", view, name, "nowhere", classifier=section)


def test_trained_encoders_stand_beside_the_probe_on_as_many_labels() -> None:
    facts = made_up_facts(200)
    benchmark = made_up_benchmark(facts, NOISE)
    trained = {
        "tuned": (classifier("tuned", "0" * 64), 0.1),
        "a": (classifier("a", None, label_share=0.1), 0.5),
        "b": (classifier("b", None, label_share=0.1, subset=1), 2.0),
        "resnet": (classifier("resnet", None, input="recordings", label_share=0.25), 0.1),
        "resnet-50": (classifier("resnet-50", None, input="recordings", label_share=0.5), 0.1),
        "resnet-all": (classifier("resnet-all", None, input="recordings"), 0.1),
    }
    rng, tables = np.random.default_rng(1), dict(benchmark.tables)
    (task,) = get_tasks("ptbxl", ["superclass"])
    classes = task.targets(facts).values
    for name, (each, noise) in trained.items():
        for condition in ALL:
            if each.takes(condition):
                logits = (classes - 0.5 + rng.normal(size=classes.shape) * noise).astype(np.float32)
                tables[name, condition.name] = FeatureTable(facts.key, np.ones(len(facts), bool), logits, logits[:, :0])
    specs = [*benchmark.specs, *(each for each, _ in trained.values())]
    figures = replace(benchmark, specs=specs, tables=tables).run([task]).figures
    assert figures["superclass.finetune.macro_auroc"].value > 0.95
    assert {"superclass.finetune.photo.macro_auroc", "superclass.finetune.macro_f1"} <= figures.keys()
    mean = figures["supervised.superclass.finetune_10.macro_auroc"].value
    assert 0.6 < mean < 0.95, "the mean of a good one and a bad one"
    difference = figures["superclass.probe_10.minus_supervised"]
    assert difference.value == pytest.approx(figures["superclass.probe_10.macro_auroc"].value - mean)
    assert figures["supervised_recordings.superclass.finetune_25.macro_auroc"].value > 0.95
    assert figures["supervised_recordings.superclass.finetune.macro_auroc_extrapolated"].value > 0.95
    assert "superclass.finetune.macro_auroc_extrapolated" not in figures, "three shares at least"
    assert not any(name.startswith(("a.", "b.", "tuned.", "resnet.")) for name in figures), (
        "runs have the names of roles"
    )


def test_a_run_that_was_fine_tuned_from_other_weights_or_for_other_classes_is_refused() -> None:
    benchmark = made_up_benchmark(made_up_facts(), NOISE)
    with pytest.raises(InputError, match="other weights than those of the runs"):
        trained_name(classifier("tuned", "1" * 64), benchmark.specs)
    other = classifier("tuned", "0" * 64)
    other = replace(other, classifier=other.classifier.model_copy(update={"classes": {"X": ("X",)}}))
    tables = {**benchmark.tables}
    for condition in ALL:
        tables["tuned", condition.name] = tables["ours", FIT.name]
    results = replace(benchmark, specs=[*benchmark.specs, other], tables=tables)
    with pytest.raises(InputError, match="was fine-tuned for other classes"):
        results.run(get_tasks("ptbxl", ["superclass"]))
