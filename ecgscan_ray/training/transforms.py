"""Control experiments: changes to every batch, chosen before the first step."""

from __future__ import annotations

from typing import cast

from ecgscan_ray.batch import DeviceBatch
from ecgscan_ray.config import TrainingConfig
from ecgscan_ray.training.task import BatchTransform

PATIENT_BUCKETS = 10_007
"""Patients are assigned to this many buckets (a prime); a fraction of the buckets is dropped."""

PARTNERS = (
    *("signal_mv", "centred_mv", "valid", "token_ids", "attention_mask", "has_text", "has_signal"),
    *("teacher_signal", "teacher_report"),
)
"""Entries of a batch that belong to the signal and the report of a row."""


def control_transforms(config: TrainingConfig) -> tuple[BatchTransform, ...]:
    """The control experiments that the settings ask for."""
    transforms: list[BatchTransform] = []
    if config.drop_signal_fraction:
        transforms.append(drop_signals(config.drop_signal_fraction))
    if config.shuffle_pairs:
        transforms.append(shuffle_pairs)
    return tuple(transforms)


def drop_signals(fraction: float) -> BatchTransform:
    """Training with fewer signals: a fraction of the known patients has none, in every epoch the same patients."""

    def transform(batch: DeviceBatch) -> DeviceBatch:
        bucket = (batch["patient_key"] % PATIENT_BUCKETS) / PATIENT_BUCKETS
        has_signal = batch["has_signal"] & ((bucket >= fraction) | (batch["patient_key"] < 0))
        return {**batch, "has_signal": has_signal}

    return transform


def shuffle_pairs(batch: DeviceBatch) -> DeviceBatch:
    """Training without matching pairs: each page gets the signal and the report of the row before it."""
    rolled = {name: tensor.roll(1, dims=0) if name in PARTNERS else tensor for name, tensor in batch.items()}  # type: ignore[attr-defined]
    return cast(DeviceBatch, rolled)
