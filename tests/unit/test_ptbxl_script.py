"""``scripts/ptbxl.sh`` with a stand-in for ``ecgscan``: the steps in their order, a stretch that ends, and the next one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "ptbxl.sh"
STAND_IN = """#!/usr/bin/env bash
echo "$1" >> calls
case "$1" in
  teach) if [ -f slow ]; then trap 'kill $!; exit 130' INT; sleep 60 & wait; fi ;;
  benchmark) mkdir -p out/benchmark; echo '{}' > out/benchmark/benchmark.json ;;
esac
[ ! -f "fail-$1" ]
"""


def run(folder: Path, *words: str) -> tuple[int, list[str]]:
    """Status, and the verbs that were called."""
    path = f"{folder}:{os.environ['PATH']}"
    (folder / "calls").unlink(missing_ok=True)
    done = subprocess.run(
        [SCRIPT, *words], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, timeout=50, check=False
    )
    calls = folder / "calls"
    return done.returncode, calls.read_text().split() if calls.exists() else []


def test_stretches_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "ecgscan").write_text(STAND_IN)
    (tmp_path / "ecgscan").chmod(0o755)
    for store in ("store", "sample-store"):
        (tmp_path / "out" / store).mkdir(parents=True)
        (tmp_path / "out" / store / "manifest.json").write_text("{}")
    (tmp_path / "out" / "generic").mkdir()
    (tmp_path / "out" / "generic" / "model.safetensors").touch()
    assert run(tmp_path) == (2, [])
    (tmp_path / "slow").touch()
    assert run(tmp_path, "data", "out", "5") == (75, ["teach"])  # bash counts whole seconds, and CI may be slow
    (tmp_path / "slow").unlink()
    (tmp_path / "fail-pretrain").touch()
    assert run(tmp_path, "data", "out", "40") == (1, ["teach", "pretrain"])
    (tmp_path / "fail-pretrain").unlink()
    trained = ["finetune"] * 10
    encoders = ["teach", "pretrain", "pretrain", "pretrain"]
    assert run(tmp_path, "data", "out", "40") == (0, [*encoders, "benchmark", *trained, "benchmark"])
    again = [*encoders, *trained, "benchmark"]
    assert run(tmp_path, "data", "out", "40") == (0, again), "the first benchmark is not repeated"
    assert (tmp_path / "docs" / "results" / "ptbxl.json").exists()
