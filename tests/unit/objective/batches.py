"""Features and batches made up for tests of the losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ecgscan_ray.objective.contrastive import MODALITIES, GatheredFeatures, gather_features

DOUBLE = torch.float64
ROWS, DIM, SAMPLES = 8, 6, 60


def unit(rows: int, dim: int, seed: int) -> torch.Tensor:
    """Random unit rows."""
    return F.normalize(torch.randn(rows, dim, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed)), dim=-1)


def flags(rows: int, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Complete recordings of different patients with different reports."""
    batch = {name: torch.ones(rows).bool() for name in ("page_ok", "has_signal", "has_text")}
    return batch | {name: torch.arange(rows) for name in ("recording_key", "patient_key", "report_key")} | changes


def items_of(image, signal, text, settings=None, **changes) -> GatheredFeatures:
    features = dict(zip(MODALITIES, (image, signal, text), strict=True))
    output = {f"{name}_features": value for name, value in features.items()}
    return gather_features(output, flags(len(image), **changes), **(settings or {}))


def joint_batch() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Raw features (parameters of the test) and a batch with gaps of every kind."""
    torch.manual_seed(0)
    raw = {f"{name}_features": torch.randn(ROWS, DIM, dtype=torch.float64) for name in ("image", "signal", "text")}
    raw["redrawn_mv"] = torch.randn(ROWS, 12, SAMPLES, dtype=torch.float64)
    raw["frame_guess"] = torch.rand(ROWS, 2, 4, 2, dtype=torch.float64)
    for name, votes in (("corner", 4), ("edge", 3)):
        raw[f"{name}_logits"] = torch.randn(ROWS, votes, 5, dtype=torch.float64)
        raw[f"{name}_xy"] = torch.rand(ROWS, votes, 5, 2, dtype=torch.float64)
    raw["edge_truth"], raw["edge_counts"] = torch.rand(ROWS, 3, 2).double(), torch.ones(ROWS, 3).double()
    raw["layout_logits"] = torch.randn(ROWS, 2, dtype=torch.float64)
    valid = torch.rand(ROWS, 12, SAMPLES) > 0.1
    part = torch.randint(0, 3, (ROWS, 12, SAMPLES))
    part[:, [1, 6, 7, 8], 30:45] = part[:, [1, 9, 10, 11], 45:] = 0
    batch = {
        "centred_mv": torch.randn(ROWS, 12, SAMPLES, dtype=torch.float64) * valid,
        "valid": valid,
        "frame_corners": torch.rand(ROWS, 4, 2, dtype=torch.float64),
        "layout": torch.arange(ROWS) % 2,
        "shown": part == 0,
        "derivable": part == 1,
        "unseen": part == 2,
        "has_signal": torch.tensor([1, 1, 0, 1, 1, 1, 1, 1]).bool(),
        "has_text": torch.tensor([1, 0, 1, 1, 1, 1, 0, 1]).bool(),
        "law_ok": torch.tensor([1, 1, 1, 1, 0, 0, 0, 1]).bool(),
        "page_ok": torch.tensor([1, 1, 1, 1, 1, 1, 0, 1]).bool(),
        "recording_key": torch.tensor([10, 11, 12, 13, 14, 15, 16, 10]),
        "patient_key": torch.tensor([5, 6, 7, 5, 8, 9, -1, -1]),
        "report_key": torch.tensor([1, -1, 2, 3, 4, 1, -1, 5]),
    }
    return raw, batch
