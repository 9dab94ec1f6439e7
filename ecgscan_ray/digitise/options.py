"""What a user wants of a digitised page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ecgscan_ray.errors import ConfigError, InputError
from ecgscan_ray.paper.layout import find_layout
from ecgscan_ray.reading.leads import PageReading

Format = Literal["wfdb", "csv", "npz"]


@dataclass(frozen=True)
class Options:
    """How pages are read and written.

    Attributes:
        speed_mm_per_s: Paper speed; None = from the page.
        gain_mm_per_mv: Gain; None = from the page.
        layout: Name of the layout; None = from the page.
        format: Of the records.
        overlay: Write the picture with the trace as read.
        min_quality: A page of a lower quality is refused.
    """

    speed_mm_per_s: float | None = None
    gain_mm_per_mv: float | None = None
    layout: str | None = None
    format: Format = "wfdb"
    overlay: bool = True
    min_quality: float = 0.0

    def check(self) -> None:
        """Refuse values that no page can have.

        Raises:
            InputError: One of them, named as on the command line.
        """
        for name, value in (("--speed", self.speed_mm_per_s), ("--gain", self.gain_mm_per_mv)):
            if value is not None and not 1 <= value <= 200:
                raise InputError(f"{value:g} is not between 1 and 200", where=name)
        if not 0 <= self.min_quality <= 1:
            raise InputError(f"{self.min_quality:g} is not between 0 and 1", where="--min-quality")
        if self.layout is not None:
            try:
                find_layout(self.layout)
            except ConfigError as error:
                raise InputError(error.what, where="--layout", fix=error.fix) from None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the comparison with those of an earlier run."""
        return asdict(self)


PageReader = Callable[[np.ndarray, Options], PageReading]
"""uint8 (H, W, 3) and options -> the reading. Raises ``InputError`` for a page that it refuses."""
