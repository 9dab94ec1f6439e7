"""Recordings as pages of paper: layouts, drawing, degradation and ground truth. Loads neither torch nor ray."""

from ecgscan_ray.paper.key import page_key
from ecgscan_ray.paper.layout import LAYOUTS, strip_boxes, windows_of
from ecgscan_ray.paper.renderer import Pages, Renderer

__all__ = ["LAYOUTS", "Pages", "Renderer", "page_key", "strip_boxes", "windows_of"]
