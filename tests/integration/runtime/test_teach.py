"""Teachers on a real store with real Ray: taught, gone on with, and told from page encoders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.errors import RunError
from ecgscan_ray.runs.metrics import read_metrics
from ecgscan_ray.runtime.pretrain import pretrain, teach
from ecgscan_ray.store.embeddings import EmbeddingReader, vectors
from ecgscan_ray.store.manifest import read_manifest
from ecgscan_ray.store.shards import iterate_rows
from ecgscan_ray.tasks.loading import load_run, load_teacher
from ecgscan_ray.training.tensors import to_device
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
    assert {"report_loss", "view_loss", "hidden_loss", "r_hidden", "batch_fingerprint"} <= lines[-1].keys()
    assert load_teacher(str(teacher), "last").state.step == 4
    with pytest.raises(RunError, match="holds a teacher"):
        load_run(str(teacher))
    with pytest.raises(RunError, match="task: teach -> pretrain"):
        pretrain(tiny_config(training__steps=4), sample_store, str(teacher))


@pytest.mark.verify
def test_stop_and_resume_sees_each_row_once(teacher: Path, sample_store: str, tmp_path: Path) -> None:
    config, out = tiny_config(training__steps=4), tmp_path / "run"
    teach(config, sample_store, str(out), quiet=True, stop_rule=stop_at_two)
    (out / "finished.json").unlink()  # as if the driver had been lost there
    teach(config, sample_store, str(out), quiet=True)
    assert rows_by_step(out) == rows_by_step(teacher)


def rows_by_step(run: Path) -> dict[int, int]:
    return {
        int(line["step"]): int(line["batch_fingerprint"]) for line in read_metrics(str(run)) if line["kind"] == "train"
    }


def stop_at_two(step: int, metrics: dict[str, float]) -> bool:
    return step >= 2


@pytest.mark.verify
def test_pages_are_aligned_to_a_frozen_teacher(teacher: Path, sample_store: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = tiny_config(training__steps=4, teacher__run=str(teacher))
    pretrain(config, sample_store, str(out), quiet=True, stop_rule=stop_at_two)
    (index,) = teacher.glob("embeddings/*/index.json")
    made = index.stat().st_mtime_ns
    facts = json.loads((out / "environment.json").read_text())
    assert facts["task"] == "pretrain" and len(facts["teacher_digest"]) == 64
    assert (out / "tokenizer.json").read_text() == (teacher / "tokenizer.json").read_text()
    (out / "finished.json").unlink()  # as if the driver had been lost there
    pretrain(config, sample_store, str(out), quiet=True)
    assert index.stat().st_mtime_ns == made, "the vectors are made once"
    assert rows_by_step(out) == rows_by_step(teacher)

    loaded, taught = load_run(str(out), "last"), load_teacher(str(teacher))
    frozen = loaded.model.teacher
    assert frozen is not None
    for name, weight in taught.model.signal_encoder.state_dict().items():
        assert torch.equal(frozen.signal_encoder.state_dict()[name], weight), f"{name} has moved"
    assert not torch.equal(frozen.signal_projection.weight, torch.eye(16)), "the projections train"
    assert frozen.signal_projection.mean.abs().sum() > 0

    # what the stream brought is what the teacher says
    rows = list(iterate_rows(sample_store, read_manifest(sample_store), "train", limit=20))
    shard = read_manifest(sample_store).shards_of("train")[0]
    kept = EmbeddingReader(str(index.parent)).read(shard, [0])
    tensors = to_device(BatchMaker(taught.config, taught.tokenizer).make(rows, range(20), [0] * 20), "cpu", 100)
    said = taught.model.encode_signal(tensors["centred_mv"]).detach().numpy()
    np.testing.assert_allclose(vectors(kept["teacher_signal"], 16)[:20], said, atol=1e-5)
    text = taught.model.encode_text(tensors["token_ids"], tensors["attention_mask"]).detach().numpy()[:, :12]
    has = tensors["has_text"].numpy()
    np.testing.assert_allclose(vectors(kept["teacher_report"], 12)[:20][has], text[has], atol=1e-5)

    with pytest.raises(RunError, match=r"teacher\.run: given -> None"):
        pretrain(tiny_config(training__steps=4), sample_store, str(out))
    with pytest.raises(RunError, match="is no teacher: it is a run of 'ecgscan pretrain', a page encoder"):
        pretrain(tiny_config(teacher__run=str(out)), sample_store, str(tmp_path / "other"))
    (teacher / "finished.json").rename(teacher / "away.json")
    with pytest.raises(RunError, match="the teacher is not finished"):
        pretrain(config, sample_store, str(tmp_path / "other"))
    (teacher / "away.json").rename(teacher / "finished.json")
