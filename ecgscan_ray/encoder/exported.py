"""Encoders as folders: export of a run, and loading of what was exported, on a disk or in a bucket.

``config.json`` carries a digest of itself and of the weight files, so that a damaged or half-copied folder is refused
instead of giving other features. timm and transformers read the folder of an encoder of pictures too, and ignore what is
ours. The folder of an encoder of leads carries the page reader: one folder from a picture to its features.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ecgscan_ray.config import ModelConfig, PageConfig, build, merge
from ecgscan_ray.data import reader_weights
from ecgscan_ray.encoder.classes import Classes
from ecgscan_ray.encoder.encoder import Encoder
from ecgscan_ray.encoder.onnx import ONNX_NAME, OPSET, OUTPUTS, export_onnx, require_onnx
from ecgscan_ray.errors import EcgscanError, InputError
from ecgscan_ray.filesystem import (
    absolute,
    is_local,
    join,
    list_files,
    list_names,
    read_bytes,
    write_bytes_atomic,
)
from ecgscan_ray.model.classifier import ClassHead, PageClassifier
from ecgscan_ray.model.ecgscan import PageEncoder
from ecgscan_ray.model.leads import LeadsEncoder
from ecgscan_ray.reading.reader import Networks
from ecgscan_ray.reading.weights import load_networks
from ecgscan_ray.runs.checkpoints import read_thresholds
from ecgscan_ray.tasks.loading import LoadedCheckpoint, load_page_encoder
from ecgscan_ray.training.checkpoint import read_weights

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 8
CONFIG_NAME, BACKBONE_NAME, PROJECTION_NAME = "config.json", "model.safetensors", "projection.safetensors"
READER_NAME, HEAD_NAME = "reader.safetensors", "head.safetensors"
_WEIGHTS = (BACKBONE_NAME, PROJECTION_NAME, READER_NAME, HEAD_NAME)
CARD_NAME = "README.md"
_BACKBONE = "tower.backbone."
_MAX_CONFIG_BYTES = 4 * 2**20
_FIX = "Copy or export it again."


def load_encoder(path: str | os.PathLike, *, device: torch.device | str = "cpu") -> Encoder:
    """The encoder in an exported folder, or of a run (its best checkpoint).

    Args:
        path: Folder or URI of either.
        device: Where it runs.

    Raises:
        InputError: The path holds neither, or it is damaged; or there is no such device.
    """
    uri = absolute(os.fspath(path))
    names = list_names(uri)
    if CONFIG_NAME in names:
        with _local_copy(uri) as folder, _errors_at(uri, folder):
            module, page, networks = load_exported(folder)
            return Encoder(module, page, device, networks, _load_classes(folder, module.feature_dim))
    if not names:
        fix = "Give a folder made by 'ecgscan export', or a run of 'ecgscan pretrain'."
        raise InputError("no encoder here", where=uri, fix=fix)
    run = load_page_encoder(uri, which="best")
    networks = load_networks() if run.config.model.input == "leads" else None
    return Encoder(run.model.page, run.config.page, device, networks, _classes_of(run))


def _classes_of(run: LoadedCheckpoint) -> Classes | None:
    """The head and thresholds of a run of ``finetune``, ``None`` of another.

    Raises:
        InputError: It was fine-tuned on recordings, or is not finished.
    """
    if not isinstance(run.model, PageClassifier):
        return None
    if run.model.of_recordings:
        fix = "Fine-tune on pages (leave --input out)."
        raise InputError("was fine-tuned on recordings: its classes are not those of pages", where=run.uri, fix=fix)
    thresholds = read_thresholds(run.uri)
    if thresholds is None:
        fix = "The same 'ecgscan finetune' command goes on with it."
        raise InputError("the thresholds of its classes are not chosen yet", where=run.uri, fix=fix)
    return Classes(run.model.head, thresholds)


@contextmanager
def _local_copy(uri: str) -> Iterator[Path]:
    """The folder itself, or a temporary copy of one in a bucket."""
    if is_local(uri):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="ecgscan-encoder-") as folder:
        for name in {CONFIG_NAME, *_WEIGHTS} & set(list_names(uri)):
            (Path(folder) / name).write_bytes(read_bytes(join(uri, name)))
        yield Path(folder)


@contextmanager
def _errors_at(uri: str, folder: Path) -> Iterator[None]:
    """Errors name the URI that the user gave, and state what to do."""
    try:
        yield
    except EcgscanError as error:
        where = (error.where or uri).replace(str(folder), uri)
        raise InputError(error.what, where=where, fix=error.fix or _FIX) from None
    except Exception as error:  # timm and torch raise various errors on settings that do not fit
        reason = (str(error).splitlines() or [""])[0][:160]
        raise InputError(f"damaged encoder ({type(error).__name__}: {reason})", where=uri, fix=_FIX) from None


def load_exported(folder: Path) -> tuple[PageEncoder | LeadsEncoder, PageConfig, Networks | None]:
    """Module with its weights, page settings, and the page reader if it has one, of an exported folder on a local disk.

    Raises:
        InputError: It is incomplete, damaged, changed since the export, or of another schema version.
    """
    content = _read_config(folder)
    ours, where = content["ecgscan"], folder / CONFIG_NAME
    page = build(PageConfig, ours["page"], where=where)
    if ours["model"].get("input") == "leads":
        leads = _load_leads(folder, build(ModelConfig, ours["model"], where=where))
        return leads, page, load_networks(folder / READER_NAME)
    settings = content["pretrained_cfg"]
    tower = {"name": content["architecture"], "kwargs": content["model_args"], "path": None}
    model = build(ModelConfig, {**ours["model"], "image": tower}, where=where)
    with torch.device("meta"):  # no memory is allocated before the shapes are known to be those of the files
        blank = PageEncoder(model, page)
    parts = [(folder / BACKBONE_NAME, _BACKBONE, True), (folder / PROJECTION_NAME, "", False)]
    weights: dict[str, Tensor] = {}
    for path, prefix, of_backbone in parts:
        state, parameters = (
            {name.removeprefix(prefix): tensor for name, tensor in named if name.startswith(_BACKBONE) == of_backbone}
            for named in (blank.state_dict().items(), blank.named_parameters())
        )
        weights |= {f"{prefix}{name}": tensor for name, tensor in read_weights(path, state, parameters).items()}
    module = PageEncoder(model, page)
    module.load_state_dict(weights)
    for name in ("mean", "std"):
        getattr(module.tower, name).copy_(_normalisation(settings[name], page.channels, where).view(1, -1, 1, 1))
    return module, page, None


def _load_leads(folder: Path, model: ModelConfig) -> LeadsEncoder:
    with torch.device("meta"):
        blank = LeadsEncoder(model)
    weights = read_weights(folder / BACKBONE_NAME, blank.state_dict(), dict(blank.named_parameters()))
    module = LeadsEncoder(model)
    module.load_state_dict(weights)
    return module


def _load_classes(folder: Path, features: int) -> Classes | None:
    """The head and thresholds of a fine-tuned encoder whose ``config.json`` has been checked."""
    thresholds = json.loads((folder / CONFIG_NAME).read_bytes())["ecgscan"].get("thresholds")
    if thresholds is None:
        return None
    head = ClassHead(features, len(thresholds))
    head.load_state_dict(read_weights(folder / HEAD_NAME, head.state_dict(), dict(head.named_parameters())))
    return Classes(head, thresholds)


def _normalisation(values: list[float], channels: int, where: Path) -> torch.Tensor:
    if len(values) != channels or not all(math.isfinite(value) for value in values):
        raise InputError(f"mean and std are not {channels} numbers", where=where)
    return torch.tensor(values)


def _read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of an export whose digests agree."""
    where = folder / CONFIG_NAME
    try:
        if where.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError
        content = json.loads(where.read_bytes())
        ours = content.get("ecgscan")
    except (OSError, ValueError, AttributeError, RecursionError):
        raise InputError("not readable as JSON", where=where) from None
    if not isinstance(ours, dict):
        fix = "Give a folder made by 'ecgscan export'."
        raise InputError("no encoder of ecgscan_ray: it has no section 'ecgscan'", where=where, fix=fix)
    if ours.get("schema_version") != SCHEMA_VERSION:
        what = f"an encoder of schema version {str(ours.get('schema_version'))[:20]}, not {SCHEMA_VERSION}"
        raise InputError(what, where=folder, fix="Export it again.")
    if ours.get("digest") != _digest(content):
        raise InputError("was changed since the export", where=where)
    for name, digest in ours["sha256"].items():
        path = folder / name
        if name not in _WEIGHTS or not path.is_file() or _sha256(path) != digest:
            raise InputError("is missing or damaged", where=path)
    return content


def _digest(content: dict[str, Any]) -> str:
    """sha256 of all of ``config.json`` but the digest itself."""
    ours = {name: value for name, value in content["ecgscan"].items() if name != "digest"}
    return hashlib.sha256(json.dumps({**content, "ecgscan": ours}, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def export(run: str, out: str | os.PathLike, *, which: Literal["best", "last"] = "best", onnx: bool = False) -> str:
    """Write the encoder of a run as a folder that timm, transformers and ``load_encoder`` read offline.

    ``model.safetensors`` and ``config.json`` are the backbone with its preprocessing as timm and transformers know them,
    ``projection.safetensors`` holds the remaining weights, ``README.md`` is the model card. Of an encoder of leads,
    ``model.safetensors`` holds all weights but the page reader's, which are in ``reader.safetensors``.

    Args:
        run: URI of the run folder.
        out: New or empty folder or URI. A local one appears complete or not at all; in a bucket ``config.json`` is
            written last, and without it there is no encoder.
        which: ``best`` or ``last`` checkpoint.
        onnx: Also write ``encoder.onnx`` (see ``export_onnx``); its difference from torch is kept in ``config.json``.

    Returns:
        URI of the folder.

    Raises:
        InputError: No checkpoint in the run; an ONNX graph of an encoder of leads is asked for; the folder is not empty or
            cannot be written; the extra ``onnx`` is
            required and not installed.
        WorkError: The ONNX graph differs from torch.
    """
    from ecgscan_ray.report.card import model_card, weights_licence  # embedding alone needs neither jinja2 nor pyarrow

    if onnx:
        require_onnx()
    uri = absolute(os.fspath(out))
    _refuse_occupied(uri)
    loaded = load_page_encoder(run, which=which)
    _classes_of(loaded)  # refuses an unfinished run before anything is written
    if onnx and loaded.config.model.input == "leads":
        raise InputError(
            "an encoder of leads reads pages, which no ONNX graph does", where=run, fix="Leave --onnx out."
        )
    with _new_folder(uri) as folder:
        write_encoder(loaded, folder, weights_licence(run, loaded.config), onnx=onnx)
        (folder / CARD_NAME).write_text(model_card(run, loaded, uri.rpartition("/")[2]), encoding="utf-8")
    return uri


def _refuse_occupied(uri: str) -> None:
    names = set(list_names(uri))
    if is_local(uri) and Path(uri).is_file():
        raise InputError("is a file", where=uri, fix="Name a folder.")
    cut_off = not is_local(uri) and names <= {*_WEIGHTS, CARD_NAME, ONNX_NAME}
    if names and not cut_off:
        raise InputError("is there already", where=uri, fix="Name an empty or new folder.")


@contextmanager
def _new_folder(uri: str) -> Iterator[Path]:
    """A folder to fill; at the end it is moved or uploaded to ``uri`` and everyone may read it."""
    parent = Path(uri).parent if is_local(uri) else None
    temporary: Path | None = None
    try:
        if parent:
            parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".ecgscan-export-", dir=parent))
        yield temporary
        temporary.chmod(0o755)
        for path in temporary.iterdir():
            path.chmod(0o644)
        if parent:
            if Path(uri).is_dir():
                Path(uri).rmdir()
            os.replace(temporary, uri)
        else:
            _upload(temporary, uri)
    except (OSError, SafetensorError) as error:  # safetensors raises its own error on a full disk
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"cannot be written ({reason[:160]})", where=uri, fix="Make room, or name another.") from None
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _upload(folder: Path, uri: str) -> None:
    for name in sorted(list_files(str(folder)), key=lambda name: name == CONFIG_NAME):
        write_bytes_atomic(join(uri, name), (folder / name).read_bytes())


def write_encoder(loaded: LoadedCheckpoint, folder: Path, licence: str, *, onnx: bool = False) -> None:
    """Weights and ``config.json`` of a loaded run's page encoder.

    Args:
        loaded: The run.
        folder: Empty, on a local disk.
        licence: Of the weights, for the hubs; see ``weights_licence``.
        onnx: As in ``export``.
    """
    from timm.models import save_for_hf

    page, module = loaded.config.page, loaded.model.page
    if classes := _classes_of(loaded):
        save_file({name: value.contiguous() for name, value in classes.head.state_dict().items()}, folder / HEAD_NAME)
    if isinstance(module, LeadsEncoder):
        save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / BACKBONE_NAME)
        shutil.copyfile(reader_weights(), folder / READER_NAME)
        _write_config(folder / CONFIG_NAME, {"license": licence, "ecgscan": _ours(loaded, folder)})
        return
    normalisation = {name: buffer.flatten().tolist() for name, buffer in module.tower.named_buffers(recurse=False)}
    save_for_hf(
        module.tower.backbone,
        str(folder),
        safe_serialization=True,
        data_config={
            "input_size": (page.channels, page.height, page.width),
            "mean": tuple(normalisation["mean"]),
            "std": tuple(normalisation["std"]),
            "interpolation": "bilinear",  # as fit_page
            "crop_pct": 1.0,
            "crop_mode": "squash" if page.fit == "stretch" else "border",
        },
    )
    state = {name: value.contiguous() for name, value in module.state_dict().items() if not name.startswith(_BACKBONE)}
    save_file(state, folder / PROJECTION_NAME)
    extra = {"onnx": _write_onnx(loaded, folder)} if onnx else {}
    _complete_config(folder, loaded, licence, extra)


def _write_onnx(loaded: LoadedCheckpoint, folder: Path) -> dict[str, Any]:
    """Write ``encoder.onnx``; its description for ``config.json``."""
    path = folder / ONNX_NAME
    error = export_onnx(loaded.model.page, loaded.config.page, path)
    logger.info("%s: differs from torch by at most %.1e of each output's largest value", ONNX_NAME, error)
    return {"opset": OPSET, "outputs": list(OUTPUTS), "max_relative_error": error, "sha256": _sha256(path)}


def _complete_config(folder: Path, loaded: LoadedCheckpoint, licence: str, extra: dict[str, Any]) -> None:
    """Add our settings and digests, and correct what timm states about the weights that the backbone is named after."""
    path = folder / CONFIG_NAME
    content = json.loads(path.read_text())
    # timm finds the number of classes at the root too; transformers' wrapper would pass it twice
    content.get("model_args", {}).pop("num_classes", None)
    settings = {name: value for name, value in content["pretrained_cfg"].items() if name not in _OF_OTHER_WEIGHTS}
    content["pretrained_cfg"] = {**settings, "tag": "ecgscan_ray", "license": licence}
    _write_config(path, {**content, "ecgscan": _ours(loaded, folder) | extra})


def _ours(loaded: LoadedCheckpoint, folder: Path) -> dict[str, Any]:
    """What ``load_encoder`` needs to know, with the digests of the weights in the folder."""
    classes = _classes_of(loaded)
    return {
        "schema_version": SCHEMA_VERSION,
        **({"thresholds": dict(classes.thresholds)} if classes else {}),
        "page": loaded.config.page.model_dump(mode="json"),
        "model": merge(loaded.config.model.model_dump(mode="json"), {"image.path": None}),
        "step": loaded.state.step,
        "config_digest": loaded.state.config_digest,
        "sha256": {name: _sha256(folder / name) for name in _WEIGHTS if (folder / name).is_file()},
    }


def _write_config(path: Path, content: dict[str, Any]) -> None:
    content["ecgscan"]["digest"] = _digest(content)
    path.write_text(json.dumps(content, indent=2) + "\n")


_OF_OTHER_WEIGHTS = (
    "tag",
    "license",
    "url",
    "file",
    "hf_hub_id",
    "hf_hub_filename",
    "origin_url",
    "paper_ids",
    "paper_name",
)
