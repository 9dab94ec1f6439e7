"""Tasks: classes, splits, published lists, and leaks."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from ecgscan_ray.benchmark import lists, registry
from ecgscan_ray.benchmark.facts import parts_of, read_facts
from ecgscan_ray.benchmark.leaks import labels_in_reports
from ecgscan_ray.benchmark.prompts import read_prompts, task_prompts
from ecgscan_ray.benchmark.registry import get_tasks, statements
from ecgscan_ray.benchmark.task import own_labels, select
from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources import open_source
from ecgscan_ray.store.manifest import SPLITS, read_manifest
from tests.archives import MAKERS
from tests.stores import write_store
from tests.unit.benchmark.made_up import made_up_facts


def test_the_tasks_of_ptbxl_have_the_classes_of_its_benchmark() -> None:
    assert {name: len(statements(name)) for name in registry.PTBXL} == {
        "superclass": 5,
        "subclass": 23,
        "form": 19,
        "rhythm": 12,
    }
    assert statements("subclass")["IMI"] == {"IMI", "ILMI", "IPLMI", "IPMI", "INJIN", "INJIL"}


def test_every_class_has_prompts_in_two_languages() -> None:
    for name in registry.PTBXL:
        (task,) = get_tasks("ptbxl", [name])
        prompts = task_prompts(task, tuple(statements(name)))
        assert len(prompts) == len(statements(name))
        assert all(len(wordings) >= 2 for wordings in prompts.values())


def test_a_task_uses_the_splits_of_the_store() -> None:
    facts = made_up_facts()
    (task,) = get_tasks("ptbxl", ["superclass"])
    selection = select(task, facts)
    assert set(facts.split[selection.test]) == {"test"} and len(selection.test) == 30
    assert not selection.notes


def test_a_patient_on_both_sides_is_refused() -> None:
    facts = made_up_facts()
    patients = facts.patient_key.copy()
    patients[3] = patients[0]  # one in test, one in training
    (task,) = get_tasks("ptbxl", ["superclass"])
    with pytest.raises(InputError, match="leaks: 1 patients are in 'train' and in 'test'"):
        select(task, replace(facts, patient_key=patients))
    patients[[0, 3]] = -1
    assert "2 recordings are not known" in select(task, replace(facts, patient_key=patients)).notes[0]


def test_labels_with_too_few_recordings_are_left_out_and_named() -> None:
    facts = made_up_facts()
    labels = [codes | {"RARE"} if number in (0, 3) else codes for number, codes in enumerate(facts.labels)]
    targets = own_labels(replace(facts, labels=labels))
    assert targets.classes == ("AFIB", "IMI", "NORM", "SR")
    assert targets.left_out == {"RARE": "1 of 60 recordings of 'train' have it"}


def test_reports_that_were_written_from_the_labels_leak() -> None:
    facts = made_up_facts()
    labels, classes = own_labels(facts).values, ("AFIB", "IMI", "NORM", "SR")
    assert not labels_in_reports(facts.reports, labels, classes, {}).leaks
    written = [" ".join(sorted(codes)).lower() for codes in facts.labels]
    found = labels_in_reports(written, labels, classes, {})
    assert found.leaks and found.classes == classes


def write_lists(folder: Path, rows: dict[str, list[tuple[str, int, int]]]) -> None:
    for ending, entries in rows.items():
        with open(folder / f"made_{ending}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["ecg_path", "age", "diagnose", "A", "B"])
            writer.writerows([(f"/some/where/{name}.mat", 50, "A", a, b) for name, a, b in entries])


def test_published_lists_decide_split_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [(str(number), number % 2, 1 - number % 2) for number in range(20)]
    rows = {"train": train, "val": [("30", 1, 0), ("31", 0, 1)], "test": [("40", 0, 1), ("41", 1, 0), ("absent", 1, 0)]}
    write_lists(tmp_path, rows)
    counts = {"A": (10, 1, 2), "B": (10, 1, 1)}
    published = lists.PublishedLists("made up", "made", (20, 2, 3), counts)
    monkeypatch.setattr(lists, "published_lists", lambda: {"made": published})
    task = lists.list_task("made", str(tmp_path))
    selection = select(task, made_up_facts())
    assert selection.test.tolist() == [40, 41] and selection.targets.values[40].tolist() == [False, True]
    assert selection.notes == ("1 of the 25 recordings of the lists are not used or not in the store",)
    write_lists(tmp_path, rows | {"test": rows["test"][:2]})
    with pytest.raises(InputError, match="not the published split"):
        lists.list_task("made", str(tmp_path))


@pytest.mark.parametrize("kind", ["chapman", "cinc2021"])
def test_lists_name_the_recordings_of_a_published_tree(kind: str, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    MAKERS[kind](tmp_path / "tree", 80)
    source, archive = open_source(kind, None), ArchiveFiles(tmp_path / "tree")
    recordings = [source.read(item, archive) for item in source.list_records(archive)]
    store = write_store(tmp_path / "store", recordings)
    manifest = read_manifest(store)
    facts = read_facts(store, [part for split in SPLITS for part in parts_of(manifest, split)])
    names = [r.id for r in recordings if r.id.startswith(("JS", "A"))][:10]
    for ending, part in (("train", names[:4]), ("val", names[4:6]), ("test", [*names[6:], "A9999"])):
        with open(tmp_path / f"made_{ending}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            if kind == "chapman":
                writer.writerow(["ecg_path", "age", "diagnose", "X"])
                writer.writerows([(f"/chapman/{name}.mat", 50, "X", k % 2) for k, name in enumerate(part)])
            else:  # as the list of CPSC2018: its numbers are no ids
                writer.writerow(["patient_id", "ecg_id", "filename", "validation", "age", "sex", "scp_codes", "X"])
                writer.writerows([(k, k, name, False, 50, 0, "{}", k % 2) for k, name in enumerate(part)])
    endings = zip(SPLITS, ("train", "val", "test"), strict=True)
    of_split = {split: lists.read_list(str(tmp_path / f"made_{ending}.csv")) for split, ending in endings}
    selection = select(lists.task_of_lists("made", "made up", of_split), facts)
    assert [facts.ids[row] for row in selection.train] == sorted(names[:4], key=facts.ids.index)
    assert {facts.ids[row] for row in selection.test} == set(names[6:])
    assert [bool(selection.targets.values[facts.ids.index(name), 0]) for name in names[6:]] == [
        False,
        True,
        False,
        True,
    ]
    assert selection.notes[0] == "1 of the 11 recordings of the lists are not used or not in the store"


def test_a_task_with_published_lists_requires_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is split by published lists"):
        get_tasks("chapman")
    with pytest.raises(InputError, match=r"has no chapman_test.csv, chapman_train.csv, chapman_val.csv"):
        get_tasks("chapman", lists=str(tmp_path))


def test_counts_of_published_lists_are_those_of_the_field() -> None:
    published = lists.published_lists()
    assert len(published["cpsc2018"].positives) == 9 and published["cpsc2018"].rows == (4950, 551, 1376)
    assert len(published["chapman"].positives) == 38 and sum(published["chapman"].rows[:2]) == 18406


def test_a_public_dictionary_of_prompts_replaces_ours(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text('{"NST": "non-specific ST changes", "DIG": ["digitalis", "DIG effect"]}')
    own = read_prompts(str(tmp_path / "prompts.json"))
    (task,) = get_tasks("ptbxl", ["form"])
    prompts = task_prompts(task, ("NST_", "DIG", "PVC"), own)
    assert prompts == {0: ["non-specific ST changes"], 1: ["digitalis", "DIG effect"]}
    (tmp_path / "prompts.json").write_text('{"NST": 3}')
    with pytest.raises(InputError, match="no wording"):
        read_prompts(str(tmp_path / "prompts.json"))
