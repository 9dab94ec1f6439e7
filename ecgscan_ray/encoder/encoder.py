"""The encoder itself: pages in, features or redrawn leads out.

Letters: N pages, H W C page size and channels, P features, D aligned features.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ecgscan_ray.config import PageConfig
from ecgscan_ray.encoder.pictures import Picture, fit_page, read_picture
from ecgscan_ray.errors import InputError, WorkError
from ecgscan_ray.evaluation.features import in_batches
from ecgscan_ray.evaluation.redraw import lead_residual_mv, project_on_laws
from ecgscan_ray.model.ecgscan import PageEncoder

BATCH = 32
"""Pages at once, by default."""


@dataclass(frozen=True)
class Redrawn:
    """Leads redrawn from N pages.

    Attributes:
        signal_mv: (N, 12, T) float32 mV, each lead around 0: a page does not tell its offset.
        shown: (N, 12, T) bool, what the page shows by the layout that was found on it; the rest is inferred.
        lead_residual_mv: (N,) by how much the leads miss the lead laws as they were read, before any projection. A page
            of a large residual was read wrongly somewhere: ``reject.lead_residual.auroc`` in a run's report says how well
            that tells.
        fs: Samples a second.
    """

    signal_mv: np.ndarray
    shown: np.ndarray
    lead_residual_mv: np.ndarray
    fs: int


class Encoder:
    """Pages of any size in, features out.

    Args:
        module: Backbone and projection.
        page: The size, channels and fit it was trained with.
        device: Where it runs.

    Raises:
        InputError: There is no such device.
    """

    def __init__(self, module: PageEncoder, page: PageConfig, device: torch.device | str = "cpu") -> None:
        self.page = page
        try:
            self.device = torch.device(device)
            self.module = module.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            first = str(error).splitlines()[0][:120]
            raise InputError(f"no such device here ({first})", where=device, fix="Use device='cpu'.") from None

    @property
    def feature_dim(self) -> int:
        """P."""
        return self.module.feature_dim

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.module.embed_dim

    def preprocess(self, image: Picture) -> np.ndarray:
        """The whole page in the encoder's size and channels: uint8 (H, W, C).

        Raises:
            InputError: Not a readable image, or an array of another shape or type.
        """
        return fit_page(read_picture(image), self.page)

    @torch.inference_mode()
    def embed(
        self, images: Iterable[Picture] | Picture, *, projected: bool = False, batch_size: int = BATCH
    ) -> np.ndarray:
        """Features of pages.

        Args:
            images: Pages (see ``Picture``); one page alone is a list of one. An array of four axes is N pages.
            projected: The aligned features, as compared with signals and reports in training, of unit norm (N, D);
                else features (N, P) for a classifier of one's own: the backbone's pooled ones and what the signal
                tower finds in the redrawn leads.
            batch_size: Pages at once.

        Returns:
            float32, one row a page.

        Raises:
            InputError: One of the images cannot be read.
        """
        width = self.embed_dim if projected else self.feature_dim
        parts = [np.zeros((0, width), np.float32)]
        for tensor in self._tensors(images, batch_size):
            parts.append(self.module(tensor)["image_features" if projected else "features"].cpu().numpy())
        features = np.concatenate(parts)
        if not np.isfinite(features).all():  # weights are checked when they are loaded: this is the device's arithmetic
            raise WorkError(
                f"features are not finite, the first of page {int(np.argmin(np.isfinite(features).all(1)))}"
            )
        return features

    @torch.inference_mode()
    def redraw(self, images: Iterable[Picture] | Picture, *, lawful: bool = False, batch_size: int = BATCH) -> Redrawn:
        """The twelve leads of each page.

        Args:
            images: As in ``embed``.
            lawful: Project them on the lead laws, by evidence: what the page shows nearly keeps its value, the rest moves.
            batch_size: Pages at once.

        Raises:
            InputError: One of the images cannot be read.
        """
        decoder = self.module.decoder
        samples = decoder.columns * decoder.samples_per_column
        leads, shown, residual = [torch.zeros(0, 12, samples)], [torch.zeros(0, 12, samples).bool()], [torch.zeros(0)]
        for tensor in self._tensors(images, batch_size):
            output = self.module(tensor)
            redrawn, seen = output["redrawn_mv"], decoder.shown(output["layout_logits"].argmax(-1))
            residual.append(lead_residual_mv(redrawn).cpu())
            leads.append((project_on_laws(redrawn, seen) if lawful else redrawn).cpu())
            shown.append(seen.cpu())
        return Redrawn(
            signal_mv=torch.cat(leads).numpy(),
            shown=torch.cat(shown).numpy(),
            lead_residual_mv=torch.cat(residual).numpy(),
            fs=self.module.signal_fs,
        )

    def _tensors(self, images: Iterable[Picture] | Picture, batch_size: int) -> Iterator[torch.Tensor]:
        """Pages as the module takes them, some at once."""
        if batch_size < 1:
            raise InputError(f"{batch_size} pages at once", where="batch_size", fix="Give 1 or more.")
        if isinstance(images, torch.Tensor):
            fix = "Give a numpy array of uint8 (N, H, W, C): nothing tells whether a tensor's channels come first."
            raise InputError("a tensor is no page", where="images", fix=fix)
        if isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
            images = [images]
        for batch in in_batches(images, batch_size):
            pixels = np.stack([self.preprocess(image) for image in batch])
            yield torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
