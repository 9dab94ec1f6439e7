"""Settings under a frozen teacher: what is no teacher is named, and what differs from the teacher is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecgscan_ray.config import Config, build, merge
from ecgscan_ray.errors import ConfigError, RunError
from ecgscan_ray.runs.checkpoints import weights_digest
from ecgscan_ray.tasks.frozen import with_teacher_settings
from tests.checkpoints import write_checkpoint
from tests.tiny import TINY, tiny_config


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (None, "empty, or not there"),
        ("manifest.json", "a store"),
        ("model.safetensors", "an exported encoder"),
        ("environment.json", "a run without a checkpoint yet"),
        ("thesis.txt", "a folder of something else"),
    ],
)
def test_what_is_no_teacher_is_named(tmp_path: Path, name: str | None, kind: str) -> None:
    if name:
        (tmp_path / name).write_text("{}")
    with pytest.raises(RunError, match=f"is no teacher: it is {kind}. Give the folder of a finished 'ecgscan teach'"):
        with_teacher_settings(tiny_config(teacher__run=str(tmp_path)))


def test_a_page_encoder_is_no_teacher(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 2)
    with pytest.raises(RunError, match="it is a run of 'ecgscan pretrain', a page encoder"):
        with_teacher_settings(tiny_config(teacher__run=str(tmp_path)))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("teacher")
    write_checkpoint(run, 2, task="teach")
    (run / "finished.json").write_text(json.dumps({"step": 2}))
    return run


def test_settings_that_differ_from_the_teachers_are_refused_by_name(teacher: Path) -> None:
    config = tiny_config(teacher__run=str(teacher), model__signal__width=16, model__timing_dim=8)
    with pytest.raises(ConfigError) as error:
        with_teacher_settings(config)
    assert "model.timing_dim=8 (the teacher's: 4)" in str(error.value)
    assert "model.signal.width=16 (the teacher's: 8)" in str(error.value)
    assert "model.embed_dim" not in str(error.value), "only what differs is named"


def test_settings_that_were_not_given_are_the_teachers(teacher: Path) -> None:
    given = merge({name: TINY[name] for name in TINY if name != "model"}, {"teacher.run": str(teacher)})
    model = {name: value for name, value in TINY["model"].items() if name not in ("embed_dim", "signal")}
    config, digest = with_teacher_settings(build(Config, given | {"model": model}, where="test"))
    assert (config.model.signal.width, config.model.embed_dim) == (8, 16)
    assert config.teacher.run == str(teacher)
    assert digest == weights_digest(str(teacher / "checkpoints" / "checkpoint_000000002"))


def test_the_resolved_settings_of_a_run_agree_with_its_teacher(teacher: Path) -> None:
    config, _ = with_teacher_settings(tiny_config(teacher__run=str(teacher)))
    again = build(Config, config.model_dump(mode="json"), where="saved")
    assert with_teacher_settings(again)[0] == config


def test_an_unfinished_teacher_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 2, task="teach")
    with pytest.raises(RunError, match="the teacher is not finished"):
        with_teacher_settings(tiny_config(teacher__run=str(tmp_path)))
