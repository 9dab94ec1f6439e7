"""The model card of an exported encoder, filled from its run: data, licence, figures, limits, use."""

from __future__ import annotations

import json
from typing import Any

from ecgscan_ray.config import Config
from ecgscan_ray.errors import EcgscanError
from ecgscan_ray.evaluation.bootstrap import Estimate
from ecgscan_ray.filesystem import exists, join, read_bytes
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.leads import LeadsEncoder
from ecgscan_ray.report.html import render
from ecgscan_ray.runs import names
from ecgscan_ray.store.manifest import Manifest, read_manifest
from ecgscan_ray.tasks.loading import LoadedCheckpoint

CARD_FIGURES = {
    "retrieval.page_to_signal.recall_at_1": "page to signal, recall@1",
    "retrieval.page_to_signal.recall_at_10": "page to signal, recall@10",
    "retrieval.page_to_text.recall_at_10": "page to report, recall@10",
    "linear_probe.superclass.macro_auroc": "linear probe, five superclasses, macro AUROC",
    "random.linear_probe.superclass.macro_auroc": "same, randomly initialised encoder",
    "linear_probe.label.macro_auroc": "linear probe, labels of the archive, macro AUROC",
    "zero_shot.superclass.macro_auroc": "zero-shot, five superclasses, macro AUROC",
    "reconstruction.shown.pearson_r": "redrawn leads, r on what the page shows",
}

LICENCE_TAGS = (
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc0-1.0",
    "odbl",
    "odc-by",
    "apache-2.0",
    "mit",
)
"""Licences of data that model hubs have a tag for."""


def weights_licence(run: str, config: Config) -> str:
    """Licence of a run's weights as hubs write it: that of the recordings they were trained on, ``unknown`` where unsure.

    Where sources have several licences, or one states none, there is none of all. Weights initialised from others
    (``model.image.path``) also fall under the licence of those, which is not known here.
    """
    manifest = _manifest(_read_json(join(run, names.ENVIRONMENT)).get("store"))
    licences = {(origin.licence or "").lower().replace(" ", "-") for origin in manifest.origins} if manifest else set()
    licence = licences.pop() if len(licences) == 1 else ""
    return licence if licence in LICENCE_TAGS and config.model.image.path is None else "unknown"


def model_card(run: str, loaded: LoadedCheckpoint, name: str) -> str:
    """Markdown with the front matter of model hubs.

    Args:
        run: URI of the run folder; its report gives the figures, its store the data.
        loaded: The exported checkpoint.
        name: Of the exported folder.
    """
    environment = _read_json(join(run, names.ENVIRONMENT))
    report = _read_json(join(run, names.REPORT_JSON))
    figures = [(title, Estimate(**report[key])) for key, title in CARD_FIGURES.items() if _measured(report.get(key))]
    manifest = _manifest(environment.get("store"))
    return render(
        "card.md.j2",
        name=name,
        licence=weights_licence(run, loaded.config),
        config=loaded.config,
        **_module_facts(loaded),
        feature_dim=loaded.model.page.feature_dim,
        state=loaded.state,
        figures=figures,
        origins=manifest.origins if manifest else [],
        folds=_folds(manifest),
        rows={split: manifest.rows(split) for split in ("train", "validation", "test")} if manifest else {},
        without_patient=recordings_without_patient(manifest),
        environment=environment,
    )


def _module_facts(loaded: LoadedCheckpoint[ECGScan]) -> dict[str, Any]:
    """What the card states of an encoder of pictures, or of leads."""
    module, settings = loaded.model.page, loaded.config.model
    if isinstance(module, LeadsEncoder):
        architecture = f"page reader and {settings.signal.kind}"
        return {"reads": True, "architecture": architecture, "parameters": sum(p.numel() for p in module.parameters())}
    normalisation = {name: buffer.flatten().tolist() for name, buffer in module.tower.named_buffers(recurse=False)}
    backbone = module.tower.backbone
    return {
        "reads": False,
        "architecture": getattr(backbone, "pretrained_cfg", {}).get("architecture", settings.image.name),
        "parameters": sum(p.numel() for p in backbone.parameters()),
        "pooled_dim": module.tower.pooled_dim,
        "mean": [round(v, 4) for v in normalisation["mean"]],
        "std": [round(v, 4) for v in normalisation["std"]],
    }


def _measured(entry: dict[str, Any] | None) -> bool:
    return entry is not None and entry["value"] is not None


def _read_json(uri: str) -> dict[str, Any]:
    return json.loads(read_bytes(uri)) if exists(uri) else {}


def _manifest(store: str | None) -> Manifest | None:
    """The store's manifest, or ``None`` where the store is gone."""
    try:
        return read_manifest(store) if store else None
    except EcgscanError:
        return None


def recordings_without_patient(manifest: Manifest | None) -> int | None:
    """Recordings whose patient is not known; ``None`` where they were not counted."""
    counts = (
        [split.get("patients", {}).get("recordings_without") for split in manifest.counts.values()] if manifest else []
    )
    return sum(count or 0 for count in counts) if counts and None not in counts else None


def _folds(manifest: Manifest | None) -> str | None:
    settings = manifest.settings if manifest else {}
    folds = {key.replace("_", " "): value for key, value in settings.items() if "fold" in key and value is not None}
    return "; ".join(f"{name}: {value}" for name, value in folds.items()) or None
