"""Scans, photographs and PDF files of ECGs into records: ``digitise_pages`` for many, ``read_page`` for one.

``read_files`` reads many and writes nothing.
"""

from ecgscan_ray.digitise.job import Digitised, digitise_pages
from ecgscan_ray.digitise.options import Options, PageReader
from ecgscan_ray.digitise.overlay import draw_overlay
from ecgscan_ray.digitise.reader import load_reader, read_page
from ecgscan_ray.digitise.readings import ReadPage, read_files
from ecgscan_ray.digitise.sources import page_label

__all__ = [
    "Digitised",
    "Options",
    "PageReader",
    "ReadPage",
    "digitise_pages",
    "draw_overlay",
    "load_reader",
    "page_label",
    "read_files",
    "read_page",
]
