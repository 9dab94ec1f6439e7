"""Features and batches made up for tests of the losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ecgscan_ray.objective.contrastive import MODALITIES, Items, gather_items

DOUBLE = torch.float64


def unit(rows: int, dim: int, seed: int) -> torch.Tensor:
    """Random unit rows."""
    return F.normalize(torch.randn(rows, dim, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)), dim=-1)


def flags(rows: int, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Complete recordings of different patients with different reports."""
    batch = {name: torch.ones(rows).bool() for name in ("page_ok", "has_signal", "has_text")}
    return batch | {name: torch.arange(rows) for name in ("recording_key", "patient_key", "report_key")} | changes


def items_of(image, signal, text, settings=None, **changes) -> Items:
    features = dict(zip(MODALITIES, (image, signal, text), strict=True))
    output = {f"{name}_features": value for name, value in features.items()}
    return gather_items(output, flags(len(image), **changes), **(settings or {}))
