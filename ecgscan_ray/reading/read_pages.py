"""Batches whose pages are drawn and then read, as pages of users are: for the evaluation of an encoder of leads."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from tokenizers import Tokenizer

from ecgscan_ray.batch import BatchMaker, PageArrays, pack_read
from ecgscan_ray.config import Config, PageConfig
from ecgscan_ray.cores import usable_cores
from ecgscan_ray.errors import InputError
from ecgscan_ray.paper import Pages, Renderer
from ecgscan_ray.paper.layout import PAGES_MM
from ecgscan_ray.reading.reader import Networks, read_page
from ecgscan_ray.recording.recording import Recording

logger = logging.getLogger(__name__)

PX_PER_MM = 5.0
"""Of the pages that are read: a page fills a picture of 1.5 megapixels; a phone has eight times as many."""


def legible(page: PageConfig) -> PageConfig:
    """The same pages, in colour and large enough to be read."""
    width, height = (round(side * PX_PER_MM) for side in PAGES_MM[page.paper])
    return page.model_copy(update={"width": width, "height": height, "channels": 3, "fit": "pad"})


class ReadPages(BatchMaker):
    """Draws each page large, reads it, and keeps it small for the report. A page that cannot be read shows nothing.

    Args:
        config: The run's settings.
        tokenizer: Fitted or loaded tokenizer.
        networks: Of the reader.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, networks: Networks) -> None:
        super().__init__(config, tokenizer)
        self.renderer, self._networks = Renderer(legible(config.page)), networks

    def _page_or_blank(self, renderer: Renderer, recording: Recording, key: np.uint64) -> PageArrays:
        page = super()._page_or_blank(renderer, recording, key)
        if "read" in page:
            return page
        model = self.config.model
        read, bits = pack_read([np.full((12, model.sig_len), np.nan, np.float32)], model.signal_fs, model.sig_len)
        return {**page, "read": read, "read_bits": bits}

    def _arrays(self, pages: Pages) -> PageArrays:
        model, page = self.config.model, self.config.page
        with ThreadPoolExecutor(usable_cores()) as pool:  # torch and OpenCV let go of the interpreter
            views = list(pool.map(self._read, pages.image))
        read, bits = pack_read(views, model.signal_fs, model.sig_len)
        small = [cv2.resize(image, (page.width, page.height), interpolation=cv2.INTER_AREA) for image in pages.image]
        if page.channels == 1:
            small = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] for image in small]
        return {**super()._arrays(pages), "image": np.stack(small), "read": read, "read_bits": bits}

    def _read(self, image: np.ndarray) -> np.ndarray:
        """Leads (12, T) in mV at the model's rate, NaN where nothing was read."""
        model = self.config.model
        try:
            return read_page(self._networks, image).leads_at(model.signal_fs)
        except InputError as error:
            logger.info("evaluation: a page is not read: %s", error.what)
            return np.full((12, model.sig_len), np.nan, np.float32)
