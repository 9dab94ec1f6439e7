"""Write the reader's weights that come with the package from a run of ``ecgscan rectifier``: its averaged networks, in fp16.

    python tools/make_weights.py RUN [--to FILE] [--which best|last]

The metadata of the file name the commit of the run, the digests of its settings and store, step and score.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ecgscan_ray.data import reader_weights
from ecgscan_ray.filesystem import absolute
from ecgscan_ray.reading.weights import load_networks, save_networks
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.tasks.loading import load_rectifier


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="URI of a run of 'ecgscan rectifier'")
    parser.add_argument("--to", type=Path, default=reader_weights())
    parser.add_argument("--which", choices=("best", "last"), default="best")
    arguments = parser.parse_args()
    make_weights(absolute(arguments.run), arguments.to, arguments.which)
    print(f"{arguments.to}  ({arguments.to.stat().st_size / 1e6:.1f} MB)")


def make_weights(run: str, to: Path, which: str = "best") -> None:
    """Write the file, and read it back."""
    loaded = load_rectifier(run, "last" if which == "last" else "best")
    environment = RunFolder(run).environment()
    facts = {
        "commit": environment.get("git_revision") or "unknown",
        "run_digest": loaded.state.config_digest,
        "manifest_digest": str(environment.get("manifest_digest")),
        "step": str(loaded.state.step),
        "score": str(loaded.state.score),
        "licence": "Apache-2.0",
    }
    to.parent.mkdir(parents=True, exist_ok=True)
    save_networks(loaded.model.ema.state_dict(), to, facts)
    load_networks(to)


if __name__ == "__main__":
    main()
