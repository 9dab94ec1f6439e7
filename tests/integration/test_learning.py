"""The page encoder learns: pages of recordings that it was not trained on find their signals, and only if pairs are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ecgscan_ray import text
from ecgscan_ray.batch import Batch, BatchMaker
from ecgscan_ray.evaluation.features import EVALUATION_EPOCH
from ecgscan_ray.evaluation.retrieval import rank_matches
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.loop import train
from ecgscan_ray.training.tensors import to_device
from tests.records import recording
from tests.reporters import Discarding
from tests.tiny import tiny_config

STEPS, BATCH, TRAINED, TESTED = 80, 32, 480, 128
CHANCE = 10 / TESTED
TOKENIZER = text.fit_tokenizer(["sinusrhythmus normales ekg", "linksschenkelblock"], 300)
CONFIG = tiny_config(
    page={"height": 96, "width": 128, "effects": "clean", "layouts": {"3x4+1": 1.0}},
    model__image={"name": "test_byobnet"},
    model__embed_dim=32,
    model__timing_dim=16,
    model__timing_share=0.5,
    model__signal={"width": 16, "depth": 2},
    model__signal_fs=50,
    model__decoder={"width": 16, "columns_per_s": 10, "sample_rows": 24},
    objective={"gram_weight": 0.0, "pair_weights": {"image_signal": 1.0}, "temperature": 0.12, "frame_weight": 0.5},
    stream__unit_rows=BATCH,
    training__global_batch_size=BATCH,
    training__learning_rate=2e-3,
    training__warmup_steps=10,
    training__augment={"lead_dropout": 0.0, "gain": 0.0, "noise_mv": 0.0, "token_dropout": 0.0},
    training__log_every=STEPS,
    training__checkpoint_every=STEPS,
    training__precision="fp32",
)


def recordings(first: int, count: int) -> list[Recording]:
    return [recording(str(n), seed=n, report=f"befund {n % 40}") for n in range(first, first + count)]


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    """Those of the whole run, drawn once for both trainings."""
    maker, rows, rng = BatchMaker(CONFIG, TOKENIZER), recordings(0, TRAINED), np.random.default_rng(0)
    picks = [rng.choice(TRAINED, BATCH, replace=False) for _ in range(STEPS)]
    return [
        maker.make([rows[k] for k in pick], range(step * BATCH, (step + 1) * BATCH), [step] * BATCH)
        for step, pick in enumerate(picks)
    ]


def recall_at_10(model: ECGScan) -> float:
    """Share of pages, of recordings that were not trained on, whose signal is among the nearest ten."""
    rows = recordings(10 * TRAINED, TESTED)
    batch = BatchMaker(CONFIG, TOKENIZER).make(rows, range(TESTED), [EVALUATION_EPOCH] * TESTED)
    tensors, keys = to_device(batch, "cpu", CONFIG.model.signal_fs), np.arange(TESTED)
    model.eval()
    with torch.inference_mode():
        pages = model.encode_page(tensors)[0]
        signals = model.encode_signal(tensors["centred_mv"])
    ranking = rank_matches(pages.numpy(), signals.numpy(), keys, keys)
    return float(ranking.hits(10).mean())


@pytest.mark.parametrize("shuffled", [False, True])
def test_pages_find_signals_they_were_not_trained_on_unless_pairs_are_shuffled(
    shuffled: bool, batches: list[Batch], tmp_path: Path
) -> None:
    training = CONFIG.training.model_copy(update={"shuffle_pairs": shuffled})
    config = CONFIG.model_copy(update={"training": training})
    model = Pretrain().build_model(config, TOKENIZER)
    manifest = Manifest(source="test", shards=[])
    spec = RunSpec("pretrain", config, "/store", manifest, TOKENIZER.to_str(), STEPS, "/run")
    train(spec, Pretrain(), model, iter(batches), Discarding(tmp_path), device=torch.device("cpu"))
    recall = recall_at_10(model)
    if shuffled:
        assert abs(recall - CHANCE) < 0.12  # five standard deviations of a share of 128
    else:
        assert recall > CHANCE + 0.3
