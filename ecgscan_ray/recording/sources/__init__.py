"""Sources of recordings by name."""

from __future__ import annotations

from collections.abc import Callable

from ecgscan_ray.errors import InputError, near_miss
from ecgscan_ray.recording.sources.folder import Folder
from ecgscan_ray.recording.sources.ptbxl import PTBXL
from ecgscan_ray.recording.sources.source import Item, Source

SOURCES: dict[str, Callable[[float | None], Source]] = {"ptbxl": PTBXL, "folder": Folder}


def open_source(name: str, rate: float | None = 100) -> Source:
    """The source of this name, at this rate (Hz).

    Raises:
        InputError: There is none of this name.
    """
    if name not in SOURCES:
        raise InputError(f"no source named '{name}'", fix=near_miss(name, SOURCES))
    return SOURCES[name](rate)


__all__ = ["SOURCES", "Item", "Source", "open_source"]
