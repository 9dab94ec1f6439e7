"""Batches that come to the device ahead of their step are the same, in the same order, one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ecgscan_ray.training.loader import BatchLoader
from ecgscan_ray.training.timing import PhaseTimer

CPU = torch.device("cpu")


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_are_taken_in_order_and_one_is_read_ahead(ahead: bool) -> None:
    read: list[int] = []

    def source() -> Any:
        for step in range(3):
            read.append(step)
            yield {"position": np.arange(2) + 2 * step, "page_ok": np.array([True, step != 1])}

    def to_device(batch: Any) -> Any:
        return {"position": torch.from_numpy(batch["position"]) * 10}

    loader = BatchLoader(source(), to_device, CPU, PhaseTimer(CPU), ahead)
    for step in range(3):
        batch = loader.take()
        assert batch is not None
        assert read == list(range(step + 1)), "before the step's work is handed over nothing more is read"
        assert batch.position.tolist() == [2 * step, 2 * step + 1] and batch.bad_pages == int(step == 1)
        assert batch.tensors["position"].tolist() == [20 * step, 20 * step + 10]  # type: ignore[typeddict-item]
        if step < 2:
            loader.read_ahead()
            assert read == list(range(step + 1 + ahead))
    assert loader.take() is None
