"""Every command of the documentation that a laptop can run is run, in the order of the pages, with small settings.

A command keeps its words. Its paths lead into a folder of the test and its bucket to a local S3 server (``PLACES``), and
what makes it small is appended (``SMALLER``): the last value of a setting counts. What cannot run here has its reason in
``NOT_RUN``. The Python examples are run by ``tests/unit/docs``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ecgscan_ray.cli import app
from ecgscan_ray.config import PageConfig
from ecgscan_ray.filesystem import join, list_files
from ecgscan_ray.paper import Renderer
from ecgscan_ray.reading.read_pages import legible
from tests.records import heart_uv, recording, write_record
from tests.unit.docs.pages import PAGES, blocks, commands

SMALL_RUN = (
    *(
        "training.global_batch_size=12",
        "stream.unit_rows=6",
        "training.checkpoint_every=2",
        "training.validation_rows=12",
    ),
    *("training.warmup_steps=0", "page.height=96", "page.width=128", "resources.render_actors=1"),
)
SMALL_TRIALS = tuple(f"base_overrides.{setting}" for setting in (*SMALL_RUN, "training.steps=2"))
SMALL_REPORT = ("evaluation.bootstrap=20", "evaluation.probe_views=1", "evaluation.probe_rows=24")


def settings(*changes: str) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


SMALLER: dict[tuple[str, ...], list[str]] = {
    ("prepare", "ptbxl"): ["--limit", "40"],
    ("render", "gpu"): ["--count", "2", "--workers", "1", *settings("page.height=168", "page.width=168")],
    ("pretrain", "--dry-run"): settings(
        "training.global_batch_size=16", "resources.num_workers=1", "stream.unit_rows=4"
    ),
    ("pretrain", "training.steps=2000"): settings(*SMALL_RUN, "training.steps=4"),
    ("pretrain",): settings(*SMALL_RUN, "training.steps=2"),
    ("teach",): settings(*SMALL_RUN, "training.steps=2"),
    ("evaluate",): settings(*SMALL_REPORT),
    ("sweep",): settings(*SMALL_TRIALS, "trials=1"),
    ("ablate",): settings(
        *(*SMALL_TRIALS, *(f"base_overrides.{setting}" for setting in SMALL_REPORT), "seeds=[0]", "baseline={}"),
        "arms={gram + pair: {}, gram alone: {objective.pair_weight: 0}}",
    ),
}
"""Words of a command -> what is appended; the first row whose words it has counts."""

NOT_RUN = {
    "make install": "installs all packages",
    "make demo": "ten minutes; prepare, pretrain and evaluate are run here",
    "make test": "is the suite itself",
    "make unit": "is a part of the suite",
    "make lint": "is a step of its own beside the tests",
    "pip install": "installs packages",
    "ray up": "rents machines; the file is checked in tests/unit/cluster",
    "ray dashboard": "needs a rented cluster",
    "ray job submit": "needs a cluster; the same jobs run on a local one in tests/integration/test_jobs.py",
    "aws ec2": "changes an account",
    "scripts/ptbxl.sh": "hours; tests/unit/data/test_ptbxl_tree.py makes such a tree, and each verb is run here",
    "ecgscan digitise": "needs scans; tests/integration/test_digitise.py runs it, test_read_page.py the networks",
    "ecgscan find": "needs pages of the store's recordings as files; tests/integration/test_find.py draws and finds some",
    "ecgscan benchmark": "tests/integration/test_benchmark.py runs it",
    "ecgscan finetune": "tests/integration/test_finetune.py runs it",
    "ecgscan export /data/superclass": "needs a fine-tuned run; tests/integration/test_finetune.py exports one",
    "ecgscan rectifier": "three hours; tests/integration/runtime/test_rectifier.py runs it for some steps",
    "python tools/make_weights.py": "needs a trained run; tests/integration/runtime/test_rectifier.py runs it",
}
"""Beginning of a command -> why it is not run here."""

LONG = (
    ("pretrain", "training.steps=2000"),
    ("pretrain", "--init-from"),
    ("pretrain", "model.input=image"),
    ("export", "--onnx"),
    ("ablate",),
    ("sweep",),
    ("teach",),
    ("pretrain", "--teacher"),
)
"""Words of the commands that ``make verify`` runs: together they train nine times."""


@dataclass(frozen=True)
class Places:
    """Where ``/data`` and ``s3://bucket`` of the documentation lie here."""

    data: Path
    bucket: str

    def __call__(self, word: str) -> str:
        return word.replace("/data/", f"{self.data}/").replace("s3://bucket", self.bucket)


@pytest.fixture
def places(tmp_path: Path, ray_cluster: None, s3_server: str, sample_tree: Path) -> Places:
    """An archive as a user has it, PTB-XL's sample, and a bucket."""
    data = tmp_path / "data"
    reports = ("sinusrhythmus normales ekg", "linksschenkelblock", "vorhofflimmern")
    rows = [
        f"r{n},p{n},{reports[n % 3]},{'train' if n < 24 else 'validation' if n < 36 else 'test'}" for n in range(60)
    ]
    for n in range(len(rows)):
        write_record(data / "my-ecgs", f"r{n}", heart_uv(seed=n))
    (data / "my-ecgs" / "recordings.csv").write_text("\n".join(["record,patient_id,report,split", *rows]) + "\n")
    (data / "ptb-xl-1.0.3").symlink_to(sample_tree)
    return Places(data, join(s3_server, "documented", tmp_path.name))


def smaller(words: list[str]) -> list[str]:
    return next((added for row, added in SMALLER.items() if set(row) <= set(words)), [])


def is_long(words: Sequence[str]) -> bool:
    return any(set(row) <= set(words) for row in LONG)


def run(words: list[str], places: Places, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a command in a folder; what it printed."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(app, [places(word) for word in [*words, *smaller(words)]])
    assert result.exit_code == 0, f"ecgscan {' '.join(words)}\n{result.output}"
    return result.output


def runnable(long: bool) -> list[tuple[str, list[str]]]:
    """(page, words) of each distinct command of ecgscan, in order."""
    distinct: dict[tuple[str, ...], str] = {}
    for command in commands("ecgscan"):
        distinct.setdefault(command.words, command.id.partition(":")[0])
    excused = tuple(NOT_RUN)
    return [
        (page, list(words))
        for words, page in distinct.items()
        if is_long(words) == long and not f"ecgscan {' '.join(words)}".startswith(excused)
    ]


def test_every_command_is_run_or_has_a_reason() -> None:
    lines = [
        (block.id, line.strip())
        for page in PAGES
        for block in blocks(page, "bash")
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    unknown = [f"{where}: {line}" for where, line in lines if not line.startswith(("ecgscan ", *NOT_RUN))]
    assert not unknown, "run them in this file, or say in NOT_RUN why not:\n" + "\n".join(unknown)
    unused = [beginning for beginning in NOT_RUN if not any(line.startswith(beginning) for _, line in lines)]
    assert not unused


def test_commands_run_in_the_order_of_the_pages(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md" / "pages").mkdir(parents=True)
    (tmp_path / "docs-guide.md" / "pages").mkdir(parents=True)
    scan = Renderer(legible(PageConfig(effects="clean"))).render([recording("1")], np.array([1], np.uint64)).image[0]
    for page in ("README.md", "docs-guide.md"):
        Image.fromarray(scan).save(tmp_path / page / "pages" / "scan.png")
    (tmp_path / "docs-guide.md" / "encoder").symlink_to(
        tmp_path / "README.md" / "encoder"
    )  # its own export is a long one
    for page, words in runnable(long=False):
        run(words, places, tmp_path / page.replace("/", "-"), monkeypatch)
    data = places.data
    assert json.loads((data / "run" / "report.json").read_text())["evaluation.recordings"]["value"] == 24
    assert (data / "run" / "finished.json").exists()
    assert (tmp_path / "README.md" / "features.parquet").exists()
    assert len(list((tmp_path / "docs-pages.md" / "pages").glob("*.jpg"))) == 2
    assert "manifest.json" in list_files(join(places.bucket, "store")), "into the bucket, too"


@pytest.mark.verify
def test_long_commands_run(places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = "prepare --source folder --from /data/my-ecgs --to /data/store"
    for first in (archive, "pretrain --preset laptop --store /data/store --out /data/run"):
        run(first.split(), places, tmp_path, monkeypatch)
    for _, words in runnable(long=True):
        run(words, places, tmp_path, monkeypatch)
    for written in (
        "ablation/report.html",
        "sweep/best.yaml",
        "teacher/finished.json",
        "second/finished.json",
        "aligned/finished.json",
    ):
        assert (places.data / written).exists()
    assert (tmp_path / "picture-encoder" / "encoder.onnx").exists()
