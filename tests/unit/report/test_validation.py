"""Pictures of validation recordings for the sinks."""

from __future__ import annotations

import numpy as np
import torch

from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.report.validation import NUM_PICTURES, validation_pictures
from ecgscan_ray.training.tensors import to_device
from tests.checkpoints import TOKENIZER, tiny_model
from tests.records import recording
from tests.tiny import tiny_config


def test_each_picture_shows_a_page_and_its_redrawn_leads() -> None:
    config, model = tiny_config(), tiny_model()
    rows = [recording(str(n), seed=n) for n in range(3)]
    batch = to_device(BatchMaker(config, TOKENIZER).make(rows, range(3), [0] * 3), torch.device("cpu"), 100)
    model.train()
    pictures = validation_pictures(model, batch, config.model.signal_fs)
    assert model.training, "the model is left as it was"
    assert list(pictures) == [f"validation/recording_{row}" for row in range(NUM_PICTURES)]
    first, second = pictures.values()
    assert first.dtype == np.uint8 and first.shape == second.shape and first.shape[2] == 3
    assert not np.array_equal(first, second)
    left, right = first[:, : first.shape[1] // 4], first[:, first.shape[1] // 3 :]
    assert left.std() > 5 and right.std() > 5, "the page on the left, the leads on the right"
