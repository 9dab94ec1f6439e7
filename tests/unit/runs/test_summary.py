"""The sentence at the end of a run names what took most of its time."""

from __future__ import annotations

import pytest

from ecgscan_ray.runs.summary import run_summary
from ecgscan_ray.training.timing import PHASES


def line(step: int, steps: int, **seconds: float) -> dict[str, object]:
    phases = {f"{phase}_s": seconds.get(phase, 0.0) for phase in PHASES}
    step_s = sum(phases.values())
    figures = {"images_per_s": 10 / step_s, "model_tflops": 0.5, "peak_memory_mb": 100.0 * step}
    return {"kind": "train", "step": step, "step_s": step_s, "seconds": steps * step_s, **phases, **figures}


@pytest.mark.parametrize(
    ("phases", "cause"),
    [
        ({"data_wait": 1.1, "forward": 0.5, "backward": 0.5}, "waiting for data"),
        ({"data_wait": 0.9, "forward": 0.5, "backward": 0.5}, "the model"),
        ({"communication": 2.0, "backward": 0.5}, "communication"),
    ],
)
def test_the_largest_share_is_the_limit(phases: dict[str, float], cause: str) -> None:
    summary = run_summary([line(1, 1, **phases)])
    assert summary is not None and summary.startswith(f"limited by {cause}: ")


def test_lines_count_by_their_steps_and_time() -> None:
    """One slow step, nine fast ones: 2.9 s for ten steps of ten rows."""
    summary = run_summary([line(1, 1, data_wait=2.0), line(10, 9, forward=0.1)])
    assert summary == (
        "limited by waiting for data: 0.29 s a step (waiting for data 69 %, the model 31 %); 34 rows/s, 0.5 TFLOP/s a worker, "
        "1000 MB a worker at most"
    )
    assert run_summary([{"kind": "validation", "step": 1}]) is None
