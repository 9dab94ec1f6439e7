"""What a room loads: users of one room must not pay for the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("ecgscan_ray.paper", {"torch", "ray", "pyarrow"}),
        ("ecgscan_ray.paper.renderer", {"torch", "ray", "pyarrow"}),
        ("ecgscan_ray.text", {"torch", "ray", "transformers"}),
        ("ecgscan_ray.store.shards", {"torch", "ray"}),
        ("ecgscan_ray.encoder", {"ray"}),
        ("ecgscan_ray.cli", {"torch", "ray", "numpy", "pydantic"}),
    ],
)
def test_a_room_loads_only_what_it_needs(module: str, forbidden: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted({forbidden!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == []
