"""Encoders as folders: export of a run, and loading of what was exported."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from ecgscan_ray.config import ModelConfig, PageConfig, build, merge
from ecgscan_ray.encoder.encoder import Encoder
from ecgscan_ray.errors import InputError
from ecgscan_ray.model.ecgscan import PageEncoder
from ecgscan_ray.training.checkpoint import LoadedCheckpoint, load_run

SCHEMA_VERSION = 3
PROJECTION_NAME = "projection.safetensors"


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
