"""Fine-tuning: who has which class, what is trained, thresholds, and the recordings that a share of the labels leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgscan_ray import text
from ecgscan_ray.benchmark.facts import parts_of, read_facts
from ecgscan_ray.benchmark.labelled_store import NO_CLASS, write_labelled_store
from ecgscan_ray.benchmark.measure import subset
from ecgscan_ray.benchmark.registry import get_tasks
from ecgscan_ray.benchmark.task import select
from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError, StoreError
from ecgscan_ray.objective.classes import classification_loss
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.store.manifest import SPLITS, read_manifest
from ecgscan_ray.store.shards import iterate_rows
from ecgscan_ray.tasks.finetune import choose_thresholds
from ecgscan_ray.tasks.labelled import LabelledMaker
from ecgscan_ray.tasks.task import check_section, get_task
from tests.records import recording
from tests.stores import write_store
from tests.tiny import tiny_config

TOKENIZER = text.fit_tokenizer(["sinusrhythmus"], 100)
CLASSES = {"MI": ["IMI", "AMI"], "NORM": ["NORM"]}


def settings(input_: str = "leads", **finetune: object) -> Config:
    section = {"task": "made-up", "classes": CLASSES, **finetune}
    return tiny_config(model__input=input_, finetune=section)


def recordings() -> list[Recording]:
    labels: Sequence[dict[str, float]] = ({"NORM": 100.0}, {"AMI": 0.0, "SR": 0.0}, {"AFIB": 100.0}, {})
    return [recording(str(number), seed=number, labels=each) for number, each in enumerate(labels)]


def test_a_class_has_several_codes_and_recordings_without_one_do_not_count() -> None:
    batch = LabelledMaker(settings(), TOKENIZER).make(recordings(), range(4), [0] * 4)
    assert batch["classes"].tolist() == [[False, True], [True, False], [False, False], [False, False]]
    assert batch["has_classes"].tolist() == [True, True, False, False]
    batch = LabelledMaker(settings(keep_negatives=True), TOKENIZER).make(recordings(), range(4), [0] * 4)
    assert batch["has_classes"].tolist() == [True, True, True, False], "without labels nothing is known"


@pytest.mark.parametrize(("input_", "of"), [("leads", "pages"), ("image", "pages"), ("leads", "recordings")])
def test_what_is_trained_has_a_gradient_and_the_rest_stays(input_: str, of: str) -> None:
    """A parameter without a gradient would stop training on several workers; an untrained one that has one is not kept."""
    config, task = settings(input_, input=of), get_task("finetune")
    model = task.build_model(config, TOKENIZER)
    batch = task.to_device(
        LabelledMaker(config, TOKENIZER).make(recordings(), range(4), [0] * 4), torch.device("cpu"), config
    )
    torch.manual_seed(0)
    loss = task.build_loss(config)(model(batch), batch, 0.0)["loss"]
    loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad and name[:4] == "page"}
    assert trained == ({"tower", "signal_encoder"} if input_ == "image" else {"signal_encoder"})
    assert not any(p.requires_grad for p in model.page.decoder.parameters()), "redrawn leads stay in mV"


def test_the_loss_is_the_mean_over_known_rows_and_classes() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.0, 0.0], [5.0, 5.0]])
    classes = torch.tensor([[True, False], [False, True], [False, False]])
    known = torch.tensor([True, True, False])
    by_hand = (np.log1p(np.exp(-2)) + np.log1p(np.exp(-1)) + 2 * np.log(2)) / 4
    assert classification_loss(logits, classes, known).item() == pytest.approx(by_hand, rel=1e-6)
    assert classification_loss(logits, classes, torch.zeros(3, dtype=torch.bool)).item() == 0


def test_thresholds_are_probabilities_and_a_class_that_nobody_has_gets_none() -> None:
    class Fixed(torch.nn.Module):
        def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"logits": batch["logits"]}

    batch = {
        "logits": torch.tensor([[2.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [9.0, 0.0]]),
        "classes": torch.tensor([[True, False], [True, False], [False, False], [False, False]]),
        "has_classes": torch.tensor([True, True, True, False]),
    }
    thresholds = choose_thresholds(Fixed(), [batch], ["A", "B"])  # type: ignore[arg-type, list-item]
    assert thresholds["A"] == pytest.approx(torch.sigmoid(torch.tensor(1.0)).item()) and thresholds["B"] is None


def test_settings_of_fine_tuning_are_those_of_no_other_command() -> None:
    with pytest.raises(ConfigError, match="finetune: settings of 'ecgscan finetune', not of 'ecgscan pretrain'"):
        check_section(settings(), "pretrain")
    with pytest.raises(ConfigError, match="the settings have no section 'finetune'"):
        check_section(tiny_config(), "finetune")


def test_a_share_of_the_labels_is_a_store_of_the_probes_subset(tmp_path: Path) -> None:
    rows = [
        recording(str(n), seed=n, labels=({"NORM": 1.0}, {"IMI": 1.0}, {"SR": 1.0})[(n // 3) % 3]) for n in range(90)
    ]
    store = write_store(tmp_path / "store", rows)
    manifest = read_manifest(store)
    parts = [part for split in SPLITS for part in parts_of(manifest, split)]
    facts = read_facts(store, parts)
    (task,) = get_tasks("ptbxl", ["superclass"])
    selection = select(task, facts)
    chosen = selection.train[subset(selection.targets.values[selection.train], 0.3, 2)]
    out = str(tmp_path / "part")
    written = write_labelled_store(store, manifest, parts, facts, selection, chosen, out)
    assert written.rows("train") == len(chosen) == 6 and written.rows("test") == 0
    train = list(iterate_rows(out, read_manifest(out), "train"))
    assert {row.id for row in train} == {facts.ids[row] for row in chosen}
    known = {row.id: set(row.labels) for row in train}
    for row in chosen:
        names = {
            name for name, has in zip(selection.targets.classes, selection.targets.values[row], strict=True) if has
        }
        assert known[facts.ids[row]] == (names or {NO_CLASS})
    assert write_labelled_store(store, manifest, parts, facts, selection, chosen, out) == written, "used again"
    with pytest.raises(StoreError, match="holds other recordings"):
        write_labelled_store(store, manifest, parts, facts, selection, chosen[1:], out)
