"""``python -m benchmarks [name ...]``: run benchmarks, print one flat JSON object, write it to bench.json.

A benchmark is a file ``bench_<name>.py`` here with ``run() -> dict[str, float]``; its figures are prefixed ``<name>.``, or with
the module's ``PREFIX``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: no benchmark named '{unknown[0]}'. There are: {', '.join(known) or 'none'}", file=sys.stderr)
        return 2
    figures: dict[str, object] = {}
    for name in names or known:
        with contextlib.redirect_stdout(sys.stderr):  # stdout carries the JSON alone
            bench = importlib.import_module(f"benchmarks.bench_{name}")
            prefix = getattr(bench, "PREFIX", name)
            result = bench.run()
        figures.update(
            {key if key.startswith(f"{prefix}.") else f"{prefix}.{key}": value for key, value in result.items()}
        )
    text = json.dumps(figures, indent=1)
    Path("bench.json").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
