"""The encoder on pictures of every kind, its export in timm, and folders with bad files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ecgscan_ray import text
from ecgscan_ray.config import PageConfig, dump_yaml
from ecgscan_ray.encoder import embed_folder, export, fit_page, load_encoder, read_picture
from ecgscan_ray.errors import InputError
from ecgscan_ray.recording.leads import LEAD_LAWS, LEADS
from ecgscan_ray.runs.checkpoints import TrainingState
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.checkpoint import Snapshot, save_checkpoint
from tests.tiny import tiny_config

HEIGHT, WIDTH = 64, 96


def make_run(folder: Path, in_chans: int, name: str, image: dict, fit: str = "stretch") -> tuple[Path, torch.nn.Module]:
    page = {"height": HEIGHT, "width": WIDTH, "channels": in_chans, "fit": fit}
    config = tiny_config(page=page, model__image={"name": name, "kwargs": image})
    tokenizer = text.fit_tokenizer(["sinusrhythmus"], 100)
    model = Pretrain().build_model(config, tokenizer)
    checkpoint = folder / "checkpoints" / "checkpoint_000000001"
    checkpoint.mkdir(parents=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = TrainingState(1, 24, config.digest(), "pretrain")
    save_checkpoint(checkpoint, Snapshot.of(model, optimizer), config, tokenizer.to_str(), state)
    (folder / "config.yaml").write_text(dump_yaml(config))
    (folder / "environment.json").write_text(json.dumps({"store": str(folder / "gone"), "git_revision": "abc123"}))
    return folder, model.eval()


SMALL = {"channels": [8, 8, 16, 24], "stem_type": ""}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, model = make_run(tmp_path_factory.mktemp("run"), 1, "resnet10t", SMALL)
    (folder / "report.json").write_text(
        json.dumps({"retrieval.page_to_signal.recall_at_1": {"value": 0.4567, "low": 0.4, "high": 0.5, "n": 300}})
    )
    return folder, model


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return Path(export(str(run[0]), tmp_path_factory.mktemp("out") / "encoder"))


def pages(count=3, height=HEIGHT, width=WIDTH, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def test_embeds_as_the_model_does(run):
    folder, model = run
    encoder = load_encoder(folder)
    image = pages()
    with torch.inference_mode():
        projected, features, _ = model.encode_page({"image": torch.from_numpy(image).permute(0, 3, 1, 2)})
    np.testing.assert_allclose(encoder.embed(image), features.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoder.embed(image, projected=True, batch_size=2), projected.numpy(), atol=1e-5)
    assert encoder.embed(image).dtype == np.float32
    assert encoder.embed([]).shape == (0, encoder.feature_dim)


def test_redraws_the_leads_and_says_how_far_to_trust_them(run, exported):
    folder, model = run
    image = pages(3)
    with torch.inference_mode():
        output = model.page(torch.from_numpy(image).permute(0, 3, 1, 2))
    redrawn = load_encoder(folder).redraw(image, batch_size=2)
    np.testing.assert_allclose(redrawn.signal_mv, output["redrawn_mv"].numpy(), atol=1e-5)
    assert redrawn.signal_mv.shape == redrawn.shown.shape == (3, 12, 1000)
    assert redrawn.fs == 100
    assert redrawn.shown[0].mean() == pytest.approx(15 / 48, abs=1e-3), "3x4 with a rhythm strip"
    np.testing.assert_allclose(redrawn.lead_residual_mv, np.abs(LEAD_LAWS @ redrawn.signal_mv).mean((1, 2)), rtol=1e-3)
    lawful = load_encoder(exported).redraw(image, lawful=True)
    assert np.abs(LEAD_LAWS @ lawful.signal_mv).max() < 1e-5
    np.testing.assert_allclose(lawful.lead_residual_mv, redrawn.lead_residual_mv, atol=1e-6)
    assert load_encoder(folder).redraw([]).signal_mv.shape == (0, 12, 1000)


def test_an_encoder_and_redrawn_leads_describe_themselves(exported):
    encoder = load_encoder(exported)
    text = repr(encoder)
    assert text.startswith("Encoder(resnet10t, grey pages of 64x96 px") and "on cpu" in text
    assert f"features {encoder.feature_dim}, aligned {encoder.embed_dim}" in text
    redrawn = encoder.redraw(pages(2))
    assert repr(redrawn).startswith("Redrawn(2 pages, 12 leads x 10 s at 100 Hz, 31% shown")
    assert repr(encoder.redraw([])) == "Redrawn(0 pages, 12 leads x 10 s at 100 Hz)"
    assert redrawn.leads == LEADS and len(redrawn) == 2


def test_redrawn_leads_are_a_record_that_wfdb_reads_back(exported, tmp_path):
    import wfdb

    redrawn = load_encoder(exported).redraw(pages(2))
    header = redrawn.to_wfdb(tmp_path / "new" / "page_1", page=1)
    assert header == tmp_path / "new" / "page_1.hea"
    record = wfdb.rdrecord(str(header.with_suffix("")))
    assert (record.fs, tuple(record.sig_name), set(record.units)) == (redrawn.fs, LEADS, {"mV"})
    np.testing.assert_allclose(record.p_signal.T, redrawn.signal_mv[1], atol=0.5 / record.adc_gain[0] + 1e-6)
    assert record.adc_gain == [1000] * 12
    assert "II 0-10 s" in record.comments[1] and "not recorded" in record.comments[0]
    large = replace(redrawn, signal_mv=redrawn.signal_mv + 100)
    record = wfdb.rdrecord(str(large.to_wfdb(tmp_path / "large").with_suffix("")))
    np.testing.assert_allclose(record.p_signal.T, large.signal_mv[0], atol=0.5 / record.adc_gain[0] + 1e-4)
    for path, page in ((tmp_path / "page.hea", 0), (tmp_path / "page", 2), (tmp_path / "page", -1)):
        with pytest.raises(InputError):
            redrawn.to_wfdb(path, page)


def test_redrawn_leads_are_a_table_and_a_picture_in_true_size(exported):
    redrawn = load_encoder(exported).redraw(pages(1))
    table = redrawn.to_dataframe()
    assert tuple(table.columns) == LEADS and table.index.name == "time_s"
    assert table.index[100] == 1.0
    np.testing.assert_array_equal(table["V2"].to_numpy(), redrawn.signal_mv[0, 7])
    figure = redrawn.plot()
    assert figure.get_figwidth() * 25.4 == pytest.approx(250), "10 s at 25 mm/s"
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == list(LEADS)
    drawn, shown = axes.lines[2:4]
    np.testing.assert_allclose(np.diff(drawn.get_ydata()), 10 * np.diff(redrawn.signal_mv[0, 1]), atol=1e-4)
    np.testing.assert_array_equal(np.isfinite(shown.get_ydata()), redrawn.shown[0, 1])


def test_exported_folder_gives_the_same_features(run, exported):
    image = pages(seed=1)
    for projected in (False, True):
        expected = load_encoder(run[0]).embed(image, projected=projected)
        np.testing.assert_allclose(load_encoder(exported).embed(image, projected=projected), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "channels", "image"),
    [
        ("resnet10t", 1, SMALL),
        ("vit_tiny_patch16_224", 3, {"depth": 2}),
        ("convnext_atto", 1, {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}),
    ],
)
def test_timm_loads_the_export_offline(tmp_path, monkeypatch, name, channels, image):
    import timm

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder, _ = make_run(tmp_path / "run", channels, name, image)
    out = Path(export(str(folder), tmp_path / "encoder"))
    backbone = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    settings = backbone.pretrained_cfg
    assert tuple(settings["input_size"]) == (channels, HEIGHT, WIDTH)
    assert (settings["crop_pct"], settings["crop_mode"]) == (1.0, "squash")
    image = pages(2, channels=channels)
    x = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor(settings["mean"]).view(1, -1, 1, 1)) / torch.tensor(settings["std"]).view(1, -1, 1, 1)
    with torch.inference_mode():
        own = backbone(x).numpy()
    np.testing.assert_allclose(own, load_encoder(out).embed(image)[:, : own.shape[1]], atol=1e-5)
    assert {p.suffix for p in out.iterdir()} == {".safetensors", ".json", ".md"}, "no pickle"


def test_transformers_loads_the_export_offline(exported, monkeypatch):
    from transformers import AutoModel

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wrapped = AutoModel.from_pretrained(exported).eval()
    x = torch.randn(2, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = load_encoder(exported).module.tower.backbone(x)
        np.testing.assert_allclose(wrapped(pixel_values=x).pooler_output.numpy(), expected.numpy(), atol=1e-5)


def test_timms_own_preprocessing_sees_the_whole_page(exported):
    import timm
    from timm.data import create_transform, resolve_data_config

    backbone = timm.create_model(f"local-dir:{exported}", pretrained=True)
    transform = create_transform(**resolve_data_config(model=backbone))
    page = np.full((2 * HEIGHT, 3 * WIDTH), 255, np.uint8)
    page[:, :12] = 0  # a centre crop would lose this stripe
    tensor = transform(Image.fromarray(page).convert("L"))
    assert tuple(tensor.shape[-2:]) == (HEIGHT, WIDTH)
    assert tensor[..., 0].mean() < tensor[..., -1].mean() - 1


def test_export_is_whole_or_absent(run, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="empty or new folder"):
        export(str(run[0]), tmp_path / "used")
    with pytest.raises(InputError):
        export(str(tmp_path / "nothing"), tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["used"]


def test_model_card_is_filled_from_the_run(exported):
    card = (exported / "README.md").read_text()
    assert "Not for clinical use" in card
    assert "0.457 | 0.400 to 0.500 | 300" in card
    assert "not known here" in card, "the store is gone, and the card says so"
    assert f"{HEIGHT} x {WIDTH}" in card
    assert str(exported.parent) not in card


def test_pictures_of_every_kind_are_the_same_page(tmp_path):
    grey = pages(1, 50, 70)[0, ..., 0]
    image = Image.fromarray(grey)
    image.save(tmp_path / "page.png")
    rgba = Image.merge("RGBA", [image, image, image, Image.new("L", image.size, 255)])
    kinds = [grey, grey[..., None], image, tmp_path / "page.png", str(tmp_path / "page.png")]
    for kind in kinds:
        np.testing.assert_array_equal(read_picture(kind), grey)
    page = PageConfig(height=HEIGHT, width=WIDTH)
    expected = fit_page(grey, page)
    assert np.abs(fit_page(read_picture(rgba), page).astype(int) - expected).max() <= 1
    assert np.abs(fit_page(np.repeat(grey[..., None], 3, 2), page).astype(int) - expected).max() <= 1


def test_turned_by_its_camera_and_transparent_and_deep():
    image = Image.fromarray(np.tile(np.arange(0, 250, 10, dtype=np.uint8), (5, 1)))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera lay on its side
    image.info["exif"] = exif.tobytes()
    assert read_picture(image).shape == (25, 5)
    clear = Image.new("RGBA", (8, 6), (0, 0, 0, 0))
    assert (read_picture(clear) == 255).all()
    deep = Image.fromarray((np.full((6, 8), 32768)).astype(np.uint16))
    assert set(np.unique(read_picture(deep))) == {128}


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_nothing_of_the_page_is_cropped(fit):
    page = PageConfig(height=HEIGHT, width=WIDTH, fit=fit)
    for shape in ((300, 200), (200, 900), (20, 30)):
        picture = np.full(shape, 200, np.uint8)
        height, width = (max(2, side // 8) for side in shape)
        for rows, columns in ((slice(0, height), slice(0, width)), (slice(-height, None), slice(-width, None))):
            picture[rows, columns] = 0
        fitted = fit_page(picture, page)
        assert fitted.shape == (HEIGHT, WIDTH, 1)
        dark = np.argwhere(fitted[..., 0] < 60)
        inside = np.argwhere(fitted[..., 0] < 230)
        assert (dark.min(0) == inside.min(0)).all()
        assert (dark.max(0) == inside.max(0)).all()


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 7), np.uint8), np.zeros((0, 4), np.uint8), "no/such/page.png"]
)
def test_bad_pictures_are_refused_in_one_line(bad):
    with pytest.raises(InputError) as caught:
        read_picture(bad)
    assert "\n" not in str(caught.value)


def test_a_folder_is_embedded_and_bad_files_are_named(exported, tmp_path):
    source = tmp_path / "photos"
    (source / "ward").mkdir(parents=True)
    image = pages(5, 40, 60, seed=4)[..., 0]
    for number in range(5):
        Image.fromarray(image[number]).save(source / "ward" / f"{number}.png")
    (source / "torn.png").write_bytes((source / "ward" / "0.png").read_bytes()[:60])
    (source / "notes.txt").write_text("hello")
    (source / ".hidden").write_text("x")
    result = embed_folder(str(exported), source, tmp_path / "out" / "features.parquet", batch_size=2)
    assert result.embedded == 5
    assert set(result.errors) == {"torn.png", "notes.txt"}
    rows = pq.read_table(tmp_path / "out" / "features.parquet").to_pylist()
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == 7
    for row in rows:
        assert (row["embedding"] is None) == (row["error"] is not None) == (row["path"] in result.errors)
    third = next(row for row in rows if row["path"].endswith("3.png"))
    np.testing.assert_allclose(third["embedding"], load_encoder(exported).embed([image[3]])[0], atol=1e-5)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["features.parquet"]


def test_ground_truth_beside_a_picture_is_passed_over(exported, tmp_path):
    (tmp_path / "pages").mkdir()
    image = pages(1, 40, 60, seed=4)[0, ..., 0]
    for name in ("ptbxl_1.png", "a.b.JPG", "ptbxl_1.mask.png", "lonely.mask.png"):
        Image.fromarray(image).save(tmp_path / "pages" / name)
    for name in ("ptbxl_1.json", "a.b.json", "ptbxl_1.txt", "alone.json"):
        (tmp_path / "pages" / name).write_text("{}")
    result = embed_folder(str(exported), tmp_path / "pages", tmp_path / "features.parquet")
    assert result.embedded == 3, "a mask without its picture is a picture"
    assert set(result.errors) == {"ptbxl_1.txt", "alone.json"}
    assert pq.read_table(tmp_path / "features.parquet").num_rows == 5


def test_embedding_an_empty_or_missing_folder_fails_plainly(exported, tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError):
            embed_folder(str(exported), folder, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_a_damaged_export_is_refused(exported, tmp_path):
    import shutil

    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    content = json.loads((copy / "config.json").read_text())
    del content["ecgscan"]["model"]
    (copy / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="changed since the export"):
        load_encoder(copy)
