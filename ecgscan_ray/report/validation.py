"""Pictures of a few validation recordings for the sinks: page and redrawn leads, at each checkpoint."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.evaluation.features import make_example
from ecgscan_ray.evaluation.model import PageModel
from ecgscan_ray.report.figures import redrawn_picture

NUM_PICTURES = 2


@torch.inference_mode()
def validation_pictures(model: PageModel, batch: DeviceBatch, fs: float) -> dict[str, np.ndarray]:
    """Page and redrawn leads over the recorded ones, of the first recordings of a batch.

    Args:
        model: A page encoder.
        batch: On the model's device.
        fs: Rate of the leads, Hz.

    Returns:
        Name -> picture, uint8 (H, W, 3).
    """
    was_training = model.training
    model.eval()
    try:
        redrawn_mv = model.encode_page(batch)[2][:NUM_PICTURES]
    finally:
        model.train(was_training)
    pictures = {}
    for row in range(len(redrawn_mv)):
        png = redrawn_picture(make_example(str(row), row, batch, redrawn_mv), fs)
        image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        pictures[f"validation/recording_{row}"] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return pictures
