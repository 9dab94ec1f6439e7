"""What a fine-tuned encoder predicts: the chance of each class, and from which chance on it counts as present.

Letters: N pages, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ecgscan_ray.model.classifier import ClassHead

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Classes:
    """The head of a fine-tuned encoder.

    Attributes:
        head: Features to log odds.
        thresholds: Class -> least chance with which it is predicted, the best on validation recordings; ``None`` = never: no
            validation recording has the class.
    """

    head: ClassHead
    thresholds: Mapping[str, float | None]


@dataclass(frozen=True, repr=False)
class Predictions:
    """Chances of classes for N pages.

    Attributes:
        classes: Names of the C classes.
        probability: (N, C) float32; classes do not exclude each other.
        thresholds: (C,) float32, infinite for a class that is never predicted.
    """

    classes: tuple[str, ...]
    probability: np.ndarray
    thresholds: np.ndarray

    def __len__(self) -> int:
        return len(self.probability)

    def __repr__(self) -> str:
        return (
            f"Predictions({len(self)} pages, {', '.join(self.classes[:8])}{', ...' if len(self.classes) > 8 else ''})"
        )

    @property
    def positive(self) -> np.ndarray:
        """(N, C) bool: chances that reach the class's threshold."""
        return self.probability >= self.thresholds

    def to_dataframe(self) -> pd.DataFrame:
        """(N, C) chances, columns the classes."""
        import pandas as pd

        return pd.DataFrame(self.probability, columns=list(self.classes))
