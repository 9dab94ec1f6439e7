"""What groups of settings share: strictness, units and ranges that several use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Unit(str):
    """Unit of a setting whose key does not end in one; part of its type."""


Weight = float
Pixels = Annotated[int, Unit("px")]
Seconds = Annotated[float, Unit("s")]
Hertz = Annotated[float, Unit("Hz")]
Share = Annotated[float, Field(ge=0)]
Chance = Annotated[float, Field(ge=0, le=1)]
Speed = Annotated[float, Field(ge=1, le=400)]
Gain = Annotated[float, Field(ge=0.1, le=400)]


class Section(BaseModel):
    """A frozen group of settings; unknown keys are errors, and so are numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def mergeable(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """A file's content in the form in which overrides are merged into it."""
        return dict(content)
