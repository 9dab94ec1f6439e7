"""Photographs of known recordings on made-up ones: heads, cut-out pages, who is in the gallery, and what a reader finds."""

import csv
import gzip
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks import bench_realism, find_recordings
from benchmarks.photographs import HEAD, photographs
from benchmarks.realism_sheet import may_be_shown
from ecgscan_ray import text
from ecgscan_ray.encoder import load_encoder
from ecgscan_ray.errors import InputError
from ecgscan_ray.runs.checkpoints import TrainingState
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.checkpoint import Snapshot, save_checkpoint
from tests.tiny import tiny_config

CORNERS = np.array([(0.1, 0.2), (0.8, 0.1), (0.9, 0.8), (0.2, 0.9)])
READ = """
import numpy as np
import pyarrow as pa

def read(path):
    ids = {ids}[path.name]
    x = np.random.default_rng(0).normal(0, 200, (len(ids), 1000, 12)).astype(np.int16)
    return pa.table({{"ecg_id": ids}}), x
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photographs of recordings 1 and 2, and 30 more patients in fold 9, one of whom has two recordings."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "ptbxl").mkdir()
    rng = np.random.default_rng(0)
    rows = [
        {"file": f"p{i}.png", "kind": kind, "licence_as_stated": "", "ecg_id": i}
        for i, kind in ((1, "photo"), (2, "scan"), (3, "synthetic"))
    ]
    with open(tmp_path / "photos" / "photos.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        cv2.imwrite(str(tmp_path / "photos" / row["file"]), rng.integers(90, 256, (240, 320, 3)).astype(np.uint8))
    people = [(1, 501, "3", "photo.parquet"), (2, 502, "9", "photo.parquet"), (10, 502, "9", "fold9.parquet")]
    people += [(20 + k, 600 + k // 2 * 2, "9", "fold9.parquet") for k in range(30)]
    people += [(90, 700, "1", "fold9.parquet")]
    with gzip.open(tmp_path / "ptbxl" / "database.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("ecg_id", "patient_id", "strat_fold", "shard"))
        writer.writerows(people)
    ids = {"photo.parquet": [1, 2], "fold9.parquet": [p[0] for p in people if p[3] == "fold9.parquet"]}
    (tmp_path / "ptbxl" / "read.py").write_text(READ.format(ids=ids))
    monkeypatch.setattr("benchmarks.photographs.page_corners", lambda: {"p1.png": CORNERS})
    return tmp_path


def test_photographs_are_those_of_paper(data: Path) -> None:
    assert [(photo.path.name, photo.kind, photo.ecg_id) for photo in photographs(data)] == [
        ("p1.png", "photo", "1"),
        ("p2.png", "scan", "2"),
    ]
    with pytest.raises(InputError, match=r"no photos/photos\.csv"):
        photographs(data / "ptbxl")


def test_the_head_and_nothing_else_is_painted_over(data: Path) -> None:
    for photo in photographs(data):
        plain, headless = photo.pixels(), photo.pixels(headless=True)
        page, blank = photo.cut_out(plain).astype(int), photo.cut_out(headless).astype(int)
        assert blank.shape == (247, 320, 3)
        head = round(HEAD * 247)
        assert np.ptp(blank[: head - 3], axis=(0, 1)).max() == 0
        assert np.array_equal(page[head + 4 :], blank[head + 4 :])


def test_a_page_is_cut_out_by_its_corners(data: Path) -> None:
    photo = photographs(data)[0]
    image = np.zeros((240, 320, 3), np.uint8)
    for mark, (x, y) in enumerate(CORNERS * (320, 240)):
        cv2.circle(image, (round(x), round(y)), 12, (60 * (mark + 1),) * 3, -1)
    page = photo.cut_out(image)
    assert [int(page[y, x, 0]) for y, x in ((3, 3), (3, -4), (-4, -4), (-4, 3))] == [60, 120, 180, 240]
    raised = photo.cut_out(image, 0.1)
    assert [int(raised[y - 25, x, 0]) for y, x in ((-4, -4), (-4, 3))] == [180, 240]


def test_gallery_holds_each_patient_once_and_no_photographed_one(data: Path) -> None:
    found = find_recordings.gallery(data, photographs(data), 15)
    assert [r.id for r in found[:2]] == ["1", "2"]
    others = [r.patient_id for r in found[2:]]
    assert len(set(others)) == 15
    assert not set(others) & {"501", "502", "700"}
    assert [r.id for r in find_recordings.gallery(data, photographs(data), 16)] == [r.id for r in found]


def test_a_patient_trained_on_is_an_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_recordings.gallery(data, photographs(data), 5)
    trained = {"train": found[3:4], "validation": found[:0], "test": found}
    monkeypatch.setattr(find_recordings, "read_manifest", lambda store: Manifest)
    monkeypatch.setattr(find_recordings, "iterate_rows", lambda store, manifest, split: trained[split])
    with pytest.raises(InputError, match=f"1 patients of the gallery were trained on, first {found[3].patient_id}"):
        find_recordings.check_strangers(found, "store")
    trained["train"] = []
    find_recordings.check_strangers(found, "store")


def test_a_run_is_asked_for_each_photograph(data: Path, tmp_path: Path) -> None:
    config, tokenizer = tiny_config(), text.fit_tokenizer(["sinusrhythmus"], 300)
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint_000000001"
    checkpoint.mkdir(parents=True)

    model = Pretrain().build_model(config, tokenizer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = TrainingState(1, 24, config.digest(), "pretrain")
    save_checkpoint(checkpoint, Snapshot.of(model, optimizer), config, tokenizer.to_str(), state)
    photos = photographs(data)
    encoder = load_encoder(tmp_path / "run")
    found = find_recordings.gallery(data, photos, 10)
    signals = find_recordings.embed_signals(encoder, found)
    assert signals.shape == (12, 16)
    assert np.allclose(np.linalg.norm(signals, axis=1), 1, atol=1e-4)
    figures = find_recordings.measure(encoder, photos, found)
    assert figures["photo.chance_at_1"].value == pytest.approx(1 / 12)
    assert figures["cut.recall_at_10"].n == 2
    assert {name.split(".")[0] for name in figures} == {"photo", "cut", "raised", "rendered", "gallery"}
    json.dumps({name: figure.as_dict() for name, figure in figures.items()}, allow_nan=False)


def test_crops_are_scored_by_classifiers_that_never_saw_their_recording(data: Path) -> None:
    photos = [photographs(data)[k % 2] for k in range(12)]
    photos = [type(p)(p.path, p.kind, p.licence, str(100 + k // 2)) for k, p in enumerate(photos)]
    count = len(photos) * bench_realism.CROPS
    owner = np.tile(np.repeat([int(p.ecg_id) for p in photos], bench_realism.CROPS), 2)
    seen = []

    def tell(rows: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> np.ndarray:
        assert not set(owner[rows]) & set(owner[asked])
        seen.extend(asked.tolist())
        return (asked < count).astype(float)

    blank = np.zeros((count, 1, 1, 3), np.uint8)
    estimate = bench_realism.classifier_auroc(blank, blank, photos, lambda images: np.arange(len(images)), tell)
    assert sorted(seen) == list(range(2 * count))
    assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("kind", bench_realism.CLASSIFIERS)
def test_classifiers_tell_grain_from_none_and_not_equal_from_equal(
    data: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(bench_realism, "EPOCHS", 4)
    monkeypatch.setattr(bench_realism, "CROPS", 6)
    photos = [type(photographs(data)[0])(Path(), "photo", "", str(k)) for k in range(8)]
    rng, side = np.random.default_rng(0), bench_realism.CROP
    real, same, soft = (
        rng.normal(128, spread, (8 * bench_realism.CROPS, side, side, 3)).clip(0, 255).astype(np.uint8)
        for spread in (20, 20, 5)
    )
    assert bench_realism.classifier_auroc(real, soft, photos, *bench_realism.CLASSIFIERS[kind]).value > 0.99
    assert 0.3 < bench_realism.classifier_auroc(real, same, photos, *bench_realism.CLASSIFIERS[kind]).value < 0.7


def test_without_photographs_the_bench_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.delenv("ECGSCAN_PHOTOS", raising=False)
    assert bench_realism.run() == {}
    assert "set ECGSCAN_PHOTOS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("licence", "free"),
    [
        ("repository MIT; recording PTB-XL CC BY 4.0", True),
        ("repository BSD-3-Clause; recording PTB-XL CC BY 4.0", True),
        ("repository MIT; competition data terms not stated there; recording PTB-XL CC BY 4.0", False),
        ("no licence found; recording PTB-XL CC BY 4.0", False),
    ],
)
def test_only_pictures_whose_licence_allows_it_are_shown(data: Path, licence: str, free: bool) -> None:
    photo = photographs(data)[0]
    assert may_be_shown(type(photo)(photo.path, photo.kind, licence, photo.ecg_id)) is free
