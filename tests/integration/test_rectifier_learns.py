"""The reader's networks learn from a few dozen small batches: they find the grid of pages that they were not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ecgscan_ray import text
from ecgscan_ray.evaluation.features import EVALUATION_EPOCH
from ecgscan_ray.reading.maker import SampleMaker
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.tasks.rectifier import Rectifier
from ecgscan_ray.training.loop import train
from tests.records import recording
from tests.reporters import Discarding
from tests.tiny import tiny_reader_config

STEPS, BATCH = 25, 3
CHANCE_MM = 1.25
"""Mean error of a random phase of lines 5 mm apart."""
TOKENIZER = text.fit_tokenizer(["sinusrhythmus normales ekg"], 300)
CONFIG = tiny_reader_config(
    page__effects="clean",
    page__height=600,
    page__width=800,
    rectifier={},
    training__global_batch_size=BATCH,
    training__learning_rate=3e-3,
    training__warmup_steps=5,
    training__steps=STEPS,
    training__log_every=STEPS,
    training__checkpoint_every=STEPS,
    training__term_gradients_every=0,
)


def test_the_grid_is_found_on_pages_that_were_not_trained_on(tmp_path: Path) -> None:
    task = Rectifier()
    maker, model = SampleMaker(CONFIG), task.build_model(CONFIG, TOKENIZER)
    tested = [recording(str(n), seed=n) for n in range(1000, 1006)]
    held_out = task.to_device(maker.make(tested, range(6), [EVALUATION_EPOCH] * 6), torch.device("cpu"), CONFIG)
    before = task.validation_score(model, [held_out])
    assert before["validation.grid_mm"] > 0.8 * CHANCE_MM

    batches = (
        maker.make(
            [recording(str(n), seed=n) for n in range(step * BATCH, (step + 1) * BATCH)],
            range(step * BATCH, (step + 1) * BATCH),
            [0] * BATCH,
        )
        for step in range(STEPS)
    )
    spec = RunSpec("rectifier", CONFIG, "/store", Manifest(source="test", shards=[]), TOKENIZER.to_str(), STEPS, "/run")
    train(spec, task, model, batches, Discarding(tmp_path), device=torch.device("cpu"))
    after = task.validation_score(model, [held_out])
    assert after["validation.grid_median_mm"] < 0.4 and after["validation.grid_mm"] < 0.6 * CHANCE_MM
    assert after["validation.height_median_mm"] < 0.5 * before["validation.height_median_mm"]
    assert after["validation.score"] > before["validation.score"]
    with pytest.raises(StopIteration):
        next(batches)
