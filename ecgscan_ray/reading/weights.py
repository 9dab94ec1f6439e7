"""The reader's weights as one file: fp16 on disk, fp32 in memory.

Names of tensors begin with ``coarse.``, ``page.`` or ``row.``. The file's metadata holds the format and where the weights come
from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ecgscan_ray.data import reader_weights
from ecgscan_ray.errors import InputError
from ecgscan_ray.reading.network import RowNet
from ecgscan_ray.reading.reader import Networks
from ecgscan_ray.rectification.networks import CoarseNet, PageNet

FORMAT = "ecgscan_ray reader"
VERSION = 1
"""Of the networks' shapes and of what goes in and comes out of them; another one is refused."""
MAX_BYTES = 5 * 10**6
_COUNTERS = "num_batches_tracked"
"""Of batch norm: not used in evaluation, and not in the file."""


def load_networks(path: str | os.PathLike | None = None) -> Networks:
    """Trained networks in evaluation mode, fp32.

    Args:
        path: A file of ``save_networks``; none = the one that comes with the package.

    Raises:
        InputError: There is no such file, it is damaged, or it is of another version.
    """
    where = Path(path) if path is not None else reader_weights()
    if not where.is_file():
        fix = "Train networks by 'ecgscan rectifier' and write them by tools/make_weights.py."
        raise InputError("no weights of a page reader here", where=where, fix=fix)
    networks = _networks()
    expected = {name: value for name, value in networks.state_dict().items() if not name.endswith(_COUNTERS)}
    try:
        with safe_open(where, framework="pt") as file:
            _check_format(file.metadata() or {}, where)
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(shapes, {name: tuple(value.shape) for name, value in expected.items()}, where)
            weights = {name: file.get_tensor(name).float() for name in shapes}
    except (OSError, SafetensorError, UnicodeDecodeError) as error:
        raise _damaged(str(error).splitlines()[0][:160], where) from None
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise _damaged("values that are not finite", where)
    networks.load_state_dict(weights, strict=False)
    networks.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    coarse, page, row = (_fused(networks[name]) for name in ("coarse", "page", "row"))
    assert isinstance(coarse, CoarseNet) and isinstance(page, PageNet) and isinstance(row, RowNet)
    return Networks(coarse, page, row, hashlib.sha256(where.read_bytes()).hexdigest())


def save_networks(state: Mapping[str, Tensor], path: Path, facts: Mapping[str, str]) -> None:
    """Write weights as ``load_networks`` reads them.

    Args:
        state: Of the three networks, names as in the file.
        path: File to write.
        facts: Where they come from, for the metadata.

    Raises:
        InputError: A value does not fit into fp16, or the file would be too large for the package.
    """
    halves = {k: v.detach().cpu().half().contiguous() for k, v in state.items() if not k.endswith(_COUNTERS)}
    wrong = [name for name, value in halves.items() if not bool(value.isfinite().all())]
    if wrong:
        raise InputError(f"{wrong[0]} has values that fp16 cannot hold", where=path)
    size = sum(value.nbytes for value in halves.values())
    if size > MAX_BYTES:
        raise InputError(f"{size / 1e6:.1f} MB of weights, at most {MAX_BYTES / 1e6:.0f} MB", where=path)
    save_file(halves, path, metadata={"format": FORMAT, "version": str(VERSION), **facts})


def _networks() -> nn.ModuleDict:
    return nn.ModuleDict({"coarse": CoarseNet(), "page": PageNet(), "row": RowNet()})


def _fused(network: nn.Module) -> nn.Module:
    """The network with each norm inside the convolution before it: the same function, a tenth faster."""
    for block in network.modules():
        if isinstance(block, nn.Sequential) and len(block) > 1 and isinstance(block[1], nn.BatchNorm2d):
            convolution = block[0]
            assert isinstance(convolution, nn.Conv2d)
            block[0], block[1] = fuse_conv_bn_eval(convolution, block[1]), nn.Identity()
    return network


def _check_format(metadata: Mapping[str, str], where: Path) -> None:
    if metadata.get("format") != FORMAT:
        raise InputError("no weights of a page reader", where=where, fix="Give a file of tools/make_weights.py.")
    if metadata.get("version") != str(VERSION):
        what = f"weights of version {metadata.get('version', '')[:20]}, not {VERSION}"
        raise InputError(what, where=where, fix="Use the weights of this version of the package.")


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: Path) -> None:
    for name in sorted(shapes.keys() | expected.keys()):
        if shapes.get(name) != expected.get(name):
            raise _damaged(f"{name[:80]} is {shapes.get(name, 'missing')}, not {expected.get(name, 'in it')}", where)


def _damaged(reason: str, where: Path) -> InputError:
    return InputError(f"damaged weights ({reason})", where=where, fix="Copy or make the file again.")
