"""The page encoder as an ONNX graph: pages of fixed size, any number per batch; compared with torch when it is written.

Needs the extra ``onnx``.
"""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from ecgscan_ray.config import PageConfig
from ecgscan_ray.errors import InputError, WorkError
from ecgscan_ray.model.ecgscan import PageEncoder

ONNX_NAME = "encoder.onnx"
OUTPUTS = ("image_features", "features", "redrawn_mv")
MAX_ERROR = 1e-3
"""Largest accepted difference from torch, relative to the largest value of each output."""
OPSET = 20
_MODULES = ("onnx", "onnxruntime", "onnxscript")


class _PageGraph(nn.Module):
    """The three outputs that users need, as a tuple."""

    def __init__(self, module: PageEncoder) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        output = self.module(image)
        return tuple(output[name] for name in OUTPUTS)


def require_onnx() -> None:
    """Raises ``InputError`` where the extra ``onnx`` is not installed."""
    missing = [module for module in _MODULES if importlib.util.find_spec(module) is None]
    if missing:
        fix = "Run: pip install 'ecgscan_ray[onnx]'"
        raise InputError(f"not installed: {', '.join(missing)}", where="export to ONNX", fix=fix)


def export_onnx(module: PageEncoder, page: PageConfig, path: Path) -> float:
    """Write the graph, and compare it with torch on pages of noise and a white one.

    Input ``image``: (N, C, H, W) uint8, as ``Encoder.preprocess`` makes them. Outputs as in ``PageEncoder``:
    ``image_features`` (N, D), ``features`` (N, P), ``redrawn_mv`` (N, 12, T). N is dynamic.

    Args:
        module: The encoder, on the CPU.
        page: Page settings.
        path: File to write.

    Returns:
        Largest difference from torch over all outputs, relative to the largest value of each.

    Raises:
        WorkError: The graph's outputs differ from torch's by more than ``MAX_ERROR``.
        InputError: The extra ``onnx`` is not installed.
    """
    require_onnx()
    graph = _PageGraph(module).eval()
    image = torch.zeros(2, page.channels, page.height, page.width, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=1024)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mock.patch.object(torch.linalg, "solve", _solve):  # ONNX has no solver
            program = torch.export.export(graph, (image,), dynamic_shapes=({0: batch},), strict=True)
        torch.onnx.export(
            program,
            f=str(path),
            input_names=["image"],
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    error = onnx_error(graph, page, path)
    if not error <= MAX_ERROR:
        raise WorkError(
            f"the ONNX graph differs from torch by {error:.1e}, at most {MAX_ERROR:g} is accepted", where=path
        )
    return error


def onnx_error(graph: nn.Module, page: PageConfig, path: Path) -> float:
    """Largest relative difference between the graph in onnxruntime and torch, on three pages."""
    import onnxruntime

    random = np.random.default_rng(0)
    image = random.integers(0, 256, (3, page.channels, page.height, page.width), dtype=np.uint8)
    image[2] = 255
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(list(OUTPUTS), {"image": image})
    with torch.inference_mode():
        expected = [value.numpy() for value in graph(torch.from_numpy(image))]
    pairs = zip(outputs, expected, strict=True)
    return max(float(np.abs(output - of_torch).max() / max(np.abs(of_torch).max(), 1e-9)) for output, of_torch in pairs)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """``torch.linalg.solve`` of small positive definite systems in operations that ONNX has: elimination, no pivoting.

    Args:
        matrix: (N, n, n).
        right: (N, n, k).
    """
    size = matrix.shape[-1]
    rows = torch.cat([matrix, right], -1)
    identity = torch.eye(size, dtype=matrix.dtype)
    for index in range(size):
        pivot = rows[:, index : index + 1] / rows[:, index : index + 1, index : index + 1]
        selected = identity[:, index : index + 1]
        rows = selected * pivot + (1 - selected) * (rows - rows[:, :, index : index + 1] * pivot)
    return rows[..., size:]
