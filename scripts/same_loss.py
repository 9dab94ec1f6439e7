"""Do two versions of the code train alike?  Losses of 20 steps of the laptop preset and of a teacher, to the last bit.

    python scripts/same_loss.py run before.json      # with one version installed (or on PYTHONPATH)
    python scripts/same_loss.py run after.json       # with the other one, on the same machine
    python scripts/same_loss.py compare before.json after.json

Arithmetic is fp32 on one thread. Every step is logged; ``compare`` leaves with 1 where any loss or gradient norm differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

STEPS = 20
EXACT = {
    "training.steps": STEPS,
    "training.precision": "fp32",
    "training.log_every": 1,
    "training.checkpoint_every": STEPS,
    "training.validation_rows": 0,
    "resources.torch_threads": 1,
}
ECGSCAN = [sys.executable, "-c", "from ecgscan_ray.cli import main; main()"]


def losses(verb: str, store: Path, out: Path) -> list[dict[str, float]]:
    """One line a step: every ``loss``, ``*_loss`` and ``grad_norm`` that the run logged."""
    settings = [part for key, value in EXACT.items() for part in ("--set", f"{key}={value}")]
    command = [*ECGSCAN, verb, "--preset", "laptop", "--store", str(store), "--out", str(out), *settings]
    subprocess.run(command, check=True, stdout=sys.stderr)
    lines = [
        json.loads(line)
        for part in sorted((out / "metrics").glob("part-*.jsonl"))
        for line in part.read_text().splitlines()
    ]
    return [
        {name: value for name, value in line.items() if name.endswith("loss") or name in ("step", "grad_norm")}
        for line in lines
        if "loss" in line
    ]


def run(out: Path) -> None:
    with TemporaryDirectory() as folder:
        archive, store = Path(folder, "archive"), Path(folder, "store")
        subprocess.run([sys.executable, "-m", "ecgscan_ray.data.unpack", str(archive)], check=True, stdout=sys.stderr)
        prepare = ["prepare", "--source", "ptbxl", "--from", str(archive), "--to", str(store)]
        folds = ["--validation-folds", "8", "--test-folds", "9"]
        subprocess.run([*ECGSCAN, *prepare, *folds], check=True, stdout=sys.stderr)
        steps = {verb: losses(verb, store, Path(folder, verb)) for verb in ("pretrain", "teach")}
    out.write_text("\n".join(json.dumps({"run": verb, **line}) for verb in steps for line in steps[verb]) + "\n")


def compare(before: Path, after: Path) -> int:
    """0 = equal to the last bit."""
    old, new = (path.read_text().splitlines() for path in (before, after))
    different = [(a, b) for a, b in zip(old, new, strict=False) if json.loads(a) != json.loads(b)]
    for a, b in different[:4]:
        print(f"- {a}\n+ {b}")
    same = not different and len(old) == len(new) == 2 * STEPS
    print(f"{len(old)} and {len(new)} steps logged, {len(different)} differ: {'the same' if same else 'NOT the same'}")
    return 0 if same else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("run").add_argument("out", type=Path)
    verbs.add_parser("compare").add_argument("files", type=Path, nargs=2)
    arguments = parser.parse_args()
    if arguments.verb == "run":
        run(arguments.out)
    else:
        sys.exit(compare(*arguments.files))
