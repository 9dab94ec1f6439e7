"""The trained page encoder for one's own pages: ``load_encoder(path).embed(images)``, export, embedding of a folder.

The preprocessing lies in the encoder: the whole page is fitted into the size it was trained on, never cropped.

Letters: N pages, H W C page size and channels, P features, D aligned features.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file

from ecgscan_ray.config import ModelConfig, PageConfig, build, merge
from ecgscan_ray.errors import InputError
from ecgscan_ray.evaluation.redraw import lead_residual_mv, project_on_laws
from ecgscan_ray.model.ecgscan import PageEncoder
from ecgscan_ray.paper.write import MASK_SUFFIX
from ecgscan_ray.training.checkpoint import LoadedCheckpoint, load_run

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 3
PROJECTION_NAME = "projection.safetensors"
_BATCH = 32

Picture = str | os.PathLike | Image.Image | np.ndarray
"""A page: path of an image file, PIL image, or uint8 array (H, W), (H, W, 1) or (H, W, 3) RGB; any size."""


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
    """

    def __init__(self, module: PageEncoder, page: PageConfig, device: torch.device | str = "cpu") -> None:
        self.page, self.device = page, torch.device(device)
        self.module = module.to(self.device).eval()

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
        return fit_page(read_picture(image), self.page)

    @torch.inference_mode()
    def embed(
        self, images: Iterable[Picture] | Picture, *, projected: bool = False, batch_size: int = _BATCH
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
        """
        width = self.embed_dim if projected else self.feature_dim
        parts = [np.zeros((0, width), np.float32)]
        for tensor in self._tensors(images, batch_size):
            parts.append(self.module(tensor)["image_features" if projected else "features"].cpu().numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def redraw(self, images: Iterable[Picture] | Picture, *, lawful: bool = False, batch_size: int = _BATCH) -> Redrawn:
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
        for batch in _batches(images, batch_size):
            pixels = np.stack([self.preprocess(image) for image in batch])
            yield torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def read_picture(image: Picture) -> np.ndarray:
    """Upright uint8 (H, W) grey or (H, W, 3) RGB; transparent parts become white.

    Raises:
        InputError: Not a readable image, or an array of another shape or type.
    """
    if isinstance(image, np.ndarray):
        shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
        if image.dtype != np.uint8 or image.size == 0 or not shaped:
            what = f"an array of {image.dtype} {image.shape}"
            raise InputError(what, where="image", fix="Give uint8 of (H, W), (H, W, 1) or (H, W, 3).")
        return image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if isinstance(image, Image.Image):
        return _pixels(image)
    try:
        with Image.open(image) as opened:
            return _pixels(opened)
    except FileNotFoundError:
        raise InputError("no such file", where=image) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"not readable as an image ({type(error).__name__})", where=image) from None


def _pixels(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits: bring the range used to 8
        values = np.asarray(image, np.float64)
        largest = max(float(values.max(initial=0)), 1e-9)
        top = 65535.0 if image.mode.startswith("I") and largest > 255 else largest
        return np.clip(values * (255 / top), 0, 255).astype(np.uint8)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def fit_page(pixels: np.ndarray, page: PageConfig) -> np.ndarray:
    """The whole picture as uint8 (H, W, C): stretched to the size, or centred on white (``page.fit`` = ``pad``)."""
    if page.channels == 1 and pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    elif page.channels == 3 and pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    height, width = page.height, page.width
    if page.fit == "pad":
        scale = min(height / pixels.shape[0], width / pixels.shape[1])
        height = max(1, min(height, round(pixels.shape[0] * scale)))
        width = max(1, min(width, round(pixels.shape[1] * scale)))
    if pixels.shape[:2] != (height, width):
        shrinks = height * width < pixels.shape[0] * pixels.shape[1]
        # area coverage keeps thin traces when a large photograph becomes small
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        pixels = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method)
    top, left = (page.height - height) // 2, (page.width - width) // 2
    fitted = np.full((page.height, page.width, page.channels), 255, np.uint8)
    fitted[top : top + height, left : left + width] = pixels.reshape(height, width, page.channels)
    return fitted


def load_encoder(path: str | os.PathLike, *, device: torch.device | str = "cpu") -> Encoder:
    """The encoder in an exported folder, or of a run (its best checkpoint; local or in a bucket).

    Raises:
        InputError: Neither of the two is there.
    """
    folder = Path(path)
    if (folder / "config.json").is_file() and (folder / PROJECTION_NAME).is_file():
        return Encoder(*_load_exported(folder), device=device)
    run = load_run(os.fspath(path), which="best")
    return Encoder(run.model.page, run.config.page, device)


def _load_exported(folder: Path) -> tuple[PageEncoder, PageConfig]:
    try:
        content = json.loads((folder / "config.json").read_text())
        ours, settings = content["ecgscan"], content["pretrained_cfg"]
        page = build(PageConfig, ours["page"], where=folder / "config.json")
        if ours["schema_version"] != SCHEMA_VERSION:
            raise InputError(
                f"an encoder of schema version {ours['schema_version']}", where=folder, fix="Export it again."
            )
        model = build(ModelConfig, merge(ours["model"], {"image.path": str(folder)}), where=folder / "config.json")
        module = PageEncoder(model, page)
        for name in ("mean", "std"):
            getattr(module.tower, name).copy_(torch.tensor(settings[name]).view(1, -1, 1, 1))
        missing, unexpected = module.load_state_dict(load_file(folder / PROJECTION_NAME), strict=False)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"damaged encoder folder ({error})", where=folder, fix="Export it again.") from None
    if unexpected or any(not name.startswith("tower.") for name in missing):
        raise InputError("weights of the projection do not fit", where=folder, fix="Export it again.")
    return module, page


def export(run: str, out_dir: str | os.PathLike, *, which: Literal["best", "last"] = "best") -> Path:
    """Write the encoder of a run as a folder that timm and ``load_encoder`` read offline.

    ``model.safetensors`` and ``config.json`` are what ``timm.create_model("local-dir:OUT", pretrained=True)`` wants:
    the backbone alone, with size, fit, mean and deviation. ``projection.safetensors`` leads to the aligned features;
    ``README.md`` is the model card.

    Args:
        run: URI of the run folder.
        out_dir: A local folder that is not there yet, or empty. It appears whole or not at all.
        which: ``best`` or ``last`` checkpoint.

    Returns:
        The folder.

    Raises:
        InputError: No checkpoint in the run, or the folder is in use.
    """
    from ecgscan_ray.report.card import model_card  # here, so that embedding alone needs neither jinja2 nor pyarrow

    out = Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("is there already", where=out, fix="Give --out an empty folder.")
    loaded = load_run(run, which=which)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        write_encoder(loaded, temporary)
        (temporary / "README.md").write_text(model_card(run, loaded, out.name), encoding="utf-8")
        temporary.chmod(0o755)
        if out.is_dir():
            out.rmdir()
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def write_encoder(loaded: LoadedCheckpoint, folder: Path) -> None:
    """Weights and ``config.json`` of a loaded run's page encoder."""
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
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content.get("model_args", {}).pop("num_classes", None)
    path.write_text(json.dumps(content, indent=2) + "\n")
    state = {name: value.contiguous() for name, value in module.state_dict().items() if not name.startswith("tower.")}
    save_file(state, folder / PROJECTION_NAME)


@dataclass(frozen=True)
class EmbeddedFolder:
    """How ``embed_folder`` went: pages embedded, and files that could not be read with the reason of each."""

    embedded: int
    bad: dict[str, str]


def embed_folder(
    encoder_path: str,
    images_dir: str | os.PathLike,
    out_parquet: str | os.PathLike,
    *,
    projected: bool = False,
    batch_size: int = _BATCH,
    device: torch.device | str = "cpu",
) -> EmbeddedFolder:
    """Embed every file under a folder into one Parquet file.

    Columns: ``path`` (relative to the folder), ``embedding`` (list of float32; null where the file could not be read)
    and ``error`` (the reason; null where it could). No file is left out, but for hidden ones and the ground truth that
    ``ecgscan render`` writes beside a picture (JSON, masks).

    Args:
        encoder_path: Exported folder or run.
        images_dir: Searched with all its subfolders.
        out_parquet: Appears whole or not at all.
        projected: As in ``Encoder.embed``.
        batch_size: Pages at once.
        device: Where the encoder runs.

    Raises:
        InputError: No such folder, no files in it, or the output's folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    root, out = Path(images_dir), Path(out_parquet)
    if not root.is_dir():
        raise InputError("no such folder", where=root)
    names = _page_files(root)
    if not names:
        raise InputError("no files in this folder", where=root)
    encoder = load_encoder(encoder_path, device=device)
    width = encoder.embed_dim if projected else encoder.feature_dim
    schema = pa.schema([("path", pa.string()), ("embedding", pa.list_(pa.float32(), width)), ("error", pa.string())])
    bad: dict[str, str] = {}
    temporary = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, schema) as writer:
            for batch in _batches(names, batch_size):
                rows = _embed_rows(encoder, root, batch, projected, bad)
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        os.replace(temporary, out)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror or error})", where=out) from None
    finally:
        temporary.unlink(missing_ok=True)
    return EmbeddedFolder(len(names) - len(bad), bad)


def _page_files(root: Path) -> list[str]:
    """Paths under a folder, relative to it and sorted: all but hidden ones and the ground truth beside a picture."""
    found = [p.relative_to(root) for p in root.rglob("*") if p.is_file()]
    found = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    pictures = {p.with_suffix("") for p in found if p.suffix.lower() in Image.registered_extensions()}

    def truth_beside_a_picture(path: Path) -> bool:
        ending = next((end for end in (".json", MASK_SUFFIX) if path.name.endswith(end)), None)
        return ending is not None and path.with_name(path.name.removesuffix(ending)) in pictures

    return sorted(str(path) for path in found if not truth_beside_a_picture(path))


def _embed_rows(
    encoder: Encoder, root: Path, names: Sequence[str], projected: bool, bad: dict[str, str]
) -> list[dict[str, Any]]:
    pixels: list[np.ndarray] = []
    good: list[str] = []
    for name in names:
        try:
            pixels.append(encoder.preprocess(root / name))
            good.append(name)
        except InputError as error:
            bad[name] = error.what
    vectors = encoder.embed(pixels, projected=projected, batch_size=len(names)) if pixels else np.zeros((0, 1))
    found = dict(zip(good, vectors, strict=True))
    return [{"path": name, "embedding": found.get(name), "error": bad.get(name)} for name in names]
