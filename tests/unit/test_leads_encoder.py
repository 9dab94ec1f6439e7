"""The encoder of leads as users have it: one folder, one call from a picture to features, redrawn leads or a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ecgscan_ray import read_page, text
from ecgscan_ray.config import PageConfig, dump_yaml
from ecgscan_ray.encoder import embed_folder, export, load_encoder
from ecgscan_ray.encoder import folder as folder_room
from ecgscan_ray.errors import InputError
from ecgscan_ray.evaluation.redraw import recording_pearson
from ecgscan_ray.paper import Renderer
from ecgscan_ray.reading.read_pages import ReadPages, legible
from ecgscan_ray.reading.weights import load_networks
from ecgscan_ray.runs.checkpoints import TrainingState
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.checkpoint import Snapshot, save_checkpoint
from ecgscan_ray.training.tensors import centred
from tests import records
from tests.tiny import tiny_config

CONFIG = tiny_config(model__input="leads", page__effects="clean")
TOKENIZER = text.fit_tokenizer(["sinusrhythmus"], 100)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    model = Pretrain().build_model(CONFIG, TOKENIZER)
    checkpoint = folder / "checkpoints" / "checkpoint_000000001"
    checkpoint.mkdir(parents=True)
    state = TrainingState(1, 24, CONFIG.digest(), "pretrain")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    save_checkpoint(checkpoint, Snapshot.of(model, optimizer), CONFIG, TOKENIZER.to_str(), state)
    (folder / "config.yaml").write_text(dump_yaml(CONFIG))
    (folder / "environment.json").write_text(json.dumps({"store": str(folder / "gone")}))
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(export(str(run), tmp_path_factory.mktemp("out") / "encoder"))


@pytest.fixture(scope="module")
def page() -> np.ndarray:
    renderer = Renderer(legible(CONFIG.page))
    return renderer.render([records.recording("7", seed=7)], np.array([3], np.uint64)).image[0]


def test_the_folder_holds_the_reader_and_gives_the_features_of_the_run(
    run: Path, exported: Path, page: np.ndarray
) -> None:
    assert {path.name for path in exported.iterdir()} == {
        "config.json",
        "model.safetensors",
        "reader.safetensors",
        "README.md",
    }
    encoder = load_encoder(exported)
    assert encoder.reads and repr(encoder).startswith("Encoder(leads read from pages, 100 Hz")
    features, aligned = encoder.embed(page), encoder.embed(page, projected=True)
    assert features.shape == (1, encoder.feature_dim) and aligned.shape == (1, encoder.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(aligned), 1, atol=1e-5)
    np.testing.assert_allclose(load_encoder(run).embed([page]), features, atol=1e-5)


def test_a_picture_is_redrawn_from_what_was_read(exported: Path, page: np.ndarray, tmp_path: Path) -> None:
    redrawn = load_encoder(exported).redraw([page, page])
    assert redrawn.signal_mv.shape == (2, 12, 1000) and np.isfinite(redrawn.signal_mv).all()
    assert redrawn.shown[0].mean() == pytest.approx(15 / 48, abs=0.02), "3x4 with a rhythm strip"
    read = read_page(page).leads_at(100)
    np.testing.assert_array_equal(redrawn.shown[0], np.isfinite(read))
    truth = torch.from_numpy(records.recording("7", seed=7).signal_mv)[None]
    shown = torch.from_numpy(redrawn.shown[:1])
    target = centred(truth, torch.ones_like(shown))
    best = max(
        float(recording_pearson(torch.from_numpy(redrawn.signal_mv[:1]), target.roll(k, -1), shown))
        for k in range(-8, 9)
    )
    assert best > 0.9, "up to the time at which the rows begin"
    assert [reading.layout.text for reading in redrawn.readings] == ["3x4+1"] * 2
    assert redrawn.readings[0].quality > 0.7 and "median quality 0." in repr(redrawn)
    assert "# speed: 25 mm/s" in redrawn.to_wfdb(tmp_path / "page").read_text()


def test_a_picture_without_an_ecg_is_refused_alone(
    exported: Path, page: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(page).save(pictures / "page.png")
    Image.new("RGB", (600, 400), (90, 120, 60)).save(pictures / "lawn.png")
    encoder = load_encoder(exported)
    with pytest.raises(InputError, match="no ECG page"):
        encoder.embed(pictures / "lawn.png")
    result = embed_folder(exported, pictures, tmp_path / "out.parquet", projected=True)
    assert result.embedded == 1 and set(result.errors) == {"lawn.png"}
    rows = {row["path"]: row for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
    np.testing.assert_allclose(rows["page.png"]["embedding"], encoder.embed(page, projected=True)[0], atol=1e-5)
    monkeypatch.setattr(folder_room, "usable_cores", lambda: 1)  # as many threads as here
    again = embed_folder(exported, pictures, tmp_path / "again.parquet", projected=True, workers=1)
    assert again.errors == result.errors
    by_process = {row["path"]: row for row in pq.read_table(tmp_path / "again.parquet").to_pylist()}
    np.testing.assert_allclose(by_process["page.png"]["embedding"], rows["page.png"]["embedding"], atol=1e-5)


def test_damaged_reader_and_onnx_are_refused(run: Path, exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in exported.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    content = bytearray((copy / "reader.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "reader.safetensors").write_bytes(bytes(content))
    with pytest.raises(InputError, match="is missing or damaged"):
        load_encoder(copy)
    with pytest.raises(InputError, match="no ONNX graph"):
        export(str(run), tmp_path / "onnx", onnx=True)


def test_evaluation_draws_pages_and_reads_them() -> None:
    maker = ReadPages(CONFIG, TOKENIZER, load_networks())
    batch = maker.make([records.recording("7", seed=7)], [0], [0])
    assert batch["image"].shape == (1, CONFIG.page.height, CONFIG.page.width, 1), "small, for the report"
    shown = np.unpackbits(batch["read_bits"], axis=-1)[..., :1000]
    assert shown.mean() == pytest.approx(15 / 48, abs=0.02)
    assert 0.1 < np.abs(batch["read"][0]).max() / 1000 < 5, "mV"


def test_pages_are_large_enough_to_be_read() -> None:
    page = legible(PageConfig(height=64, width=96))
    assert page.channels == 3 and page.width / 279.4 == pytest.approx(page.height / 215.9, rel=1e-3)
