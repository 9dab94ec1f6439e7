"""Sources of recordings by name."""

from __future__ import annotations

from collections.abc import Callable

from ecgscan_ray.errors import InputError, near_miss
from ecgscan_ray.recording.sources.chapman import Chapman
from ecgscan_ray.recording.sources.cinc2021 import CinC2021
from ecgscan_ray.recording.sources.code15 import Code15
from ecgscan_ray.recording.sources.folder import Folder
from ecgscan_ray.recording.sources.mimic_iv_ecg import MimicIvEcg
from ecgscan_ray.recording.sources.ptbxl import PTBXL
from ecgscan_ray.recording.sources.source import Item, Source

SOURCES: dict[str, Callable[[float | None], Source]] = {
    "ptbxl": PTBXL,
    "mimic-iv-ecg": MimicIvEcg,
    "cinc2021": CinC2021,
    "chapman": Chapman,
    "code15": Code15,
    "folder": Folder,
}


def open_source(name: str, rate: float | None = 100) -> Source:
    """The source of this name, at this rate (Hz).

    Raises:
        InputError: There is none of this name.
    """
    if name not in SOURCES:
        raise InputError(f"no source named '{name}'", fix=near_miss(name, SOURCES))
    return SOURCES[name](rate)


__all__ = ["SOURCES", "Item", "Source", "open_source"]
