"""Control experiments as changes to a batch."""

from __future__ import annotations

import numpy as np
import torch

from ecgscan_ray.training.transforms import control_transforms
from tests.tiny import tiny_config


def transformed(batch: dict[str, torch.Tensor], **settings: object) -> dict[str, torch.Tensor]:
    before = dict(batch)
    for transform in control_transforms(tiny_config(**settings).training):
        batch = transform(batch)  # type: ignore[arg-type,assignment]
        assert batch is not before
    return batch


def test_without_a_control_experiment_nothing_is_changed() -> None:
    assert control_transforms(tiny_config().training) == ()


def test_dropped_signals_are_whole_patients_and_always_the_same() -> None:
    patients = torch.from_numpy(np.random.default_rng(0).integers(0, 2**62, 400)).repeat_interleave(2)
    batch = {"patient_key": patients, "has_signal": torch.ones(800).bool()}
    has_signal = transformed(batch, training__drop_signal_fraction=0.5)["has_signal"]
    assert 0.4 < has_signal.float().mean() < 0.6 and torch.equal(has_signal[::2], has_signal[1::2])
    assert batch["has_signal"].all(), "the batch itself stays as it is"
    unknown = {"patient_key": torch.tensor([-1]), "has_signal": torch.tensor([True])}
    assert transformed(unknown, training__drop_signal_fraction=0.99)["has_signal"].all()


def test_shuffled_pairs_move_the_teachers_embeddings_along() -> None:
    names = ("signal_mv", "centred_mv", "valid", "token_ids", "attention_mask", "has_text", "has_signal")
    batch = {name: torch.arange(4) for name in (*names, "teacher_signal", "teacher_report", "image", "recording_key")}
    shuffled = transformed(batch, training__shuffle_pairs=True)
    stays = {name for name, value in shuffled.items() if torch.equal(value, torch.arange(4))}
    assert stays == {"image", "recording_key"}
