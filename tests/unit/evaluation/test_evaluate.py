"""Score and whole evaluation with the real model, renderer and batches, on a few synthetic recordings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.config import Config
from ecgscan_ray.evaluation.bootstrap import PatientBootstrap
from ecgscan_ray.evaluation.classes import label_task
from ecgscan_ray.evaluation.evaluate import evaluate_run
from ecgscan_ray.evaluation.evaluators import EVALUATORS, EvaluationData, LinearProbe, Results
from ecgscan_ray.evaluation.features import EVALUATION_EPOCH, Features, extract
from ecgscan_ray.evaluation.score import page_score
from ecgscan_ray.reading.read_pages import ReadPages
from ecgscan_ray.reading.weights import load_networks
from ecgscan_ray.recording.labels import SUPERCLASSES
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.tensors import to_device
from tests import records
from tests.tiny import tiny_config

CODES = ("NORM", "IMI", "NDT", "LAFB", "LVH")


def recording(number: int) -> Recording:
    code = CODES[number % 5]
    return records.recording(
        str(number),
        seed=number,
        patient_id=str(number // 2),
        report=f"sinusrhythmus, befund {code} nummer {number % 7}",
        labels={code: 100.0},
    )


@pytest.fixture(scope="module")
def config() -> Config:
    evaluation = {"bootstrap": 50, "batch_size": 7, "probe_views": 1, "pages_shown": 3, "redrawn_shown": 2}
    return tiny_config(page={"height": 64, "width": 96, "effects": "clean"}, evaluation=evaluation)


@pytest.fixture(scope="module")
def tokenizer(config):
    return text.fit_tokenizer([recording(n).report for n in range(20)], config.model.text.vocab_size)


@pytest.fixture(scope="module")
def maker(config, tokenizer):
    return BatchMaker(config, tokenizer)


def test_evaluation_has_every_figure_of_the_report(config, tokenizer, maker):
    splits = {"train": range(20), "validation": range(20, 32), "test": range(32, 52)}
    evaluation = evaluate_run(
        Pretrain().build_model(config, tokenizer),
        Pretrain().build_model(config.model_copy(update={"seed": 1}), tokenizer),
        maker,
        lambda split: (recording(n) for n in splits[split]),
    )
    content = evaluation.as_dict()
    wanted = [f"retrieval.page_to_signal.{kind}_at_{k}" for kind in ("recall", "chance") for k in (1, 5, 10)]
    wanted += ["retrieval.page_to_text.recall_at_10", "random.retrieval.page_to_signal.recall_at_1", "lead_residual_mv"]
    wanted += [f"{p}linear_probe.superclass.macro_auroc" for p in ("", "random.")]
    wanted += ["linear_probe.superclass.macro_auroc.minus_random", "zero_shot.superclass.macro_auroc"]
    wanted += [
        f"reconstruction.{mask}.{m}" for mask in ("shown", "derivable", "unseen") for m in ("pearson_r", "rmse_mv")
    ]
    wanted += ["mean_beat.unseen.pearson_r", "retrieval.page_to_signal.mrr", "projected.derivable.pearson_r"]
    wanted += ["reject.base_rate"]
    assert not [name for name in wanted if name not in content]
    for name in wanted:
        entry = content[name]
        assert set(entry) == {"value", "low", "high", "n"}, name
        assert entry["value"] is not None, name
        if "chance" not in name:
            assert entry["low"] <= entry["value"] <= entry["high"], name
    assert content["evaluation.patients"]["value"] == 10
    assert content["retrieval.page_to_signal.gallery"]["value"] == 20
    assert content["retrieval.page_to_text.gallery"]["value"] < 35
    assert evaluation.training_pages.shape == (3, 64, 96, 1)
    assert [example.id for example in evaluation.examples] == ["32", "33"]
    assert {"reject.lead_residual.auroc", "reject.constant.auroc", "reject.predicted_error.auroc"} <= content.keys()
    rows = evaluation.rows
    assert all(len(values) == 20 for values in rows.values())
    for name in ("retrieval.page_to_signal.mrr", "lead_residual_mv", "reconstruction.unseen.pearson_r"):
        assert np.nanmean(rows[name]) == pytest.approx(content[name]["value"]), name
    assert rows["zero_shot.superclass.macro_auroc"].shape == (20, 5)


def test_an_encoder_of_leads_is_measured_on_pages_that_are_read():
    config = tiny_config(
        model__input="leads", page__effects="clean", evaluation={"bootstrap": 20, "batch_size": 7, "probe_views": 1}
    )
    tokenizer = text.fit_tokenizer([recording(n).report for n in range(20)], config.model.text.vocab_size)
    splits = {"train": range(20), "validation": range(20, 32), "test": range(32, 36)}
    evaluation = evaluate_run(
        Pretrain().build_model(config, tokenizer),
        Pretrain().build_model(config.model_copy(update={"seed": 1}), tokenizer),
        ReadPages(config, tokenizer, load_networks()),
        lambda split: (recording(n) for n in splits[split]),
        probe_maker=BatchMaker(config, tokenizer),
    )
    content = evaluation.as_dict()
    assert content["reconstruction.shown.pearson_r"]["value"] > 0.5, "untrained: what is shown is as it was read"
    assert content["retrieval.page_to_signal.gallery"]["value"] == 4
    assert evaluation.examples[0].page.shape == (96, 128, 1)
    assert evaluation.training_pages.shape == (12, 96, 128, 1)


def test_labels_of_the_archive_are_probed(config, tokenizer, maker):
    evaluation = evaluated(config, tokenizer, maker, lambda n: replace(recording(n), labels=own_labels(n)))
    content = evaluation.as_dict()
    for name, positives in (("AFIB", 8), ("LBBB", 6)):
        assert content[f"linear_probe.label.{name}.positives"] == {
            "value": positives,
            "low": None,
            "high": None,
            "n": 16,
        }
        for prefix in ("", "random."):
            assert 0 <= content[f"{prefix}linear_probe.label.{name}.auroc"]["value"] <= 1
    both = [content[f"linear_probe.label.{name}.auroc"]["value"] for name in ("AFIB", "LBBB")]
    assert content["linear_probe.label.macro_auroc"]["value"] == pytest.approx(np.mean(both))
    assert content["linear_probe.label.macro_auroc.minus_random"]["n"] == 16
    assert "fewer than 5" in content["linear_probe.label.PACE"]["reason"], "too few"
    assert "fewer than 5" in content["linear_probe.label.ECG"]["reason"], "all have it"
    assert "no training recording has a superclass" in content["linear_probe.superclass.macro_auroc"]["reason"]
    assert "no tested recording has a superclass" in content["zero_shot.superclass.macro_auroc"]["reason"]
    assert content["retrieval.page_to_text.mrr"]["value"] is not None


def test_a_label_that_the_page_shows_is_found(maker):
    """The probe's protocol, on features made up for it: the mark of a label is found, chance is not."""
    rng = np.random.default_rng(0)

    def part(count: int) -> Features:
        codes = [frozenset(name for name in ("AFIB", "LBBB") if rng.random() < 0.4) | {"ECG"} for _ in range(count)]
        marked = rng.normal(size=(count, 8)) + 4 * np.array([["AFIB" in c] for c in codes]) * np.eye(8)[0]
        columns = {"features": marked, "random.features": rng.normal(size=(count, 8))}
        return Features([""] * count, columns, [], [], codes)

    train, validation, test = part(300), part(80), part(200)
    task, too_few = label_task(train, test)
    assert (task.names, too_few) == (("AFIB", "LBBB"), ["ECG"])
    bootstrap = PatientBootstrap(np.arange(200), 50)
    data = EvaluationData(test, [train], validation, bootstrap, models={"": None, "random.": None}, maker=maker)
    probe = LinearProbe("label")
    assert probe.unmet(data).keys() == {"linear_probe.label.ECG"}
    figures = probe.run(data).figures
    assert figures["linear_probe.label.AFIB.auroc"].value > 0.95
    assert figures["linear_probe.label.LBBB.auroc"].value == pytest.approx(0.5, abs=0.12)
    assert figures["random.linear_probe.label.AFIB.auroc"].value == pytest.approx(0.5, abs=0.12)


def test_without_reports_labels_patients_and_validation(config, tokenizer, maker):
    bare = {"report": None, "labels": {}, "patient_id": None}
    without = config.model_copy(
        update={
            "objective": config.objective.model_copy(update={"gram_weight": 0.0, "pair_weights": {"image_signal": 1}})
        }
    )
    maker = BatchMaker(without, tokenizer)
    evaluation = evaluated(without, tokenizer, maker, lambda n: replace(recording(n), **bare), validation=())
    content = evaluation.as_dict()
    reasons = {name: entry["reason"] for name, entry in content.items() if "reason" in entry}
    assert reasons == {
        "retrieval.page_to_text": "the run learned from no reports",
        "reject": "no validation recordings",
        "linear_probe.superclass.macro_auroc": "no validation recordings, on which the probe's strength is chosen",
        "linear_probe.label.macro_auroc": "no labels",
        "zero_shot.superclass.macro_auroc": "no tested recording has a superclass",
    }
    assert content["retrieval.page_to_signal.mrr"]["value"] > 0
    assert content["evaluation.patients"]["value"] == 0
    assert content["evaluation.unknown_patients"]["value"] == content["training.unknown_patients"]["value"] == 20
    assert not [name for name in content if "text" in name and name not in reasons]


def test_an_evaluator_of_ones_own_stands_in_the_report(config, tokenizer, maker):
    class Spread:
        name = "spread"

        def unmet(self, data):
            return {"spread.text": "not needed"}

        def run(self, data):
            return Results({"spread.page": data.bootstrap.mean(data.test["page"].std(1))})

    splits = {"train": range(3), "validation": range(3, 6), "test": range(6, 12)}
    model = Pretrain().build_model(config, tokenizer)
    evaluation = evaluate_run(
        model, model, maker, lambda split: (recording(n) for n in splits[split]), evaluators=[Spread()]
    )
    content = evaluation.as_dict()
    assert content.keys() == {"spread.page", "spread.text"}
    assert content["spread.page"]["n"] == 6 and content["spread.text"]["reason"] == "not needed"


def test_figures_begin_with_the_name_of_their_evaluator(config, tokenizer, maker):
    content = evaluated(config, tokenizer, maker, recording).as_dict()
    names = {evaluator.name for evaluator in EVALUATORS} | {"random", "projected", "mean_beat", "lead_residual_mv"}
    assert {name.partition(".")[0] for name in content} <= names | {"training"}


def test_one_class_alone_has_no_auroc(config, tokenizer, maker):
    content = evaluated(config, tokenizer, maker, lambda n: replace(recording(n), labels={"NORM": 100.0})).as_dict()
    for task, split in (("linear_probe", "training"), ("zero_shot", "tested")):
        why = f"no superclass that some {split} recordings have and others do not"
        assert content[f"{task}.superclass.macro_auroc"]["reason"] == why
    assert not [name for name in content if "superclass.NORM" in name]


def own_labels(number: int) -> dict[str, float]:
    """Every fifth recording has none."""
    names = {"AFIB": number % 2 == 0, "LBBB": number % 3 == 0, "PACE": number == 33, "ECG": True}
    return {name: 100.0 for name, has in names.items() if has and number % 5}


def evaluated(config, tokenizer, maker, recording_of, validation=range(20, 32)):
    splits = {"train": range(20), "validation": validation, "test": range(32, 52)}
    return evaluate_run(
        Pretrain().build_model(config, tokenizer),
        Pretrain().build_model(config.model_copy(update={"seed": 1}), tokenizer),
        maker,
        lambda split: (recording_of(n) for n in splits[split]),
    )


def test_features_do_not_depend_on_batch_size_and_pages_are_not_those_of_training(config, tokenizer, maker):
    models = {"trained": Pretrain().build_model(config, tokenizer).eval()}
    recordings = [recording(n) for n in range(9)]
    one, other = (extract(models, maker, recordings, batch_size=size, fs=100) for size in (9, 4))
    assert one.ids == other.ids == [r.id for r in recordings]
    for name in ("page", "signal", "text", "unseen.r"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-4)
    np.testing.assert_array_equal(one["labels"].argmax(1), [n % 5 for n in range(9)])
    assert len(SUPERCLASSES) == one["labels"].shape[1]
    assert config.training.steps < EVALUATION_EPOCH


class Stub(torch.nn.Module):
    """Pages, signals and reports all meet at the recording's own vector; the leads are redrawn as is."""

    def __init__(self, right: bool):
        super().__init__()
        self.right, self.seen = right, 0

    def encode_page(self, batch):
        image = batch["image"]
        rows = torch.arange(len(image)) + self.seen
        self.seen += len(image)
        rows = rows if self.right else rows.flip(0)
        return torch.eye(64)[rows], None, self.truth[: len(image)]

    def encode_signal(self, signal):
        self.now = self.seen - len(signal)
        return torch.eye(64)[self.now : self.seen]

    def encode_text(self, ids, mask):
        return torch.eye(64)[self.now : self.seen]


@pytest.mark.parametrize("right", [True, False])
def test_validation_score_is_one_for_a_perfect_model(config, maker, right):
    recordings = [recording(n) for n in range(12)]
    batches = [to_device(maker.make(recordings[k : k + 6], range(6), [0] * 6), "cpu", 100.0) for k in (0, 6)]
    for number, batch in enumerate(batches):
        batch["report_key"] = torch.arange(6) + 6 * number
    model = Stub(right).train()

    def in_order():
        for batch in batches:
            model.truth = batch["centred_mv"] if right else batch["centred_mv"].flip(0)
            yield batch

    scores = page_score(model, in_order())
    assert model.training
    if right:
        assert scores["validation.mrr_page_to_signal"] == scores["validation.mrr_page_to_text"] == 1
        assert scores["validation.r_shown"] == pytest.approx(1, abs=1e-3)
        assert scores["validation.score"] == pytest.approx(1, abs=1e-3)
    else:
        assert scores["validation.score"] < 0.5


def test_validation_score_without_reports_and_without_rows(config, tokenizer, maker):
    model = Pretrain().build_model(config, tokenizer)
    batch = to_device(maker.make([recording(n) for n in range(4)], range(4), [0] * 4), "cpu", 100.0)
    batch["has_text"] = torch.zeros(4, dtype=torch.bool)
    scores = page_score(model, [batch])
    assert "validation.mrr_page_to_text" not in scores
    parts = [scores["validation.mrr_page_to_signal"], scores["validation.r_shown"]]
    assert scores["validation.score"] == pytest.approx(np.mean(parts))
    assert page_score(model, []) == {}
