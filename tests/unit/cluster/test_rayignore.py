"""What a job uploads: ``.rayignore`` leaves out folders of the checkout, never those of the same name in the package."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_folders_are_left_out_at_the_top_alone() -> None:
    patterns = [line.strip() for line in (ROOT / ".rayignore").read_text().splitlines() if line.strip()]
    folders = {path.name for path in (ROOT / "ecgscan_ray").rglob("*") if path.is_dir()}
    assert "runs" in folders and "/runs/" in patterns
    assert not [p for p in patterns if not p.startswith("/") and p.strip("/") in folders - {"__pycache__"}]
