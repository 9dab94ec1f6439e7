"""Pretraining of an image encoder for paper ECGs, distributed by Ray.

``read_page(image)`` reads the leads of a page; ``load_encoder(path)`` embeds and redraws pages; ``Renderer(page)`` draws
them. All load their heavy packages at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgscan_ray.digitise import read_page
    from ecgscan_ray.encoder import load_encoder
    from ecgscan_ray.paper import Renderer

__version__ = "0.1.0"
__all__ = ["Renderer", "__version__", "load_encoder", "read_page"]

_ROOM_OF = {
    "load_encoder": "ecgscan_ray.encoder",
    "read_page": "ecgscan_ray.digitise",
    "Renderer": "ecgscan_ray.paper",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_ROOM_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
