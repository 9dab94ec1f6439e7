"""One sentence on where the time of a run went, and what it was limited by."""

from __future__ import annotations

from collections.abc import Sequence

from ecgscan_ray.runs.metrics import Line

CAUSES = {
    "waiting for data": ("data_wait_s",),
    "the copy to the device": ("host_to_device_s",),
    "the model": ("forward_s", "loss_s", "backward_s"),
    "communication": ("communication_s",),
    "the optimiser": ("optimizer_s",),
    "metrics, validation and checkpoints": ("other_s",),
}
"""What may limit a run, and the phases of a step behind it."""


def run_summary(lines: Sequence[Line]) -> str | None:
    """Shares of the time, throughput, use of the device, memory; none where no step was timed.

    Args:
        lines: Metric lines of the run.
    """
    train = [line for line in lines if line["kind"] == "train" and line.get("step_s") and "forward_s" in line]
    if not train:
        return None
    steps = [line["seconds"] / line["step_s"] for line in train]

    def mean(name: str) -> float:
        return sum(line.get(name, 0.0) * count for line, count in zip(train, steps, strict=True)) / sum(steps)

    seconds = {cause: sum(mean(phase) for phase in phases) for cause, phases in CAUSES.items()}
    total = sum(seconds.values())
    shares = ", ".join(
        f"{cause} {100 * each / total:.0f} %" for cause, each in seconds.items() if each >= 0.005 * total
    )
    used = f"{100 * mean('mfu'):.0f} % MFU" if "mfu" in train[-1] else f"{mean('model_tflops'):.3g} TFLOP/s a worker"
    rows = sum(line["images_per_s"] * line["seconds"] for line in train) / sum(line["seconds"] for line in train)
    limit = max(seconds, key=lambda cause: seconds[cause])
    return (
        f"limited by {limit}: {total:.3g} s a step ({shares}); {rows:.0f} rows/s, {used}, "
        f"{max(line['peak_memory_mb'] for line in train):.0f} MB a worker at most"
    )
