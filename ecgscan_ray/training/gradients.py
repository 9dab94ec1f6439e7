"""Gradients of one step: the loss of the whole batch, with the towers working on all rows or on a few at a time.

The loss is computed on the towers' joined output as if that were its input. Its gradient in that output is then propagated
through the towers: at once, or micro-batch by micro-batch, each computed again with the same random numbers (GradCache,
arXiv 2101.06983). Both give the same gradient; the second holds the activations of one micro-batch only.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ecgscan_ray.batch import DeviceRows
from ecgscan_ray.distributed import global_sum, world_size
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.precision import Precision
from ecgscan_ray.training.task import Loss, Tensors
from ecgscan_ray.training.timing import PhaseTimer
from ecgscan_ray.training.towers import has_batch_norm


class GradCache:
    """Fills the parameters' ``grad``.

    Args:
        model: What is trained.
        parallel: The same, data-parallel where there are several workers.
        loss: Of the whole batch.
        micro_batch: Rows that the towers see at once; ``None`` = all.
        precision: Arithmetic of the towers.
        timer: Told of the phases ``forward``, ``loss`` and ``backward``.

    Attributes:
        flops_a_row: Operations of the model for one row, forward and backward: three times those of the first forward pass,
            which are counted. What is computed again to save memory is no part of them.

    Raises:
        ConfigError: Micro-batches and a model with batch norm, whose statistics would be of a few rows.
    """

    def __init__(
        self,
        model: nn.Module,
        parallel: nn.Module,
        loss: Loss,
        micro_batch: int | None,
        precision: Precision,
        timer: PhaseTimer | None = None,
    ) -> None:
        self._model, self._parallel, self._loss = model, parallel, loss
        self._micro_batch, self._precision = micro_batch, precision
        self._timer = timer or PhaseTimer(torch.device("cpu"))
        self.flops_a_row = 0.0
        if micro_batch and has_batch_norm(model):
            raise ConfigError(
                "the model has batch norm, which would see a few rows at a time",
                where="training.micro_batch",
                fix="Use a model with layer or group norm (e.g. convnext_atto), or no micro-batches.",
            )

    def __call__(self, batch: DeviceRows, progress: float, seed: int) -> tuple[Tensors, Tensors]:
        """One step's gradients; the optimiser has emptied ``grad`` before.

        Where a term of this rank's loss is not finite, all gradients of this rank are NaN. Data-parallel averaging then
        makes those of every rank NaN: the norm of the gradient tells all ranks, without a message of its own.

        Args:
            batch: This rank's rows.
            progress: In [0, 1] of the run.
            seed: Of dropout and augmentation.

        Returns:
            The model's output (without gradient), and the terms of the loss.
        """
        parts = self._parts(batch)
        self._timer.start("forward")
        if len(parts) == 1:
            outputs = [self._forward(self._parallel, batch, seed)]
        else:
            with torch.no_grad():
                outputs = [self._forward(self._model, _rows(batch, part), seed + k) for k, part in enumerate(parts)]
        self._timer.start("loss")
        joint = _concat_outputs(outputs)
        losses = self._loss(joint, batch, progress)
        output_grads = _output_grads(joint, losses["loss"], _nan_unless_finite(losses))
        self._timer.start("backward")
        if len(parts) == 1:
            torch.autograd.backward(*_backward_targets(outputs[0], output_grads, parts[0]))
        else:
            for k, part in enumerate(parts):
                with nullcontext() if k == len(parts) - 1 else self._no_sync():
                    output = self._forward(self._parallel, _rows(batch, part), seed + k)
                    torch.autograd.backward(*_backward_targets(output, output_grads, part))
        return {name: value.detach() for name, value in joint.items()}, losses

    def per_term_norms(self, module: nn.Module, batch: DeviceRows, progress: float, seed: int) -> Tensors:
        """Diagnostic: the norm of each unweighted term's gradient in the parameters of a module. Leaves ``grad`` alone.

        Args:
            module: Part of the model.
            batch: This rank's rows.
            progress: In [0, 1] of the run.
            seed: Of dropout and augmentation, as in the step.

        Returns:
            ``<term>_gradient_norm`` of the gradient averaged over ranks, the same on all; empty if nothing of the module
            is trained.
        """
        parameters = [p for p in module.parameters() if p.requires_grad]
        if not parameters:
            return {}
        parts = self._parts(batch)
        with torch.set_grad_enabled(len(parts) == 1):
            outputs = [self._forward(self._model, _rows(batch, part), seed + k) for k, part in enumerate(parts)]
        joint = _concat_outputs(outputs)
        losses = self._loss(joint, batch, progress)
        output_grads = {
            name: _output_grads(joint, loss, keep=True) for name, loss in losses.items() if name.endswith("_loss")
        }
        sums: Tensors = {}
        for k, part in enumerate(parts):
            output = outputs[0] if len(parts) == 1 else self._forward(self._model, _rows(batch, part), seed + k)
            for name, grads in output_grads.items():
                targets, target_grads = _backward_targets(output, grads, part)
                part_grads = torch.autograd.grad(
                    targets, parameters, target_grads, retain_graph=True, allow_unused=True
                )
                flat = _flatten(parameters, part_grads)
                sums[name] = sums[name] + flat if name in sums else flat
        return {
            f"{name.removesuffix('_loss')}_gradient_norm": global_sum(total).norm() / world_size()
            for name, total in sums.items()
        }

    def _parts(self, batch: DeviceRows) -> list[slice]:
        rows = len(batch["page_ok"])
        size = self._micro_batch or rows
        return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]

    def _forward(self, model: nn.Module, batch: DeviceRows, seed: int) -> Tensors:
        torch.manual_seed(seed)
        with torch.autocast(batch["page_ok"].device.type, torch.bfloat16, enabled=self._precision == "bf16"):
            return cast(Tensors, model(batch) if self.flops_a_row else self._count_flops(model, batch))

    def _count_flops(self, model: nn.Module, batch: DeviceRows) -> Any:
        """The model's output; compiled code runs as written, since its operations cannot be counted."""
        with (
            torch.compiler.set_stance("force_eager"),
            FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter,
        ):
            output = model(batch)
        self.flops_a_row = 3 * counter.get_total_flops() / len(batch["page_ok"])
        return output

    def _no_sync(self) -> AbstractContextManager[None]:
        """Gradients are added up on each rank; the last micro-batch averages the sum."""
        parallel = self._parallel
        return parallel.no_sync() if isinstance(parallel, DistributedDataParallel) else nullcontext()


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Of the shapes of an attention."""
    return int(sdpa_flop_count(query, key, value))


_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""Operations that torch's counter does not know."""


def _rows(batch: DeviceRows, part: slice) -> DeviceRows:
    tensors = cast(Tensors, batch)
    return cast(DeviceRows, {name: value[part] for name, value in tensors.items()})


def _concat_outputs(outputs: list[Tensors]) -> Tensors:
    """The outputs of all micro-batches as new leaves: rows joined; scalars, which are the same in all, once."""
    joint = {}
    for name, value in outputs[0].items():
        rows = value if value.ndim == 0 or len(outputs) == 1 else torch.cat([output[name] for output in outputs])
        joint[name] = rows.detach().requires_grad_(rows.is_floating_point())
    return joint


def _nan_unless_finite(losses: Tensors) -> Tensor:
    """The gradient of the loss in itself: 1, or NaN where a term is not finite. Decided on the device."""
    finite = torch.stack([value.detach() for value in losses.values()]).isfinite().all()
    loss = losses["loss"].detach()
    return torch.where(finite, torch.ones_like(loss), torch.full_like(loss, float("nan")))


def _output_grads(joint: Tensors, loss: Tensor, loss_grad: Tensor | None = None, keep: bool = False) -> Tensors:
    """The loss's gradient in each output that it uses; ``loss_grad`` is that in the loss itself, 1 by default."""
    leaves = {name: value for name, value in joint.items() if value.requires_grad}
    grads = torch.autograd.grad(loss, list(leaves.values()), loss_grad, retain_graph=keep, allow_unused=True)
    return {name: grad for name, grad in zip(leaves, grads, strict=True) if grad is not None}


def _backward_targets(output: Tensors, output_grads: Tensors, part: slice) -> tuple[list[Tensor], list[Tensor]]:
    """Where backward starts in one micro-batch's output: tensors and their gradients.

    The gradient of a scalar is that of the whole batch: it is given once, and later micro-batches get 0 for it, as DDP needs
    every parameter in the last one.
    """
    names = [name for name in output_grads if output[name].requires_grad]
    first = part.start == 0
    grads = [
        output_grads[name][part] if output_grads[name].ndim else output_grads[name] * float(first) for name in names
    ]
    return [output[name] for name in names], grads


def _flatten(parameters: list[nn.Parameter], grads: tuple[Tensor | None, ...]) -> Tensor:
    """One vector of all gradients; 0 for parameters that were not used."""
    return torch.cat(
        [
            (parameter.new_zeros(()).expand_as(parameter) if grad is None else grad).flatten()
            for parameter, grad in zip(parameters, grads, strict=True)
        ]
    )
