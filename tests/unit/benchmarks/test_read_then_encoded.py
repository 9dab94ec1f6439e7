"""The recorded strips that stand in place of a page as read."""

from __future__ import annotations

import numpy as np

from benchmarks.read_then_encoded import recorded_strips
from ecgscan_ray import text
from ecgscan_ray.batch import READ_STEP_MV, BatchMaker
from tests.records import recording
from tests.tiny import tiny_config


def test_recorded_samples_stand_where_the_page_was_read() -> None:
    config = tiny_config(model__input="leads", page__effects="clean")
    maker = BatchMaker(config, text.fit_tokenizer(["sinusrhythmus"], 100))
    batch = maker.make([recording(str(k), seed=k) for k in range(3)], np.arange(3), np.zeros(3, int))
    samples = batch["signal"].shape[-1]
    replaced = recorded_strips(batch, config.model.signal_fs)
    was_read, still_read = (
        np.unpackbits(b["read_bits"], axis=-1, count=samples).astype(bool) for b in (batch, replaced)
    )
    assert (still_read == was_read).all() and 0.2 < was_read.mean() < 0.9
    signal = batch["signal"] * batch["signal_scale_mv"][:, None, None]
    difference = replaced["read"] * READ_STEP_MV - signal
    for row, lead in np.ndindex(was_read.shape[:2]):
        part = difference[row, lead, was_read[row, lead]]
        assert not len(part) or np.ptp(part) <= 2 * READ_STEP_MV  # one offset for each lead: its median
    assert (replaced["read"] != batch["read"]).any(-1).any()
    assert replaced["signal"] is batch["signal"]
