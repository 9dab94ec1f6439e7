"""The reader of pages with its trained networks, loaded at first use: torch is heavy."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ecgscan_ray.cores import limit_threads
from ecgscan_ray.digitise.options import Options, PageReader
from ecgscan_ray.pictures import Picture, read_picture
from ecgscan_ray.reading.leads import PageReading

if TYPE_CHECKING:
    from ecgscan_ray.reading.reader import Networks


def load_reader(threads: int) -> PageReader:
    """The reader with the weights that come with the package.

    Args:
        threads: Of numerical libraries in this process.

    Raises:
        InputError: No weights come with this version.
    """
    from ecgscan_ray.reading.reader import Stated
    from ecgscan_ray.reading.reader import read_page as read

    networks = _networks(None)
    limit_threads(threads)

    def read_one(image: np.ndarray, options: Options) -> PageReading:
        return read(networks, image, Stated(options.speed_mm_per_s, options.gain_mm_per_mv, options.layout))

    return read_one


@lru_cache(maxsize=1)
def _networks(weights: str | None) -> Networks:
    from ecgscan_ray.reading.weights import load_networks

    return load_networks(weights)


def read_page(
    image: Picture,
    *,
    speed_mm_per_s: float | None = None,
    gain_mm_per_mv: float | None = None,
    layout: str | None = None,
    weights: str | None = None,
) -> PageReading:
    """Read the leads of one page: a scan, a photograph, or one page of a PDF file.

    Args:
        image: Path, PIL image or uint8 array.
        speed_mm_per_s: Paper speed, where it is known.
        gain_mm_per_mv: Gain, where it is known.
        layout: Name of the layout, where it is known, e.g. ``3x4+1``.
        weights: Other weights of the reader.

    Returns:
        Leads with a belief for each sample; see ``signal_mv``, ``to_wfdb``, ``to_dataframe`` and ``plot``.

    Raises:
        InputError: Not a readable picture, or no ECG is found on it.
    """
    from ecgscan_ray.reading.reader import Stated
    from ecgscan_ray.reading.reader import read_page as read

    Options(speed_mm_per_s, gain_mm_per_mv, layout).check()
    pixels = as_rgb(read_picture(image))
    return read(_networks(weights), pixels, Stated(speed_mm_per_s, gain_mm_per_mv, layout))


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W) or (H, W, 3) as (H, W, 3)."""
    return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels
