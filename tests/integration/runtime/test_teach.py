"""Teachers on a real store with real Ray: taught, gone on with, and told from page encoders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ecgscan_ray.errors import RunError
from ecgscan_ray.report.metrics import read_metrics
from ecgscan_ray.runtime.pretrain import pretrain, teach
from ecgscan_ray.training.checkpoint import load_run, load_teacher
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def teacher(ray_cluster: None, sample_store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    teach(tiny_config(training__steps=4), sample_store, str(out), quiet=True)
    return out


def test_a_teacher_is_taught_and_told_from_a_page_encoder(teacher: Path, sample_store: str) -> None:
    assert json.loads((teacher / "finished.json").read_text()) == {"step": 4}
    lines = [line for line in read_metrics(str(teacher)) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"report_loss", "view_loss", "hidden_loss", "r_hidden", "rows_key"} <= lines[-1].keys()
    assert load_teacher(str(teacher), "last").state.step == 4
    with pytest.raises(RunError, match="holds a teacher"):
        load_run(str(teacher))
    with pytest.raises(RunError, match="task: teach -> pretrain"):
        pretrain(tiny_config(training__steps=4), sample_store, str(teacher))


def test_stop_and_resume_sees_each_row_once(teacher: Path, sample_store: str, tmp_path: Path) -> None:
    config, out = tiny_config(training__steps=4), tmp_path / "run"
    teach(config, sample_store, str(out), quiet=True, stop_rule=stop_at_two)
    (out / "finished.json").unlink()  # as if the driver had been lost there
    teach(config, sample_store, str(out), quiet=True)
    assert rows_by_step(out) == rows_by_step(teacher)


def rows_by_step(run: Path) -> dict[int, int]:
    return {int(line["step"]): int(line["rows_key"]) for line in read_metrics(str(run)) if line["kind"] == "train"}


def stop_at_two(step: int, metrics: dict[str, float]) -> bool:
    return step >= 2
