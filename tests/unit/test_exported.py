"""Exported encoders: the same features wherever they are loaded, whole or refused, in a bucket as on a disk."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from ecgscan_ray.encoder import export, load_encoder
from ecgscan_ray.errors import InputError
from ecgscan_ray.store.manifest import Origin
from tests.checkpoints import sign_encoder
from tests.unit.test_encoder import SMALL, make_run, pages


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), 1, "resnet10t", SMALL)[0]


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(export(str(run), tmp_path_factory.mktemp("out") / "encoder"))


def drawn_page(height: int = 425, width: int = 550) -> Image.Image:
    """Pink grid and a few black traces on white, larger than the encoder's size."""
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    for x in range(0, width, 20):
        pen.line([(x, 0), (x, height)], fill=(255, 190, 190))
    for y in range(0, height, 20):
        pen.line([(0, y), (width, y)], fill=(255, 190, 190))
    for row in range(4):
        points = [(x, 90 * row + 60 + 30 * np.sin(x / (9 + row))) for x in range(30, width - 30)]
        pen.line(points, fill=(20, 20, 20), width=3)
    return page


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_timm_and_transformers_give_the_same_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, fit: str
) -> None:
    """With their own preprocessing, from the folder alone (timm issue: light divided out by us could not be)."""
    import timm
    from transformers import AutoImageProcessor, AutoModel

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = export(str(make_run(tmp_path / "run", channels, "resnet10t", SMALL, fit=fit)[0]), tmp_path / "encoder")
    page = drawn_page().convert("L" if channels == 1 else "RGB")
    backbone = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(backbone), is_training=False)
    with torch.inference_mode():
        of_timm = backbone(transform(page)[None])[0].numpy()
        pixels = AutoImageProcessor.from_pretrained(out)(page)["pixel_values"]
        of_transformers = AutoModel.from_pretrained(out).eval()(pixel_values=pixels).pooler_output[0].numpy()
    ours = load_encoder(out).embed([page])[0, : len(of_timm)]
    other = load_encoder(out).embed([page.transpose(Image.Transpose.TRANSPOSE)])[0, : len(of_timm)]
    assert apart(ours, of_timm) < 1e-4 < 0.1 < apart(ours, other)
    np.testing.assert_allclose(of_transformers, of_timm, atol=1e-5)


def test_everyone_may_read_it_and_it_tells_the_truth_of_its_weights(exported: Path) -> None:
    assert stat.S_IMODE(exported.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in exported.iterdir()} == {0o644}
    settings = json.loads((exported / "config.json").read_text())["pretrained_cfg"]
    assert settings["tag"] == "ecgscan_ray", "not ImageNet's, from whose weights these do not come"
    assert settings["license"] == "unknown", "the store is gone"
    assert not {"url", "hf_hub_id", "origin_url"} & settings.keys()
    assert "license: unknown" in (exported / "README.md").read_text()


def test_licence_is_that_of_the_recordings(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from ecgscan_ray.report import card

    monkeypatch.setattr(card, "read_manifest", lambda store: SimpleNamespace(origins=[Origin("a", "CC-BY-4.0", 1)]))
    config: Any = SimpleNamespace(model=SimpleNamespace(image=SimpleNamespace(path=None)))
    assert card.weights_licence(str(run), config) == "cc-by-4.0"
    config.model.image.path = "somebody/weights"
    assert card.weights_licence(str(run), config) == "unknown"


def spoil_bit(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(bytes(data))


def edit(folder: Path, change: Callable[[dict[str, Any]], None], sign: bool = True) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))
    if sign:
        sign_encoder(folder)


def spoil_weights(folder: Path, name: str, value: float) -> None:
    weights = load_file(folder / name)
    next(w for w in weights.values() if w.is_floating_point()).view(-1)[0] = value
    save_file(weights, folder / name)
    edit(folder, lambda content: None)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the backbone": (lambda f: spoil_bit(f, "model.safetensors"), "model.safetensors: is missing or damaged"),
    "a bit of the rest": (lambda f: spoil_bit(f, "projection.safetensors"), "projection.*missing or damaged"),
    "cut": (lambda f: os.truncate(f / "model.safetensors", 1000), "model.safetensors: is missing or damaged"),
    "absent": (lambda f: (f / "projection.safetensors").unlink(), "projection.safetensors: is missing or damaged"),
    "other mean": (lambda f: edit(f, lambda c: c["pretrained_cfg"].update(mean=[0.5]), False), "changed since"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
    "deep": (lambda f: (f / "config.json").write_text("[" * 100_000), "not readable as JSON"),
    "no text": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"), "not readable as JSON|no encoder"),
    "timm's own": (lambda f: edit(f, lambda c: c.pop("ecgscan"), False), "no section 'ecgscan'"),
    "other version": (lambda f: edit(f, lambda c: c["ecgscan"].update(schema_version=3)), "schema version 3, not 8"),
    "signed: NaN": (lambda f: spoil_weights(f, "model.safetensors", float("nan")), "not finite"),
    "signed: other width": (lambda f: edit(f, lambda c: c["ecgscan"]["model"].update(embed_dim=24)), "does not fit"),
    "signed: huge": (lambda f: edit(f, lambda c: c["ecgscan"]["model"].update(embed_dim=10**8)), "does not fit"),
    "signed: no mean": (lambda f: edit(f, lambda c: c["pretrained_cfg"].pop("mean")), "damaged encoder"),
    "signed: two means": (lambda f: edit(f, lambda c: c["pretrained_cfg"].update(mean=[1.0, 1.0])), "not 1 numbers"),
    "signed: other model": (lambda f: edit(f, lambda c: c.update(architecture="nosuch")), "no model 'nosuch'"),
    "signed: loads a file": (
        lambda f: edit(f, lambda c: c["model_args"].update(checkpoint_path="x.pth")),
        "checkpoint_path cannot be given",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_damaged_encoder_is_refused_in_one_line(exported: Path, tmp_path: Path, name: str) -> None:
    spoil, line = SPOILT[name]
    copy = Path(shutil.copytree(exported, tmp_path / "copy"))
    spoil(copy)
    with pytest.raises(InputError, match=line) as raised:
        load_encoder(copy)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000


def test_a_bucket_is_as_good_as_a_folder(run: Path, exported: Path, s3_server: str) -> None:
    uri = f"{s3_server}/exported/encoder"
    assert export(str(run), uri) == uri
    np.testing.assert_array_equal(load_encoder(uri).embed(pages()), load_encoder(exported).embed(pages()))
    with pytest.raises(InputError, match="is there already"):
        export(str(run), uri)


def test_an_upload_that_was_cut_off_is_no_encoder_and_goes_on(
    run: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgscan_ray.encoder import exported as module

    uri = f"{s3_server}/exported/cut"
    write = module.write_bytes_atomic

    def fails_at_the_end(target: str, data: bytes) -> None:
        if target.endswith("config.json"):
            raise InputError("cut off")
        write(target, data)

    monkeypatch.setattr(module, "write_bytes_atomic", fails_at_the_end)
    with pytest.raises(InputError, match="cut off"):
        export(str(run), uri)
    with pytest.raises(InputError):
        load_encoder(uri)
    monkeypatch.setattr(module, "write_bytes_atomic", write)
    export(str(run), uri)
    assert load_encoder(uri).embed(pages()).shape[0] == 3


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")])
def test_a_disk_that_takes_nothing_is_said_in_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    from ecgscan_ray.encoder import exported as module

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(module, "save_file", fails)
    with pytest.raises(InputError, match=f"encoder: cannot be written \\({error.strerror}"):
        export(str(run), tmp_path / "encoder")
    assert list(tmp_path.iterdir()) == []


def test_no_encoder_and_no_device_are_said_in_one_line(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no encoder here"):
        load_encoder(tmp_path / "nothing")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="cuda: no such device"):
            load_encoder(exported, device="cuda")
    with pytest.raises(InputError, match="no such device"):
        load_encoder(exported, device="abacus")


@pytest.mark.verify  # the export alone takes about half a minute of a core
def test_an_encoder_as_onnx_gives_what_torch_gives(run: Path, tmp_path: Path) -> None:
    import onnxruntime

    out = Path(export(str(run), tmp_path / "encoder", onnx=True))
    encoder = load_encoder(out)
    session = onnxruntime.InferenceSession(out / "encoder.onnx")
    stated = json.loads((out / "config.json").read_text())["ecgscan"]["onnx"]["max_relative_error"]
    assert 0 < stated < 1e-3
    for count in (1, 5):
        image = np.random.default_rng(count).integers(0, 256, (count, 64, 96, 1), dtype=np.uint8)
        projected, features, redrawn_mv = session.run(None, {"image": image.transpose(0, 3, 1, 2)})
        np.testing.assert_allclose(projected, encoder.embed(image, projected=True), atol=1e-3)
        np.testing.assert_allclose(features, encoder.embed(image), atol=1e-3)
        np.testing.assert_allclose(redrawn_mv, encoder.redraw(image).signal_mv, atol=1e-3)


def test_onnx_without_its_extra_says_what_to_install(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'ecgscan_ray\[onnx\]'"):
        export(str(run), tmp_path / "encoder", onnx=True)
    assert not (tmp_path / "encoder").exists()
