"""The rectifier on a real store with real Ray: trained, gone on with, told from other runs, and its weights written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ecgscan_ray.errors import ConfigError, RunError
from ecgscan_ray.reading.weights import load_networks
from ecgscan_ray.runs.metrics import read_metrics
from ecgscan_ray.runtime.pretrain import pretrain
from ecgscan_ray.tasks.loading import load_rectifier, load_run
from tests.tiny import tiny_config, tiny_reader_config
from tools.make_weights import make_weights


def stop_at_two(step: int, metrics: dict[str, float]) -> bool:
    return step >= 2


CONFIG = tiny_reader_config(training__steps=3, training__checkpoint_every=1, training__term_gradients_every=2)


@pytest.mark.verify
def test_stop_and_resume_sees_each_row_once(ray_cluster: None, sample_store: str, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    pretrain(CONFIG, sample_store, str(whole), task="rectifier", quiet=True)
    pretrain(CONFIG, sample_store, str(out), task="rectifier", quiet=True, stop_rule=stop_at_two)
    (out / "finished.json").unlink()  # as if the driver had been lost there
    pretrain(CONFIG, sample_store, str(out), task="rectifier", quiet=True)
    assert rows_by_step(out) == rows_by_step(whole)
    assert load_rectifier(str(out), "last").model.updates == 3


def rows_by_step(run: Path) -> dict[int, int]:
    return {
        int(line["step"]): int(line["batch_fingerprint"]) for line in read_metrics(str(run)) if line["kind"] == "train"
    }


def test_train_and_write_weights(ray_cluster: None, sample_store: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain(CONFIG, sample_store, str(out), task="rectifier", quiet=True)
    assert json.loads((out / "finished.json").read_text()) == {"step": 3}
    lines = [line for line in read_metrics(str(out)) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert {"grid_loss", "grid_gradient_norm", "height_median_mm", "turn_right", "bad_pages"} <= lines[0].keys()

    loaded = load_rectifier(str(out), "last")
    assert loaded.state.step == 3 and loaded.state.score is not None and loaded.model.updates == 3
    with pytest.raises(RunError, match="holds the networks of a page reader"):
        load_run(str(out))
    make_weights(str(out), tmp_path / "reader.safetensors", "last")
    networks = load_networks(tmp_path / "reader.safetensors")
    torch.testing.assert_close(
        networks.row.state_dict()["height.1.weight"],
        loaded.model.ema["row"].state_dict()["height.1.weight"].half().float(),
    )
    with safe_open(tmp_path / "reader.safetensors", framework="pt") as file:
        assert file.metadata()["run_digest"] == loaded.state.config_digest and file.metadata()["step"] == "3"


def test_settings_of_other_tasks_are_refused(sample_store: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no section 'rectifier'.*--preset rectifier"):
        pretrain(tiny_config(), sample_store, str(tmp_path / "run"), task="rectifier")
    with pytest.raises(ConfigError, match="settings of 'ecgscan rectifier', not of 'ecgscan pretrain'"):
        pretrain(tiny_reader_config(), sample_store, str(tmp_path / "run"))
    several = tiny_reader_config(resources__num_workers=2, resources__cpus_per_worker=0.3)
    with pytest.raises(ConfigError, match=r"resources\.num_workers: the model has batch norm"):
        pretrain(several, sample_store, str(tmp_path / "run"), task="rectifier")
