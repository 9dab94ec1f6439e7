"""What a room loads: users of one room must not pay for the others."""

from __future__ import annotations

import re
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
        ("ecgscan_ray.runs.opening", {"torch", "ray"}),
        ("ecgscan_ray.runs.metrics", {"torch", "ray", "wandb", "mlflow"}),
        ("ecgscan_ray.runtime.stream", {"torch", "timm", "transformers", "sklearn"}),
        ("ecgscan_ray.runtime.prepare", {"torch", "timm", "transformers", "sklearn"}),
        ("ecgscan_ray.reading.maker", {"torch", "ray"}),
        ("ecgscan_ray.encoder", {"ray"}),
        ("ecgscan_ray.pictures", {"torch", "ray", "pypdfium2", "pi_heif"}),
        ("ecgscan_ray.digitise", {"torch", "ray", "wfdb", "matplotlib", "sklearn", "transformers"}),
        ("ecgscan_ray.evaluation.find", {"ray", "sklearn", "transformers", "matplotlib"}),
        ("ecgscan_ray", {"torch", "ray", "numpy", "typer"}),
        ("ecgscan_ray.cli", {"torch", "ray", "numpy", "pydantic"}),
    ],
)
def test_a_room_loads_only_what_it_needs(module: str, forbidden: set[str]) -> None:
    code = f"import sys, {module}; print(*sorted({forbidden!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == []


def test_the_package_offers_its_front_doors() -> None:
    import ecgscan_ray
    from ecgscan_ray.digitise import read_page
    from ecgscan_ray.encoder import load_encoder
    from ecgscan_ray.paper import Renderer

    assert ecgscan_ray.load_encoder is load_encoder
    assert ecgscan_ray.Renderer is Renderer
    assert ecgscan_ray.read_page is read_page
    assert {"load_encoder", "read_page", "Renderer"} <= set(dir(ecgscan_ray))
    with pytest.raises(AttributeError, match="no attribute 'load_model'"):
        ecgscan_ray.load_model  # noqa: B018


def test_rays_internals_are_used_in_one_file() -> None:
    pattern = re.compile(r"\bray\b[\w.]*\._(private|internal)")
    files = [path.name for path in (ROOT / "ecgscan_ray").rglob("*.py") if pattern.search(path.read_text())]
    assert files == ["ray_quirks.py"]
