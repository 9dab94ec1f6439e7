"""The encoder itself: pages in, features or redrawn leads out.

An encoder of leads reads each page first, with the networks it carries; one of pictures fits it into its size.

Letters: N pages, H W C page size and channels, P features, D aligned features.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import cast

import numpy as np
import torch
from PIL import Image

from ecgscan_ray.config import PageConfig
from ecgscan_ray.digitise.reader import as_rgb
from ecgscan_ray.encoder.classes import Classes, Predictions
from ecgscan_ray.encoder.fit import fit_page
from ecgscan_ray.encoder.redrawn import Redrawn
from ecgscan_ray.errors import InputError, WorkError
from ecgscan_ray.evaluation.features import in_batches
from ecgscan_ray.evaluation.redraw import lead_residual_mv, project_on_laws
from ecgscan_ray.model.ecgscan import PageEncoder
from ecgscan_ray.model.leads import LeadsEncoder
from ecgscan_ray.model.output import PageOutput, PictureOutput
from ecgscan_ray.pictures import Picture, read_picture
from ecgscan_ray.reading.leads import PageReading
from ecgscan_ray.reading.read_pages import legible
from ecgscan_ray.reading.reader import Networks, read_page
from ecgscan_ray.recording.mean_beat import completed

BATCH = 32
"""Pages per forward pass, by default."""


class Encoder:
    """Pages of any size in, features out.

    Args:
        module: Backbone and projection, or an encoder of leads.
        page: Settings of the pages it was trained on.
        device: Where it runs. Pages are read on the CPU.
        networks: Of the page reader, for an encoder of leads.
        classes: Of a fine-tuned encoder.

    Raises:
        InputError: There is no such device.
    """

    def __init__(
        self,
        module: PageEncoder | LeadsEncoder,
        page: PageConfig,
        device: torch.device | str = "cpu",
        networks: Networks | None = None,
        classes: Classes | None = None,
    ) -> None:
        self.page = legible(page) if isinstance(module, LeadsEncoder) else page
        self.networks = networks
        self.thresholds = dict(classes.thresholds) if classes else {}
        try:
            self.device = torch.device(device)
            self.module = module.to(self.device).eval()
            self._head = classes.head.to(self.device).eval() if classes else None
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            reason = str(error).splitlines()[0][:120]
            raise InputError(f"no such device here ({reason})", where=device, fix="Use the device 'cpu'.") from None

    def __repr__(self) -> str:
        sizes = f"features {self.feature_dim}, aligned {self.embed_dim}, on {self.device})"
        if self.thresholds:
            sizes = f"{len(self.thresholds)} classes, {sizes}"
        if isinstance(self.module, LeadsEncoder):
            return f"Encoder(leads read from pages, {self.module.signal_fs} Hz, {sizes}"
        name = getattr(self.module.tower.backbone, "pretrained_cfg", {}).get("architecture", "timm model")
        colour = "grey" if self.page.channels == 1 else "RGB"
        return f"Encoder({name}, {colour} pages of {self.page.height}x{self.page.width} px, {sizes}"

    @property
    def reads(self) -> bool:
        """Whether pages are read, and their leads embedded; else their pictures are."""
        return isinstance(self.module, LeadsEncoder)

    @property
    def feature_dim(self) -> int:
        """P, the size of the features for a classifier."""
        return self.module.feature_dim

    @property
    def embed_dim(self) -> int:
        """D, the size of the aligned features."""
        return self.module.embed_dim

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that ``predict`` gives; empty where the encoder was not fine-tuned."""
        return tuple(self.thresholds)

    def digest(self) -> str:
        """sha256 of what its features depend on: all weights, and the settings of the pages."""
        digest = hashlib.sha256(self.page.model_dump_json().encode())
        if isinstance(self.module, LeadsEncoder):
            assert self.networks is not None  # an encoder of leads comes with them
            digest.update(f"{self.module.signal_fs} {self.module.sig_len} {self.networks.digest}".encode())
        for name, values in self.module.state_dict().items():
            digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def preprocess(self, image: Picture) -> np.ndarray:
        """The whole page in the encoder's size and channels: uint8 (H, W, C); one that is read keeps its size.

        Raises:
            InputError: Not a readable image, or an array of another shape or type.
        """
        if self.reads:
            return as_rgb(read_picture(image))
        return fit_page(read_picture(image), self.page)

    @torch.inference_mode()
    def embed(
        self, images: Iterable[Picture] | Picture, *, projected: bool = False, batch_size: int = BATCH
    ) -> np.ndarray:
        """Features of pages.

        Args:
            images: Pages (see ``Picture``); a single page is a list of one. An array of four axes is N pages.
            projected: The aligned features of unit norm (N, D), as compared with signals and reports in training; else
                features (N, P) for a classifier: the signal tower's pooled features of all twelve leads, after the
                backbone's if there is one.
            batch_size: Pages per forward pass.

        Returns:
            float32, one row per page.

        Raises:
            InputError: One of the images cannot be read, or no ECG is found on it.
            WorkError: A feature is not finite.
        """
        width = self.embed_dim if projected else self.feature_dim
        parts = [np.zeros((0, width), np.float32)]
        for output, _, _ in self._outputs(images, batch_size):
            parts.append(output["image_features" if projected else "features"].cpu().numpy())
        features = np.concatenate(parts)
        if not np.isfinite(features).all():  # weights are checked when they are loaded: this is the device's arithmetic
            raise WorkError(
                f"features are not finite, the first of page {int(np.argmin(np.isfinite(features).all(1)))}"
            )
        return features

    @torch.inference_mode()
    def predict(self, images: Iterable[Picture] | Picture, *, batch_size: int = BATCH) -> Predictions:
        """The chance of each class, of an encoder from ``ecgscan finetune``.

        Args:
            images: As in ``embed``.
            batch_size: Pages per forward pass.

        Raises:
            InputError: The encoder was not fine-tuned; or one of the images cannot be read, or no ECG is found on it.
        """
        if self._head is None:
            raise InputError("knows no classes", where="encoder", fix="Export a run of 'ecgscan finetune'.")
        parts = [np.zeros((0, len(self.thresholds)), np.float32)]
        for output, _, _ in self._outputs(images, batch_size):
            parts.append(self._head(output["features"]).sigmoid().cpu().numpy())
        limits = np.array([np.inf if value is None else value for value in self.thresholds.values()], np.float32)
        return Predictions(self.classes, np.concatenate(parts), limits)

    @torch.inference_mode()
    def redraw(self, images: Iterable[Picture] | Picture, *, lawful: bool = False, batch_size: int = BATCH) -> Redrawn:
        """The twelve leads of each page.

        Args:
            images: As in ``embed``.
            lawful: Project them on the lead laws: what the page shows nearly keeps its value, the rest moves.
            batch_size: Pages per forward pass.

        Raises:
            InputError: One of the images cannot be read, or no ECG is found on it.
        """
        samples = self.module.sig_len
        leads, shown, residual = [torch.zeros(0, 12, samples)], [torch.zeros(0, 12, samples).bool()], [torch.zeros(0)]
        readings: list[PageReading] = []
        for output, seen, read in self._outputs(images, batch_size):
            redrawn = output["redrawn_mv"]
            if not isinstance(self.module, LeadsEncoder):
                seen = self.module.decoder.shown(cast(PictureOutput, output)["layout_logits"].argmax(-1))
            assert seen is not None
            residual.append(lead_residual_mv(redrawn).cpu())
            leads.append((project_on_laws(redrawn, seen) if lawful else redrawn).cpu())
            shown.append(seen.cpu())
            readings += read
        return Redrawn(
            signal_mv=torch.cat(leads).numpy(),
            shown=torch.cat(shown).numpy(),
            lead_residual_mv=torch.cat(residual).numpy(),
            fs=self.module.signal_fs,
            readings=tuple(readings),
        )

    def _outputs(
        self, images: Iterable[Picture] | Picture, batch_size: int
    ) -> Iterator[tuple[PageOutput, torch.Tensor | None, list[PageReading]]]:
        """The module's output of batches of pages; of pages that are read, what was read, bool (n, 12, T), and how."""
        for pictures in self._batches(images, batch_size):
            if isinstance(self.module, LeadsEncoder):
                fs = self.module.signal_fs
                assert self.networks is not None  # an encoder of leads comes with them
                readings = [read_page(self.networks, self.preprocess(picture)) for picture in pictures]
                read = np.stack([reading.leads_at(fs, self.module.sig_len / fs) for reading in readings])
                leads_mv = torch.from_numpy(np.stack([completed(leads, fs) for leads in read])).to(self.device)
                shown = torch.from_numpy(np.isfinite(read)).to(self.device)
                yield self.module(leads_mv, shown), shown, readings
            else:
                pages = np.stack([self.preprocess(picture) for picture in pictures])
                output = self.module(torch.from_numpy(pages).to(self.device).permute(0, 3, 1, 2))
                yield output, None, []

    def _batches(self, images: Iterable[Picture] | Picture, batch_size: int) -> Iterator[list[Picture]]:
        """Lists of pictures."""
        if batch_size < 1:
            raise InputError(f"{batch_size} is too small", where="batch_size", fix="Give 1 or more.")
        if isinstance(images, torch.Tensor):
            fix = "Give a numpy array of uint8 (N, H, W, C): whether a tensor's channels come first is not known."
            raise InputError("a tensor is no page", where="images", fix=fix)
        if isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
            images = [images]
        return in_batches(images, batch_size)
