"""A model and settings small enough for tests: the real code, tiny numbers, no batch norm."""

from __future__ import annotations

from typing import Any

from ecgscan_ray.config import Config, build, merge

TINY: dict[str, Any] = {
    "page": {"height": 96, "width": 128, "strength": 0.3},
    "stream": {"unit_rows": 6, "window_row_groups": 2},
    "model": {
        "embed_dim": 16,
        "timing_dim": 4,
        "image": {
            "name": "convnext_atto",
            "kwargs": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16], "ls_init_value": None},
        },
        "signal": {"width": 8, "depth": 2},
        "text": {"width": 16, "depth": 1, "heads": 2, "max_length": 16, "vocab_size": 300, "dropout": 0.0},
        "decoder": {"width": 16, "columns_per_s": 25, "sample_rows": 24},
    },
    "training": {
        "global_batch_size": 12,
        "steps": 6,
        "warmup_steps": 2,
        "log_every": 1,
        "checkpoint_every": 2,
        "validation_rows": 24,
        "sinks": [],
    },
    "resources": {"render_actors": 1, "cpus_per_worker": 0.5, "torch_threads": 1, "max_failures": 2},
}


def tiny_config(**dotted: Any) -> Config:
    """``TINY`` with dotted keys changed (``__`` for the dot)."""
    changes = {key.replace("__", "."): value for key, value in dotted.items()}
    return build(Config, merge(TINY, changes), where="tests/tiny.py")


TINY_READER: dict[str, Any] = {
    "page.height": 300,
    "page.width": 400,
    "page.channels": 3,
    "page.fit": "pad",
    "rectifier": {
        "pages": [{"share": 3}, {"share": 1, "page": {"effects": "clean", "gains": {5: 1}, "speeds": {50: 1}}}]
    },
    "stream.unit_rows": 1,
    "training.global_batch_size": 2,
    "training.validation_rows": 2,
    "evaluation.batch_size": 2,
}


def tiny_reader_config(**dotted: Any) -> Config:
    """The same for the rectifier: pages of two kinds, small; its networks have one size alone."""
    changes = {key.replace("__", "."): value for key, value in dotted.items()}
    return build(Config, merge(TINY, {**TINY_READER, **changes}), where="tests/tiny.py")
