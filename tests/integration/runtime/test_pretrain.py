"""Pretraining on a real store with real Ray: same plan, same batches, through a kill and under another number of workers."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from tempfile import gettempdir

import psutil
import pytest

from ecgscan_ray.errors import ConfigError, RunError
from ecgscan_ray.runs.checkpoints import find_checkpoint
from ecgscan_ray.runs.metrics import read_metrics
from ecgscan_ray.runtime.pretrain import pretrain
from ecgscan_ray.tasks.loading import load_run
from ecgscan_ray.training.scratch import PREFIX
from tests.tiny import tiny_config


def rows_by_step(run: Path) -> dict[int, int]:
    """Step -> the key of the set of rows in its global batch, over all parts of the run."""
    return {
        int(line["step"]): int(line["batch_fingerprint"]) for line in read_metrics(str(run)) if line["kind"] == "train"
    }


def kill_a_worker_after(checkpoint: Path, killed: list[int]) -> threading.Thread:
    """SIGKILL one training worker once ``checkpoint`` has been registered, and note it."""

    def wait_and_kill() -> None:
        deadline = time.monotonic() + 300
        while not checkpoint.is_dir() and time.monotonic() < deadline:
            time.sleep(0.2)
        mine = psutil.Process().children(recursive=True)
        workers = [process for process in mine if "RayTrainWorker" in " ".join(process.cmdline())]
        killed.append(max(worker.pid for worker in workers))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


def test_run_finish_resume_and_refuse(
    ray_cluster: None, sample_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = tiny_config(training__steps=4), tmp_path / "run"
    with monkeypatch.context() as here:  # relative paths, as users give them; Ray's workers have folders of their own
        here.chdir(tmp_path)
        pretrain(config, os.path.relpath(sample_store), "run", quiet=True)
    assert json.loads((out / "finished.json").read_text()) == {"step": 4}
    assert sorted(rows_by_step(out)) == [1, 2, 3, 4]
    loaded = load_run(str(out), "last")
    assert loaded.state.step == 4 and loaded.state.score is not None
    before = (out / "finished.json").stat().st_mtime_ns
    pretrain(config, sample_store, str(out), quiet=True)  # finished: nothing to do
    assert (out / "finished.json").stat().st_mtime_ns == before
    with pytest.raises(RunError, match=r"objective\.gram_weight: 1\.0 -> 2\.0"):
        pretrain(tiny_config(training__steps=4, objective__gram_weight=2.0), sample_store, str(out))
    with pytest.raises(RunError, match="needs an empty folder"):
        pretrain(config, sample_store, str(out), fresh=True)
    with pytest.raises(ConfigError, match=r"needs 9\.05 CPUs"):
        pretrain(tiny_config(resources__cpus_per_worker=8.5), sample_store, str(tmp_path / "other"))


@pytest.mark.verify
@pytest.mark.parametrize(("workers", "pipelines"), [(2, 1), (4, 2)])
def test_same_batches_for_any_number_of_workers_and_pipelines_through_a_kill(
    workers: int, pipelines: int, ray_cluster: None, sample_store: str, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    pretrain(tiny_config(training__steps=8, training__global_batch_size=24), sample_store, str(one), quiet=True)
    killed: list[int] = []
    killer = kill_a_worker_after(two / "checkpoints" / "checkpoint_000000002", killed)
    config = tiny_config(
        training__steps=8, training__global_batch_size=24, stream__unit_rows=3, resources__cpus_per_worker=0.3,
        resources__num_workers=workers, resources__render_actors=2, resources__max_pipelines=pipelines,
    )  # fmt: skip
    assert config.resources.pipelines == pipelines
    pretrain(config, sample_store, str(two), quiet=True)
    killer.join(timeout=10)
    assert killed, "a worker was killed"
    assert sorted(rows_by_step(one)) == list(range(1, 9))
    assert rows_by_step(two) == rows_by_step(one)
    assert not list(Path(gettempdir()).glob(f"{PREFIX}two-*")), "nothing is left of the killed worker"
    assert find_checkpoint(str(two), "last").endswith("checkpoint_000000008")


@pytest.mark.verify
def test_resume_under_another_number_of_workers(ray_cluster: None, sample_store: str, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pretrain(tiny_config(training__steps=8), sample_store, str(whole), quiet=True)
    stopped = tiny_config(training__steps=8, resources__num_workers=2, resources__cpus_per_worker=0.3)
    pretrain(stopped, sample_store, str(broken), quiet=True, stop_rule=stop_at_four)
    (broken / "finished.json").unlink()  # as if the driver had been lost there
    pretrain(tiny_config(training__steps=8), sample_store, str(broken), quiet=True)
    assert rows_by_step(broken) == rows_by_step(whole)


def stop_at_four(step: int, metrics: dict[str, float]) -> bool:
    return step >= 4


def test_batch_norm_on_several_cpu_workers_is_refused(sample_store: str, tmp_path: Path) -> None:
    config = tiny_config(
        resources__num_workers=2, model__image__name="resnet10t", model__image__kwargs={"channels": [8, 8, 8, 8]}
    )
    with pytest.raises(ConfigError, match="has batch norm"):
        pretrain(config, sample_store, str(tmp_path / "run"))
