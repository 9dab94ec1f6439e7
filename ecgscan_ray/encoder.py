"""The trained page encoder for one's own pages: ``load_encoder(path).embed(images)``, and its export.

The preprocessing lies in the encoder: the whole page is fitted into the size it was trained on, never cropped. It is what
timm and transformers make of an export's ``config.json``, so that the features are the same wherever it is loaded.

Letters: N pages, H W C page size and channels, P features, D aligned features.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.modules.module import register_module_parameter_registration_hook

from ecgscan_ray.config import ModelConfig, PageConfig, build, merge
from ecgscan_ray.errors import EcgscanError, InputError, WorkError
from ecgscan_ray.evaluation.redraw import lead_residual_mv, project_on_laws
from ecgscan_ray.model.ecgscan import PageEncoder
from ecgscan_ray.pictures import Picture, read_picture
from ecgscan_ray.store.filesystem import join, list_files, open_filesystem, read_bytes, write_bytes_atomic
from ecgscan_ray.training.checkpoint import LoadedCheckpoint, load_run
from ecgscan_ray.uris import absolute, is_local

SCHEMA_VERSION = 4
CONFIG_NAME, WEIGHTS_NAME, PROJECTION_NAME = "config.json", "model.safetensors", "projection.safetensors"
SUMS_NAME = "SHA256SUMS"
"""Digests of the three, as ``sha256sum --check`` reads them."""
_FILES = (WEIGHTS_NAME, PROJECTION_NAME, CONFIG_NAME)
_MAX_TEXT_BYTES = 2**20
_EXPORT_AGAIN = "Export it again."
BATCH = 32


@dataclass(frozen=True)
class Redrawn:
    """Leads redrawn from N pages.

    Attributes:
        signal_mv: (N, 12, T) float32 mV, each lead around 0: a page does not tell its offset.
        shown: (N, 12, T) bool, what the page shows by the layout that was found on it; the rest is inferred.
        lead_residual_mv: (N,) by how much the leads miss the lead laws as they were read, before any projection. A page
            of a large residual was read wrongly somewhere: ``reject.lead_residual.auroc`` in a run's report says how well
            that tells.
        fs: Samples a second.
    """

    signal_mv: np.ndarray
    shown: np.ndarray
    lead_residual_mv: np.ndarray
    fs: int


class Encoder:
    """Pages of any size in, features out.

    Args:
        module: Backbone and projection.
        page: The size, channels and fit it was trained with.
        device: Where it runs.

    Raises:
        InputError: No such device here.
    """

    def __init__(self, module: PageEncoder, page: PageConfig, device: torch.device | str = "cpu") -> None:
        try:
            self.page, self.device = page, torch.device(device)
            self.module = module.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"cannot be used ({_line(error)})", where=f"device {device}", fix="Use cpu.") from None
        mean: Tensor = module.tower.mean
        self._border = tuple(round(255 * value) for value in mean.flatten().tolist())

    @property
    def feature_dim(self) -> int:
        """P."""
        return self.module.feature_dim

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.module.embed_dim

    def preprocess(self, image: Picture) -> np.ndarray:
        """The whole page in the encoder's size and channels: uint8 (H, W, C).

        Raises:
            InputError: Not a readable image, or an array of another shape or type.
        """
        return fit_page(read_picture(_located(image)), self.page, self._border)

    @torch.inference_mode()
    def embed(
        self, images: Iterable[Picture] | Picture, *, projected: bool = False, batch_size: int = BATCH
    ) -> np.ndarray:
        """Features of pages.

        Args:
            images: Pages (see ``Picture``); one page alone is a list of one. An array of four axes is N pages.
            projected: The aligned features, as compared with signals and reports in training, of unit norm (N, D);
                else features (N, P) for a classifier of one's own: the backbone's pooled ones and what the signal
                tower finds in the redrawn leads.
            batch_size: Pages at once.

        Returns:
            float32, one row a page.

        Raises:
            InputError: One of the images cannot be read.
            WorkError: A feature is not finite.
        """
        width = self.embed_dim if projected else self.feature_dim
        parts = [np.zeros((0, width), np.float32)]
        for tensor in self._tensors(images, batch_size):
            parts.append(self.module(tensor)["image_features" if projected else "features"].cpu().numpy())
        features = np.concatenate(parts)
        if not np.isfinite(features).all():
            raise WorkError("gives features that are not finite", where="encoder", fix="Export or train it again.")
        return features

    @torch.inference_mode()
    def redraw(self, images: Iterable[Picture] | Picture, *, lawful: bool = False, batch_size: int = BATCH) -> Redrawn:
        """The twelve leads of each page.

        Args:
            images: As in ``embed``.
            lawful: Project them on the lead laws, by evidence: what the page shows nearly keeps its value, the rest moves.
            batch_size: Pages at once.

        Raises:
            InputError: One of the images cannot be read.
        """
        decoder = self.module.decoder
        samples = decoder.columns * decoder.per_column
        leads, shown, residual = [torch.zeros(0, 12, samples)], [torch.zeros(0, 12, samples).bool()], [torch.zeros(0)]
        for tensor in self._tensors(images, batch_size):
            output = self.module(tensor)
            redrawn, seen = output["redrawn_mv"], decoder.shown(output["layout_logits"].argmax(-1))
            residual.append(lead_residual_mv(redrawn).cpu())
            leads.append((project_on_laws(redrawn, seen) if lawful else redrawn).cpu())
            shown.append(seen.cpu())
        return Redrawn(
            signal_mv=torch.cat(leads).numpy(),
            shown=torch.cat(shown).numpy(),
            lead_residual_mv=torch.cat(residual).numpy(),
            fs=self.module.signal_fs,
        )

    def _tensors(self, images: Iterable[Picture] | Picture, batch_size: int) -> Iterator[torch.Tensor]:
        """Pages as the module takes them, some at once."""
        if isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
            images = [images]
        if not isinstance(images, Iterable):
            raise InputError(f"a {type(images).__name__} is no picture", where="images", fix="Give a list of pictures.")
        for batch in batches(images, batch_size):
            pixels = np.stack([self.preprocess(image) for image in batch])
            yield torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)


def _located(image: Picture) -> Picture | bytes:
    """What a URI or ``~`` stands for; a path is taken as it is, whatever its name."""
    if not isinstance(image, str) or not (image.startswith("~") or "://" in image):
        return image
    place = absolute(image)
    return place if is_local(place) else read_bytes(place)


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """``items``, some at once."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def fit_page(pixels: np.ndarray, page: PageConfig, border: Sequence[int]) -> np.ndarray:
    """The whole picture as uint8 (H, W, C): stretched to the size, or centred in a border (``page.fit`` = ``pad``).

    Args:
        pixels: uint8 (H', W') or (H', W', 3).
        page: Size, channels and fit.
        border: The border's colour, C values; the encoder's mean, which is 0 once normalised.
    """
    picture = Image.fromarray(pixels).convert("L" if page.channels == 1 else "RGB")
    height, width = page.height, page.width
    if page.fit == "pad":
        ratio = max(picture.height / height, picture.width / width)
        height, width = (max(1, round(side / ratio)) for side in (picture.height, picture.width))
    if picture.size != (
        width,
        height,
    ):  # weighted over all that a pixel covers: keeps thin traces of a large photograph
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    top, left = (page.height - height) // 2, (page.width - width) // 2
    fitted = np.full((page.height, page.width, page.channels), border, np.uint8)
    fitted[top : top + height, left : left + width] = np.asarray(picture).reshape(height, width, page.channels)
    return fitted


def load_encoder(path: str | os.PathLike, *, device: torch.device | str = "cpu") -> Encoder:
    """The encoder in an exported folder, or of a run (its best checkpoint); either on this machine or in a bucket.

    Raises:
        InputError: Neither of the two is there, it is damaged, or there is no such device.
    """
    uri = absolute(os.fspath(path))
    if set(list_files(uri)) & {*_FILES, SUMS_NAME}:
        with _local_copy(uri) as folder:
            return Encoder(*_load_exported(folder, uri), device=device)
    run = load_run(uri, which="best")
    return Encoder(run.model.page, run.config.page, device)


@contextmanager
def _local_copy(uri: str) -> Iterator[Path]:
    if is_local(uri):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="ecgscan-encoder-") as folder:
        for name in set(list_files(uri)) & {*_FILES, SUMS_NAME}:
            (Path(folder) / name).write_bytes(read_bytes(join(uri, name)))
        yield Path(folder)


def _load_exported(folder: Path, uri: str) -> tuple[PageEncoder, PageConfig]:
    """Module and page of an exported folder.

    Digests show damage; what fits its digest is checked all the same: names, shapes and values of the weights.
    """
    try:
        _verify(folder)
        content = json.loads(_read_text(folder / CONFIG_NAME))
        ours, settings = content["ecgscan"], content["pretrained_cfg"]
        if ours["schema_version"] != SCHEMA_VERSION:
            raise InputError(f"an encoder of schema version {ours['schema_version']}", fix=_EXPORT_AGAIN)
        page = build(PageConfig, ours["page"], where=CONFIG_NAME)
        model = build(ModelConfig, merge(ours["model"], {"image.path": None}), where=CONFIG_NAME)
        weights = _read_weights(folder)
        with _at_most(sum(tensor.numel() for tensor in weights.values())):
            module = PageEncoder(model, page)
        _take_weights(module, weights)
        _set_normalisation(module, settings["mean"], settings["std"])
    except EcgscanError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        raise InputError(what, where=uri, fix=error.fix or _EXPORT_AGAIN) from None
    except Exception as error:  # timm, torch and json raise what they like on settings made by hand
        raise InputError(f"damaged encoder ({_line(error)})", where=uri, fix=_EXPORT_AGAIN) from None
    return module, page


def _line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _read_text(path: Path) -> str:
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise InputError("too large", where=path.name)
    return path.read_text(encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(folder: Path) -> None:
    for name in (SUMS_NAME, *_FILES):
        if not (folder / name).is_file():
            raise InputError(f"is no whole encoder: {name} is missing", fix=_EXPORT_AGAIN)
    sums = {name: digest for digest, name in map(str.split, _read_text(folder / SUMS_NAME).splitlines())}
    for name in _FILES:
        if sums.get(name) != _sha256(folder / name):
            raise InputError(f"is damaged, or {SUMS_NAME} is: its sha256 is another", where=name)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    backbone = {f"tower.backbone.{name}": tensor for name, tensor in load_file(folder / WEIGHTS_NAME).items()}
    return backbone | load_file(folder / PROJECTION_NAME)


@contextmanager
def _at_most(total: int) -> Iterator[None]:
    """Stops the building of a module that has more parameters than there are weights for."""
    left = total

    def count(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter) -> None:
        nonlocal left
        left -= 0 if parameter is None else parameter.numel()
        if left < 0:
            raise InputError("does not fit its weights: more parameters", where=CONFIG_NAME)

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _take_weights(module: PageEncoder, weights: dict[str, Tensor]) -> None:
    own = module.state_dict()
    for name in sorted(own.keys() ^ weights.keys()):
        what = "is missing" if name in own else "is not part of the model"
        raise InputError(f"weights do not fit the settings: {name[:80]} {what}")
    for name, tensor in weights.items():
        if (tensor.shape, tensor.dtype) != (own[name].shape, own[name].dtype):
            found = f"{tuple(tensor.shape)} {tensor.dtype}, not {tuple(own[name].shape)} {own[name].dtype}"
            raise InputError(f"weights do not fit the settings: {name} is {found}")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"weights are not finite: {name}")
    module.load_state_dict(weights)


def _set_normalisation(module: PageEncoder, mean: Sequence[float], std: Sequence[float]) -> None:
    if not all(math.isfinite(value) for value in (*mean, *std)) or min(std) <= 0:
        raise InputError("mean or std cannot be used", where=CONFIG_NAME)
    for buffer, values in ((module.tower.mean, mean), (module.tower.std, std)):
        buffer.copy_(torch.tensor(values).view(buffer.shape))


def export(run: str, out_dir: str | os.PathLike, *, which: Literal["best", "last"] = "best") -> str:
    """Write the encoder of a run as a folder that timm and ``load_encoder`` read offline.

    ``model.safetensors`` and ``config.json`` are what ``timm.create_model("local-dir:OUT", pretrained=True)`` needs:
    the backbone alone, with size, fit, mean and deviation. ``projection.safetensors`` leads to the aligned features;
    ``SHA256SUMS`` has their digests, ``README.md`` is the model card.

    Args:
        run: URI of the run folder.
        out_dir: A folder that is not there yet, or empty: a path or ``s3://bucket/prefix``. On this machine it appears
            whole or not at all; in a bucket ``config.json`` comes last, and without it there is no encoder.
        which: ``best`` or ``last`` checkpoint.

    Returns:
        The folder, absolute.

    Raises:
        InputError: No checkpoint in the run, or the folder is in use or cannot be written.
    """
    out = absolute(os.fspath(out_dir))
    try:
        _refuse_used(out)
        loaded = load_run(run, which=which)
        (_export_here if is_local(out) else _export_there)(run, loaded, out)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or _line(error)
        raise InputError(f"cannot be written ({reason})", where=out) from None
    return out


def _refuse_used(out: str) -> None:
    used = (
        os.path.lexists(out) and (not os.path.isdir(out) or os.listdir(out)) if is_local(out) else list_files(out, True)
    )
    if used:
        raise InputError("is there already", where=out, fix="Give an empty folder.")


def _export_here(run: str, loaded: LoadedCheckpoint, out: str) -> None:
    place = Path(out)
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        _write_all(run, loaded, temporary, place.name)
        if place.is_dir():
            place.rmdir()
        os.replace(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _export_there(run: str, loaded: LoadedCheckpoint, out: str) -> None:
    open_filesystem(out, create=True)
    with tempfile.TemporaryDirectory(prefix="ecgscan-export-") as temporary:
        folder = Path(temporary)
        _write_all(run, loaded, folder, out.rpartition("/")[2])
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CONFIG_NAME):
            write_bytes_atomic(join(out, path.name), path.read_bytes())


def _write_all(run: str, loaded: LoadedCheckpoint, folder: Path, name: str) -> None:
    from ecgscan_ray.report.card import model_card  # here, so that embedding alone needs no jinja2

    write_encoder(loaded, folder)
    (folder / "README.md").write_text(model_card(run, loaded, name), encoding="utf-8")
    folder.chmod(0o755)  # temporary folders are closed to others
    for path in folder.iterdir():
        path.chmod(0o644)


def write_encoder(loaded: LoadedCheckpoint, folder: Path) -> None:
    """Weights, ``config.json`` and digests of a loaded run's page encoder."""
    from timm.models import save_for_hf

    page, module = loaded.config.page, loaded.model.page
    normalisation = {name: buffer.flatten().tolist() for name, buffer in module.tower.named_buffers(recurse=False)}
    ours = {
        "schema_version": SCHEMA_VERSION,
        "page": page.model_dump(mode="json"),
        "model": merge(loaded.config.model.model_dump(mode="json"), {"image.path": None}),
        "step": loaded.state.step,
        "config_digest": loaded.state.config_digest,
    }
    save_for_hf(
        module.tower.backbone,
        str(folder),
        model_config={"ecgscan": ours},
        safe_serialization=True,
        data_config={
            "input_size": (page.channels, page.height, page.width),
            "mean": tuple(normalisation["mean"]),
            "std": tuple(normalisation["std"]),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash" if page.fit == "stretch" else "border",
        },
    )
    # timm finds the number of classes at the root too; transformers' wrapper would pass it twice
    path = folder / CONFIG_NAME
    content = json.loads(path.read_text())
    content.get("model_args", {}).pop("num_classes", None)
    path.write_text(json.dumps(content, indent=2) + "\n")
    state = {name: value.contiguous() for name, value in module.state_dict().items() if not name.startswith("tower.")}
    save_file(state, folder / PROJECTION_NAME)
    (folder / SUMS_NAME).write_text("".join(f"{_sha256(folder / name)}  {name}\n" for name in _FILES))
