"""Checkpoints know their task: a run of one task is not read as one of another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ecgscan_ray.errors import RunError
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.teacher import Teacher
from ecgscan_ray.reading.page_reader import PageReader
from ecgscan_ray.tasks.frozen import with_teacher_settings
from ecgscan_ray.tasks.loading import load_rectifier, load_run, load_teacher
from ecgscan_ray.tasks.makers import MAKERS
from ecgscan_ray.tasks.task import TASKS, FirstWeights, get_task
from tests.checkpoints import TOKENIZER, sign, write_checkpoint
from tests.tiny import tiny_config, tiny_reader_config


def test_each_task_reads_its_own_runs_alone(tmp_path: Path) -> None:
    pages, teacher = tmp_path / "pages", tmp_path / "teacher"
    write_checkpoint(pages, 2)
    write_checkpoint(teacher, 2, task="teach")
    assert isinstance(load_run(str(pages)).model, ECGScan)
    assert isinstance(load_teacher(str(teacher)).model, Teacher)
    with pytest.raises(RunError, match=r"holds a teacher, which reads no pages. Give a run of 'ecgscan pretrain'"):
        load_run(str(teacher))
    with pytest.raises(RunError, match=r"holds a page encoder. Make a teacher by 'ecgscan teach'"):
        load_teacher(str(pages))


def test_a_rectifier_is_told_from_other_runs_and_gives_a_new_one_its_weights(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 2, task="rectifier", config=tiny_reader_config())
    earlier = load_rectifier(str(tmp_path)).model
    assert isinstance(earlier, PageReader)
    with pytest.raises(RunError, match="holds the networks of a page reader"):
        load_run(str(tmp_path))
    with pytest.raises(RunError, match="it is a run of 'ecgscan rectifier', the networks of a page reader"):
        with_teacher_settings(tiny_config(teacher__run=str(tmp_path)))
    task, config = get_task("rectifier"), tiny_reader_config(seed=7)
    model = task.build_model(config, TOKENIZER)
    assert not torch.equal(model.row.height[1].weight, earlier.row.height[1].weight), "another seed"
    task.init_weights(model, FirstWeights(str(tmp_path)))
    for name, value in model.state_dict().items():
        assert torch.equal(value, earlier.state_dict()[name]), name


def test_a_task_of_another_version_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 2)
    state = folder / "state.json"
    state.write_text(state.read_text().replace('"pretrain"', '"dream"'))
    sign(folder)
    with pytest.raises(RunError, match="task 'dream' is not one of pretrain, teach"):
        load_run(str(tmp_path))


def test_a_task_is_named_as_its_command_and_its_scores_have_one_mean() -> None:
    for name in TASKS:
        assert get_task(name).name == name
        assert get_task(name).scores[0] == "score"
    assert MAKERS.keys() == TASKS.keys()
