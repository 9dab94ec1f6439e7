"""Recordings as pages of paper: layouts, drawing, degradation and ground truth. Loads neither torch nor ray."""

from ecgscan_ray.errors import EcgscanError

try:
    import cv2 as _cv2  # noqa: F401 - checked here, before any module of the room needs it
except ImportError as error:  # minimal machines lack libGL and similar libraries
    raise EcgscanError(
        f"OpenCV cannot be imported ({error})", fix="pip uninstall opencv-python; pip install opencv-python-headless"
    ) from error

from ecgscan_ray.paper.key import page_key
from ecgscan_ray.paper.layout import LAYOUTS, strip_boxes, windows_of
from ecgscan_ray.paper.renderer import Pages, Renderer

__all__ = ["LAYOUTS", "Pages", "Renderer", "page_key", "strip_boxes", "windows_of"]
