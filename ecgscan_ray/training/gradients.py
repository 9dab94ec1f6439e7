"""Gradients of one step: the loss of the whole batch, with the towers working on all of it or on a few rows at a time.

The loss is taken of the towers' joined output as if that were its input. What it asks of the output is then handed down
through the towers: at once, or micro-batch by micro-batch, each run anew with the same random numbers (GradCache, arXiv
2101.06983). Both give the same gradient; the second holds the activations of one micro-batch only.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ecgscan_ray.distributed import global_sum, world_size
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.model.ecgscan import ECGScan
from ecgscan_ray.model.teacher import Teacher
from ecgscan_ray.training.precision import Precision

Tensors = dict[str, Tensor]
Loss = Callable[[Any, Tensors, float], Tensors]
"""(model's output, batch, progress in [0, 1]) -> every term and their weighted sum ``loss``."""


class GradCache:
    """Fills the parameters' ``grad``.

    Args:
        model: What is trained.
        parallel: The same, data-parallel where there are several workers.
        objective: The loss.
        micro_batch: Rows that the towers see at once; ``None`` = all.
        precision: Arithmetic of the towers.

    Raises:
        ConfigError: Micro-batches and a model with batch norm, whose statistics would be of a few rows.
    """

    def __init__(
        self,
        model: ECGScan | Teacher,
        parallel: nn.Module,
        objective: Loss,
        micro_batch: int | None,
        precision: Precision,
    ) -> None:
        self._model, self._parallel, self._objective = model, parallel, objective
        self._micro_batch, self._precision = micro_batch, precision
        if micro_batch and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            raise ConfigError(
                "the model has batch norm, which would see a few rows at a time",
                where="training.micro_batch",
                fix="Use a model with layer or group norm (e.g. convnext_atto), or no micro-batches.",
            )

    def __call__(
        self, tensors: Tensors, progress: float, seed: int, per_term_norms: bool
    ) -> tuple[Tensors, Tensors, Tensors]:
        """One step's gradients; the optimiser has emptied ``grad`` before.

        Args:
            tensors: This rank's rows of the batch.
            progress: In [0, 1] of the run.
            seed: Of dropout and augmentation.
            by_term: Measure each term's gradient norm at the image tower, too; of a teacher, at its signal side.

        Returns:
            The model's output (without gradient), the objective's losses, ``*_gradient_norm`` of each unweighted term.
        """
        rows = len(tensors["has_signal"])
        size = self._micro_batch or rows
        parts = [slice(first, min(first + size, rows)) for first in range(0, rows, size)]
        if len(parts) == 1:
            outputs = [self._forward(self._parallel, tensors, seed)]
        else:
            with torch.no_grad():
                outputs = [self._forward(self._model, _rows(tensors, part), seed + k) for k, part in enumerate(parts)]
        joint = _concat_outputs(outputs)
        losses = self._objective(joint, tensors, progress)
        norms = self._norms(tensors, parts, outputs, joint, losses, seed) if per_term_norms else {}
        asked = _output_grads(joint, losses["loss"])
        if len(parts) == 1:
            torch.autograd.backward(*_backward_targets(outputs[0], asked, parts[0]))
        else:
            for k, part in enumerate(parts):
                with nullcontext() if k == len(parts) - 1 else self._no_sync():
                    output = self._forward(self._parallel, _rows(tensors, part), seed + k)
                    torch.autograd.backward(*_backward_targets(output, asked, part))
        return {name: value.detach() for name, value in joint.items()}, losses, norms

    def _forward(self, model: nn.Module, tensors: Tensors, seed: int) -> Tensors:
        torch.manual_seed(seed)
        with torch.autocast(tensors["has_signal"].device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            return model(tensors)

    def _no_sync(self) -> AbstractContextManager[None]:
        """Gradients are added up on each rank; the last micro-batch averages the sum."""
        parallel = self._parallel
        return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) else nullcontext()

    def _norms(
        self, tensors: Tensors, parts: list[slice], outputs: list[Tensors], joint: Tensors, losses: Tensors, seed: int
    ) -> Tensors:
        """Norm of each unweighted term's gradient in the tower's parameters, averaged over ranks as in training."""
        measured = self._model.signal_encoder if isinstance(self._model, Teacher) else self._model.page.tower
        tower = [p for p in measured.parameters() if p.requires_grad]
        asked = {
            name: _output_grads(joint, losses[name], keep=True) for name in losses if name.endswith("_loss") and tower
        }
        sums: dict[str, Tensor] = {}
        for k, part in enumerate(parts):
            output = outputs[0] if len(parts) == 1 else self._forward(self._model, _rows(tensors, part), seed + k)
            for name in asked:
                found, demands = _backward_targets(output, asked[name], part)
                grads = torch.autograd.grad(found, tower, demands, retain_graph=True, allow_unused=True)
                flat = torch.cat(
                    [
                        (p.new_zeros(()).expand_as(p) if g is None else g).flatten()
                        for p, g in zip(tower, grads, strict=True)
                    ]
                )
                sums[name] = sums[name] + flat if name in sums else flat
        return {
            f"{name.removesuffix('_loss')}_gradient_norm": global_sum(total).norm() / world_size()
            for name, total in sums.items()
        }


def _rows(tensors: Tensors, part: slice) -> Tensors:
    return {name: value[part] for name, value in tensors.items()}


def _concat_outputs(outputs: list[Tensors]) -> Tensors:
    """The outputs of all micro-batches as new leaves: rows joined; scalars, which are the same in all, once."""
    joint = {}
    for name, value in outputs[0].items():
        whole = value if value.ndim == 0 or len(outputs) == 1 else torch.cat([output[name] for output in outputs])
        joint[name] = whole.detach().requires_grad_(whole.is_floating_point())
    return joint


def _output_grads(joint: Tensors, loss: Tensor, keep: bool = False) -> Tensors:
    """The loss's gradient in each output that it looks at."""
    leaves = {name: value for name, value in joint.items() if value.requires_grad}
    grads = torch.autograd.grad(loss, list(leaves.values()), retain_graph=keep, allow_unused=True)
    return {name: grad for name, grad in zip(leaves, grads, strict=True) if grad is not None}


def _backward_targets(output: Tensors, asked: Tensors, part: slice) -> tuple[list[Tensor], list[Tensor]]:
    """What is asked of one micro-batch's output: tensors and their gradients.

    A scalar is asked once for all; later micro-batches get 0 for it, as DDP wants every parameter in the last one.
    """
    names = [name for name in asked if output[name].requires_grad]
    first = part.start == 0
    demands = [asked[name][part] if asked[name].ndim else asked[name] * float(first) for name in names]
    return [output[name] for name in names], demands
