"""Metrics reach each tracker, a resumed run goes on in the same one, and a tracker that fails ends no training."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from wandb.proto.wandb_internal_pb2 import Record

from ecgscan_ray.errors import ConfigError
from ecgscan_ray.runs import metrics
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.metrics import RunLog, read_metrics
from ecgscan_ray.runs.sinks import PACKAGES, check_sinks
from tests.tiny import tiny_config

IMAGE = np.zeros((4, 6, 3), np.uint8)


def log_steps(tmp_path: Path, sink: str, steps: range) -> RunFolder:
    """One command's part of a run."""
    local = tmp_path / f"local-{steps.start}"
    local.mkdir()
    folder = RunFolder(str(tmp_path / "run"))
    log = RunLog(tiny_config(training__sinks=[sink]), folder, local)
    for step in steps:
        log.write("train", step, {"loss": 1.0 / step})
    log.write("validation", steps[-1], {"validation.score": 0.5})
    log.images({"validation/page": IMAGE})
    log.flush()
    log.close()
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def test_mlflow_keeps_one_run_over_a_resume(tmp_path: Path, offline: None) -> None:
    log_steps(tmp_path, "mlflow", range(1, 4))
    folder = log_steps(tmp_path, "mlflow", range(3, 6))
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "run" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("ecgscan")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == folder.sink_id("mlflow", lambda: "another")
    assert run.info.status == "FINISHED" and run.info.run_name == "run"
    assert {m.step for m in client.get_metric_history(run.info.run_id, "train/loss")} == {1, 2, 3, 4, 5}
    assert run.data.metrics["validation/score"] == 0.5
    pictures = client.list_artifacts(run.info.run_id, "validation/page")
    assert [file.path.rpartition("/")[2] for file in pictures] == ["000000003.png", "000000005.png"]


def wandb_records(path: Path) -> list[Any]:
    """Records of an offline run's file: LevelDB's log format after a header of 7 bytes, protobuf inside."""
    block, header = 32768, 7
    content, position, parts, records = path.read_bytes(), header, b"", []
    while position + header <= len(content):
        if block - position % block < header:  # padding at a block's end
            position += block - position % block
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        position += header + length
        parts += content[position - length : position]
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


def test_wandb_offline_keeps_one_run_over_a_resume(tmp_path: Path, offline: None) -> None:
    log_steps(tmp_path, "wandb", range(1, 4))
    folder = log_steps(tmp_path, "wandb", range(3, 6))
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2, "a part for each command"
    records = [wandb_records(file) for file in files]
    ids = {record.run.run_id for part in records for record in part if record.WhichOneof("record_type") == "run"}
    assert ids == {folder.sink_id("wandb", lambda: "another")}
    for part in records:
        keys = {item.key or "/".join(item.nested_key) for r in part for item in r.history.item}
        assert {"step", "train/loss", "validation/score", "validation/page/path"} <= keys


def test_tensorboard_gets_scalars_and_pictures(tmp_path: Path) -> None:
    log_steps(tmp_path, "tensorboard", range(1, 4))
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    content = file.read_bytes()
    assert b"train/loss" in content and b"validation/page" in content and b"PNG" in content


def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "wandb", "no_such_module")
    with pytest.raises(ConfigError, match=r"'wandb' needs a package.*pip install 'ecgscan-ray\[wandb\]'"):
        check_sinks(["wandb"])


def test_a_tracker_that_fails_is_left_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def scalars(self, step: int, values: dict[str, float]) -> None:
            raise ConnectionError("no route")

    monkeypatch.setattr(metrics, "open_sinks", lambda *_: {"wandb": Broken()})
    with caplog.at_level(logging.WARNING):
        log_steps(tmp_path, "wandb", range(1, 4))
    assert caplog.text.count("'wandb' failed and is left out (ConnectionError: no route)") == 1
    assert [line["step"] for line in read_metrics(str(tmp_path / "run"))] == [1, 2, 3, 3]


def test_sinks_do_not_change_a_runs_identity() -> None:
    assert tiny_config(training__sinks=["tensorboard"]).digest() == tiny_config(training__sinks=[]).digest()
