"""Losses and errors of the reader's networks: where the page lies, its grid and marks, the trace's height in a row.

Every term is W x local sum / global count, over pages that could be drawn. Where a target is a distribution, the term is the
divergence from it: the cross-entropy's gradient, and 0 for a perfect output.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgscan_ray.distributed import global_mean
from ecgscan_ray.paper.grid import MAJOR_MM
from ecgscan_ray.reading.maker import DeviceSamples
from ecgscan_ray.reading.network import ROW_BIN, heights
from ecgscan_ray.reading.page_reader import ReaderOutput
from ecgscan_ray.reading.samples import ROW_HEIGHT, ROW_PX
from ecgscan_ray.rectification.channels import PAGE_CHANNELS
from ecgscan_ray.rectification.samples import FRAME_UNIT_MM

GRID = PAGE_CHANNELS["grid"]
FRAME_BETA = 0.02
"""Where the penalty on the frame's coordinates turns from square to linear, mm / 100: below 2 mm the next network goes on."""
MARK_WEIGHTS = {"row": 8.0, "start": 8.0, "pulse": 8.0, "label": 50.0}
"""Added to the weight of a cell that a mark covers: most cells have none, and a label covers two or three."""
HEIGHT_SIGMA_BINS = 1.6 / ROW_BIN
"""Width of the aim around the trace, bins: 1.6 px, about half a pen's width."""

WEIGHTS = {
    "coarse_page_loss": 1.0,
    "coarse_frame_loss": 5.0,
    "coarse_turn_loss": 0.3,
    "grid_loss": 2.0,
    "marks_loss": 0.5,
    "height_loss": 1.0,
    "presence_loss": 0.3,
}
"""Term -> weight. The networks share no weights, so that a weight counts within its own network alone."""


class RectifierObjective:
    """The weighted loss of one batch of samples, and its terms."""

    def terms(self, output: ReaderOutput, batch: DeviceSamples) -> dict[str, Tensor]:
        """Every term, unweighted."""
        return {**coarse_terms(output, batch), **page_terms(output, batch), **row_terms(output, batch)}

    def __call__(self, output: ReaderOutput, batch: DeviceSamples, progress: float = 0.0) -> dict[str, Tensor]:
        """All ``*_loss`` terms and their weighted sum ``loss``; the arithmetic is fp32. ``progress`` changes nothing."""
        with torch.autocast(output["page_maps"].device.type, enabled=False):
            terms = self.terms(output, batch)
            terms["loss"] = torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()
        return terms


def coarse_terms(output: ReaderOutput, batch: DeviceSamples) -> dict[str, Tensor]:
    """Page or not, cell by cell; x and y in the frame, on the page; quarter turns."""
    maps, target, turns = _fp32(output["coarse_maps"]), batch["coarse_target"], batch["coarse_turns"]
    page_ok = _like(batch["page_ok"], target)
    page = F.binary_cross_entropy_with_logits(maps[:, :, :1], target[:, :, :1].to(maps.dtype), reduction="none")
    on_page = target[:, :, :1] * page_ok
    frame = F.smooth_l1_loss(maps[:, :, 1:], target[:, :, 1:].to(maps.dtype), beta=FRAME_BETA, reduction="none")
    turn = F.cross_entropy(_fp32(output["coarse_turns"]).flatten(0, 1), turns.flatten(), reduction="none")
    turn = turn.view_as(turns)
    return {
        "coarse_page_loss": _mean(page, page_ok),
        "coarse_frame_loss": _mean(frame, on_page),
        "coarse_turn_loss": _mean(turn, page_ok[:, :, 0, 0, 0] & on_page.flatten(2).any(-1)),
    }


def page_terms(output: ReaderOutput, batch: DeviceSamples) -> dict[str, Tensor]:
    """Vectors of the grid, squared; marks, a sum over their kinds."""
    maps = _fp32(output["page_maps"])
    target = batch["page_target"].to(maps.dtype)
    page_ok = _like(batch["page_ok"], target)
    marks = target[:, GRID:]
    added = [weight for name, weight in MARK_WEIGHTS.items() for _ in range(PAGE_CHANNELS[name])]
    weight = 1 + marks.new_tensor(added)[:, None, None] * marks
    divergence = (_divergence(maps[:, GRID:], marks) * weight).sum(1, keepdim=True)
    return {
        "grid_loss": _mean((maps[:, :GRID] - target[:, :GRID]).square(), page_ok),
        "marks_loss": _mean(divergence, page_ok),
    }


def row_terms(output: ReaderOutput, batch: DeviceSamples) -> dict[str, Tensor]:
    """The height, in columns whose trace lies in the window; whether there is a trace."""
    logits, height = _fp32(output["row_heights"]), batch["row_height"]
    page_ok = batch["page_ok"][:, None]
    bins = torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype)[:, None]
    at = (height.to(logits.dtype).nan_to_num() - (ROW_BIN - 1) / 2) / ROW_BIN  # in bins
    log_aim = (-0.5 * ((bins - at[:, None]) / HEIGHT_SIGMA_BINS).square()).log_softmax(1)
    divergence = F.kl_div(logits.log_softmax(1), log_aim, reduction="none", log_target=True).sum(1)
    trace = batch["row_trace"].to(logits.dtype)
    presence = F.binary_cross_entropy_with_logits(_fp32(output["row_presence"]), trace, reduction="none")
    return {"height_loss": _mean(divergence, in_window(height) & page_ok), "presence_loss": _mean(presence, page_ok)}


def in_window(height: Tensor) -> Tensor:
    """Columns whose ink lies inside the row's window: bool like ``height``."""
    return torch.isfinite(height) & (height > 0) & (height < ROW_HEIGHT - 1)


@torch.no_grad()
def reader_errors(output: ReaderOutput, batch: DeviceSamples) -> dict[str, Tensor]:
    """Errors of this rank's rows, one value for each item that has a truth: 1-D tensors of various lengths.

    Returns:
        ``coarse_across_mm``, ``coarse_down_mm``: of cells on the page, along the frame's axes; ``turn_right``: of pictures,
        0 or 1; ``grid_mm``: phase of the 5 mm lines, of cells with a grid, both directions; ``grid_length_5mm``,
        ``grid_length_1mm``: of the vectors there, 1 = certain; ``height_mm``: of columns with a trace in the window;
        ``presence_right``: of columns, 0 or 1.
    """
    ok, height = batch["page_ok"], batch["row_height"]
    maps, truth = output["coarse_maps"].float(), batch["coarse_target"]
    on_page = (truth[:, :, 0] > 0) & ok[:, None, None, None]
    frame_mm = FRAME_UNIT_MM * (maps[:, :, 1:] - truth[:, :, 1:]).abs()
    turns = (output["coarse_turns"].argmax(-1) == batch["coarse_turns"])[on_page.flatten(2).any(-1)]
    page, page_truth = output["page_maps"].float(), batch["page_target"]
    gridded = (page_truth[:, :GRID].abs().amax(1) > 0) & ok[:, None, None]
    grid = [_phase_error_mm(page[:, k : k + 2], page_truth[:, k : k + 2])[gridded] for k in (0, 2)]
    inside = in_window(height) & ok[:, None]
    predicted, _ = heights(output["row_heights"])
    presence = (output["row_presence"] > 0) == batch["row_trace"]
    return {
        "coarse_across_mm": frame_mm[:, :, 0][on_page],
        "coarse_down_mm": frame_mm[:, :, 1][on_page],
        "turn_right": turns.float(),
        "grid_mm": torch.cat(grid),
        "grid_length_5mm": page[:, :2].norm(dim=1)[gridded],
        "grid_length_1mm": page[:, 4:6].norm(dim=1)[gridded],
        "height_mm": (predicted - height).abs()[inside] / ROW_PX,
        "presence_right": presence[ok].flatten().float(),
    }


def summarise(errors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means of ``reader_errors``, each of shape (), and medians (``*_median_mm``) of the grid's and the trace's; 0 where none."""
    zero = next(iter(errors.values())).new_zeros(())
    means = {name: values.mean() if len(values) else zero for name, values in errors.items()}
    medians = {name: errors[name].median() if len(errors[name]) else zero for name in ("grid_mm", "height_mm")}
    return means | {f"{name.removesuffix('_mm')}_median_mm": value for name, value in medians.items()}


def _phase_error_mm(vector: Tensor, truth: Tensor) -> Tensor:
    """(N, 2, h, w) twice -> (N, h, w): how far the 5 mm lines are from where they are said to be."""
    turn = torch.atan2(vector[:, 1], vector[:, 0]) - torch.atan2(truth[:, 1], truth[:, 0])
    return ((turn + math.pi) % (2 * math.pi) - math.pi).abs() * MAJOR_MM / (2 * math.pi)


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Of a chance from its target in 0..1; 0 where they agree."""
    entropy = torch.special.entr(target) + torch.special.entr(1 - target)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none") - entropy


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """Over all ranks; ``weight`` is broadcast to ``values``."""
    weight = weight.to(values.dtype).expand_as(values)
    return global_mean((values * weight).sum(), weight.sum())


def _like(ok: Tensor, values: Tensor) -> Tensor:
    """(N,) with as many axes as ``values``, broadcastable to it but for the second axis of pictures."""
    return ok.view(-1, *[1] * (values.ndim - 1))


def _fp32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
