"""The encoder, its export in timm, transformers and buckets, and damaged exports."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ecgscan_ray import text
from ecgscan_ray.config import Config, PageConfig, build, dump_yaml
from ecgscan_ray.embed_folder import embed_folder
from ecgscan_ray.encoder import export, fit_page, load_encoder
from ecgscan_ray.errors import InputError, WorkError
from ecgscan_ray.recording.leads import LEAD_LAWS
from ecgscan_ray.store.filesystem import read_bytes, write_bytes_atomic
from ecgscan_ray.store.manifest import Manifest, write_manifest
from ecgscan_ray.training.checkpoint import TrainingState, build_model, save_checkpoint

HEIGHT, WIDTH = 64, 96


def make_run(folder: Path, in_chans: int, name: str, image: dict, fit: str = "stretch") -> tuple[Path, torch.nn.Module]:
    content = {
        "page": {"height": HEIGHT, "width": WIDTH, "channels": in_chans, "fit": fit},
        "model": {
            "image": {"name": name, "kwargs": image},
            "embed_dim": 16,
            "timing_dim": 4,
            "signal": {"width": 8, "depth": 2},
            "text": {"width": 16, "depth": 1, "heads": 2, "vocab_size": 100},
            "decoder": {"width": 16, "columns_per_s": 25, "read_px": 24},
        },
    }
    config = build(Config, content, where="test")
    tokenizer = text.fit_tokenizer(["sinusrhythmus"], 100)
    model = build_model(config, tokenizer)
    checkpoint = folder / "checkpoints" / "checkpoint_000000001"
    checkpoint.mkdir(parents=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = TrainingState(1, 24, 24, 1, config.digest(), "digest")
    save_checkpoint(checkpoint, model, optimizer, config, tokenizer.to_str(), state)
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
        projected, features, _ = model.encode_image(torch.from_numpy(image).permute(0, 3, 1, 2))
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
    assert {p.suffix for p in out.iterdir()} == {".safetensors", ".json", ".md", ""}, "no pickle"


def test_transformers_loads_the_export_offline(exported, monkeypatch):
    from transformers import AutoModel

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wrapped = AutoModel.from_pretrained(exported).eval()
    x = torch.randn(2, 1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = load_encoder(exported).module.tower.backbone(x)
        np.testing.assert_allclose(wrapped(pixel_values=x).pooler_output.numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("channels", "fit"), [(1, "stretch"), (3, "stretch"), (1, "pad"), (3, "pad")])
def test_timm_and_transformers_make_the_same_features_of_a_picture(tmp_path, monkeypatch, channels, fit):
    import timm
    from transformers import AutoImageProcessor, AutoModel

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder, _ = make_run(tmp_path / "run", channels, "resnet10t", SMALL, fit)
    out = export(str(folder), tmp_path / "encoder")
    drawn_page().save(tmp_path / "page.png")
    ours = load_encoder(out).embed([tmp_path / "page.png"])
    backbone = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    settings = timm.data.resolve_model_data_config(backbone)
    picture = Image.open(tmp_path / "page.png").convert("L" if channels == 1 else "RGB")
    pixels = timm.data.create_transform(**settings, is_training=False)(picture)[None]
    with torch.inference_mode():
        theirs = [backbone(pixels)]
        theirs.append(
            AutoModel.from_pretrained(out).eval()(**AutoImageProcessor.from_pretrained(out)(picture)).pooler_output
        )
    for features in theirs:
        cosine = torch.cosine_similarity(features, torch.from_numpy(ours[:, : features.shape[1]]))
        assert cosine.item() > 0.9999
    assert bool((pixels[..., 0, :].std(-1) < 1e-5).all()) == (fit == "pad"), (
        "the whole page, with a border where it is fitted"
    )


def drawn_page():
    """A page of other proportions than the encoder's, with lines one pixel wide: 1 in 8 of them would be skipped by a crop
    or a coarse resize."""
    page = Image.new("RGB", (1100, 500), (255, 246, 244))
    pixels = np.array(page)
    pixels[::20], pixels[:, ::20] = (255, 190, 190), (255, 190, 190)
    x = np.arange(20, 1080)
    for row in range(3):
        y = np.rint(120 + 140 * row - 60 * np.abs(np.sin(x / (17 + 5 * row))) ** 9).astype(int)
        pixels[y, x] = pixels[y + 1, x] = (20, 20, 20)
    return Image.fromarray(pixels)


def test_export_is_whole_or_absent(run, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="empty folder"):
        export(str(run[0]), tmp_path / "used")
    with pytest.raises(InputError):
        export(str(tmp_path / "nothing"), tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["used"]


def test_an_export_is_readable_by_others_whatever_the_umask(run, tmp_path):
    before = os.umask(0o077)
    try:
        out = Path(export(str(run[0]), tmp_path / "encoder"))
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {0o644}


def test_a_full_disk_leaves_one_line_and_no_folder(run, tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ecgscan_ray.encoder.save_file", no_space)
    with pytest.raises(InputError, match=r"encoder: cannot be written \(No space left on device\)"):
        export(str(run[0]), tmp_path / "encoder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        export(str(run[0]), tmp_path / "file" / "encoder")


def test_a_bucket_is_a_place_like_any_other(run, exported, s3_server, tmp_path):
    uri = f"{s3_server}/{tmp_path.name}/encoder"
    assert export(str(run[0]), uri) == uri
    with pytest.raises(InputError, match="is there already"):
        export(str(run[0]), uri)
    image = pages()
    np.testing.assert_array_equal(load_encoder(uri).embed(image), load_encoder(exported).embed(image))
    Image.fromarray(image[0, ..., 0]).save(tmp_path / "0.png")
    write_bytes_atomic(f"{uri}-pages/0.png", (tmp_path / "0.png").read_bytes())
    write_bytes_atomic(f"{uri}-pages/notes.txt", b"hello")
    for place in (f"{uri}-pages/0.png", f"file://{tmp_path}/0.png"):
        np.testing.assert_array_equal(load_encoder(exported).embed(place), load_encoder(exported).embed(image[:1]))
    for pictures, count in ((f"{uri}-pages", 2), (f"{uri}-pages/0.png", 1), (f"file://{tmp_path}/0.png", 1)):
        done = embed_folder(uri, pictures, f"{uri}.parquet")
        assert (done.embedded, len(done.bad)) == (1, count - 1)
        assert pq.read_table(pa.BufferReader(read_bytes(f"{uri}.parquet"))).num_rows == count


def test_model_card_is_filled_from_the_run(exported):
    card = (exported / "README.md").read_text()
    assert "Not for clinical use" in card
    assert "0.457 | 0.400 to 0.500 | 300" in card
    assert "not known here" in card, "the store is gone, and the card says so"
    assert f"{HEIGHT} x {WIDTH}" in card
    assert str(exported.parent) not in card


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_nothing_of_the_page_is_cropped(fit):
    page = PageConfig(height=HEIGHT, width=WIDTH, fit=fit)
    for shape in ((300, 200), (200, 900), (20, 30)):
        picture = np.full(shape, 200, np.uint8)
        height, width = (max(2, side // 8) for side in shape)
        for rows, columns in ((slice(0, height), slice(0, width)), (slice(-height, None), slice(-width, None))):
            picture[rows, columns] = 0
        fitted = fit_page(picture, page, [255])
        assert fitted.shape == (HEIGHT, WIDTH, 1)
        dark = np.argwhere(fitted[..., 0] < 60)
        inside = np.argwhere(fitted[..., 0] < 230)
        assert (dark.min(0) == inside.min(0)).all()
        assert (dark.max(0) == inside.max(0)).all()


def digests_made_to_fit(folder):
    names = ("config.json", "model.safetensors", "projection.safetensors")
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def changed_config(change):
    def spoil(folder):
        content = json.loads((folder / "config.json").read_text())
        change(content)
        (folder / "config.json").write_text(json.dumps(content))

    return spoil


def changed_weights(name, change):
    def spoil(folder):
        weights = load_file(folder / name)
        change(weights)
        save_file(weights, folder / name)

    return spoil


def put(**values):
    return lambda weights: weights.update(values)


def spoil_first(value):
    def change(weights):
        next(tensor for tensor in weights.values() if tensor.is_floating_point()).flatten()[0] = value

    return change


def flatten_first(weights):
    name = next(name for name, tensor in weights.items() if tensor.ndim > 1)
    weights[name] = weights[name].flatten()


MADE_BY_HAND = [
    (changed_config(lambda content: content["ecgscan"].pop("model")), "damaged encoder"),
    (changed_config(lambda content: content["ecgscan"].update(schema_version=3)), "schema version 3.*Export it again"),
    (changed_config(lambda content: content["ecgscan"].update(page=[])), "config.json|damaged"),
    (changed_config(lambda content: content["pretrained_cfg"].update(std=[0.0])), "mean or std"),
    (changed_config(lambda content: content["ecgscan"]["model"].update(embed_dim=4096)), "more parameters"),
    (
        changed_config(lambda content: content["ecgscan"]["model"]["image"].update(name="resnet18")),
        "more parameters|fit",
    ),
    (lambda folder: (folder / "config.json").write_text("[" * 100_000), "damaged encoder"),
    (lambda folder: (folder / "config.json").write_text("no JSON"), "damaged encoder"),
    (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "damaged encoder"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100), "damaged encoder"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b""), "damaged encoder"),
    (changed_weights("model.safetensors", spoil_first(float("nan"))), "not finite"),
    (changed_weights("projection.safetensors", put(extra=torch.zeros(1))), "extra is not part"),
    (changed_weights("model.safetensors", lambda weights: weights.popitem()), "is missing"),
    (changed_weights("model.safetensors", flatten_first), r"is \(\d+,\) torch\.float32, not \(\d+, "),
]


@pytest.mark.parametrize(("spoil", "line"), MADE_BY_HAND)
def test_an_encoder_made_by_hand_is_refused_in_one_line(exported, tmp_path, spoil, line):
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    spoil(copy)
    digests_made_to_fit(copy)
    with pytest.raises(InputError, match=line) as raised:
        load_encoder(copy)
    assert "\n" not in str(raised.value)
    assert str(copy) in str(raised.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "projection.safetensors"])
def test_a_damaged_export_is_named(exported, tmp_path, name):
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    content = bytearray((copy / name).read_bytes())
    for change in (content[:-9], content[: len(content) // 2] + b"\x01" + content[len(content) // 2 + 1 :], b""):
        (copy / name).write_bytes(change)
        with pytest.raises(InputError, match=rf"copy: {name}: is damaged"):
            load_encoder(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_encoder(copy)


def test_features_that_are_not_finite_are_never_returned(exported):
    encoder = load_encoder(exported)
    next(encoder.module.tower.backbone.parameters()).data.fill_(float("nan"))
    with pytest.raises(WorkError, match="not finite"):
        encoder.embed(pages())


@pytest.mark.parametrize(("images", "line"), [([torch.zeros(3, 4, 4)], "a Tensor is no picture"), (7, "a int is no")])
def test_what_is_no_picture_is_said(exported, images, line):
    with pytest.raises(InputError, match=line):
        load_encoder(exported).embed(images)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_one_line(exported):
    for device in ("cuda", "nonsense"):
        with pytest.raises(InputError, match=f"device {device}: cannot be used"):
            load_encoder(exported, device=device)


def test_the_card_names_a_licence_only_where_it_is_known(run, tmp_path):
    folder = Path(shutil.copytree(run[0], tmp_path / "run"))
    assert "license: unknown" in (Path(export(str(folder), tmp_path / "first")) / "README.md").read_text()
    write_manifest(str(tmp_path / "store"), Manifest(source="ptbxl", licence="CC-BY-4.0", shards=[]))
    (folder / "environment.json").write_text(json.dumps({"store": str(tmp_path / "store")}))
    card = (Path(export(str(folder), tmp_path / "second")) / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "whose licence is CC-BY-4.0." in card
    assert "library_name: timm" in card
