"""Batches on their way to the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import numpy as np
import torch

from ecgscan_ray.batch import DeviceRows, Rows
from ecgscan_ray.training.task import Tensors
from ecgscan_ray.training.timing import PhaseTimer


class LoadedBatch(NamedTuple):
    """A batch on the device, and what the host needs to know of it.

    Attributes:
        tensors: On the device.
        position: Plan positions of its rows.
        bad_pages: Rows whose page could not be made.
    """

    tensors: DeviceRows
    position: np.ndarray
    bad_pages: int


class BatchLoader:
    """One batch after the other; with ``ahead`` the next one comes to the device while this one's step computes.

    On a GPU it is copied and widened on a stream of its own.

    Args:
        source: This rank's batches.
        to_device: Makes tensors on the device of one.
        device: Of the model.
        timer: Of the step.
        ahead: Whether ``read_ahead`` reads.
    """

    def __init__(
        self,
        source: Iterator[Rows],
        to_device: Callable[[Rows], DeviceRows],
        device: torch.device,
        timer: PhaseTimer,
        ahead: bool,
    ) -> None:
        self._source, self._to_device, self._timer, self._ahead = source, to_device, timer, ahead
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: LoadedBatch | None = None

    def take(self) -> LoadedBatch | None:
        """The next batch, which the device's current stream may use; none where the source has ended."""
        if self._next is None:
            self._read()
        batch, self._next = self._next, None
        if batch and self._stream:
            current = torch.cuda.current_stream()
            current.wait_stream(self._stream)
            for tensor in cast(Tensors, batch.tensors).values():
                tensor.record_stream(current)
        return batch

    def read_ahead(self) -> None:
        """Called when the work of a step has been handed to the device."""
        if self._ahead:
            self._read()

    def _read(self) -> None:
        self._timer.start("data_wait")
        batch = next(self._source, None)
        self._timer.start("host_to_device")
        if batch is not None:
            with torch.cuda.stream(self._stream):  # of none: nothing changes
                tensors = self._to_device(batch)
            self._next = LoadedBatch(tensors, batch["position"], int((~batch["page_ok"]).sum()))
