"""What the networks' maps hold: shared by the networks, which need torch, and by the makers of samples, which do not."""

from __future__ import annotations

COARSE_STRIDE = 8
"""px of the whole picture (``coarse.SIDE`` at its longer side) in one cell of ``CoarseNet``'s output."""
PAGE_STRIDE = 8
"""px of the coarsely rectified page in one cell of ``PageNet``'s output."""
LABELS = 13
"""Lead labels that are told apart: the twelve leads, and -aVR."""
PAGE_CHANNELS = {"grid": 8, "row": 1, "start": 1, "pulse": 1, "label": LABELS}
"""Output of ``PageNet``: for each kind of mark its channels.

``grid``: cosine and sine of the phase of the vertical 5 mm lines, of the horizontal ones, then of the vertical and
horizontal 1 mm lines; a vector's length is the belief. The others are logits: a row's zero line, a strip's start, the
calibration pulse, each lead label.
"""
