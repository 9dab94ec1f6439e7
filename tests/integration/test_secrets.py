"""No credential in anything that the commands write or print: files, logs, Ray's session, standard output and error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ecgscan_ray.filesystem import join, list_files, read_bytes
from tests.tiny import TINY

pytestmark = pytest.mark.verify

KEY, SECRET, PASSWORD = "AKIAHUSHHUSHHUSHHUSH", "hush/hush+Secret/0123456789abcdefghijklm", "hushPassword77"


@pytest.fixture
def session(alone: None) -> Iterator[Path]:
    """A folder of its own for Ray, with a short name, since sockets lie below it."""
    folder = Path(tempfile.mkdtemp(prefix="hs-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run(environment: dict[str, str], *arguments: str, status: int = 0) -> bytes:
    command = [sys.executable, "-c", "from ecgscan_ray.cli import main; main()", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900)
    assert done.returncode == status, done.stdout[-3000:]
    return done.stdout


def test_no_secret_is_written_or_printed(s3_server: str, session: Path, sample_tree: Path, tmp_path: Path) -> None:
    server = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://someone:{PASSWORD}@{server}",
        "RAY_TMPDIR": str(session),
        "TMPDIR": str(session),
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"training": TINY["training"] | {"steps": 3}}))
    store, out, export = (
        join(s3_server, "secrets", "store"),
        join(s3_server, "secrets", "run"),
        str(tmp_path / "encoder"),
    )
    folds = ["--validation-folds", "8", "--test-folds", "9", "--limit", "200"]
    settings = ["--config", str(tmp_path / "tiny.yaml")]
    with_secret = f"s3://{KEY}:{SECRET}@{store.removeprefix('s3://')}"
    printed = [
        run(environment, "prepare", "--source", "ptbxl", "--from", str(sample_tree), "--to", store, *folds),
        run(environment, "inspect", store),
        run(environment, "pretrain", *settings, "--store", store, "--out", out),
        run(environment, "evaluate", out, "--set", "evaluation.bootstrap=20"),
        run(environment, "export", out, export),
        run(environment, "doctor", "--store", store),
        run(environment, "inspect", with_secret, status=2),
        run(environment, "inspect", f"{store}?secret_key={SECRET}", status=2),
        run(environment, "pretrain", *settings, "--store", with_secret, "--out", out, status=2),
        run(environment, "pretrain", *settings, "--store", store, "--out", with_secret, status=2),
        run(environment, "config", *settings, "--set", f"teacher.run={with_secret}", status=2),
        run(environment | {"AWS_ENDPOINT_URL": f"http://someone:{PASSWORD}@127.0.0.1:1"}, "inspect", store, status=2),
    ]
    written = {f"printed {number}": text for number, text in enumerate(printed)}
    for place in (join(s3_server, "secrets"), str(tmp_path), str(session)):
        written |= dict(_files(place))
    assert len(written) > 50
    secrets = [word.encode() for word in (KEY, SECRET, PASSWORD)]
    assert not [place for place, content in written.items() if any(secret in content for secret in secrets)]


def _files(place: str) -> Iterator[tuple[str, bytes]]:
    if place.startswith("s3://"):
        for name in list_files(place, recursive=True):
            yield join(place, name), read_bytes(join(place, name))
        return
    for path in Path(place).rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield str(path), path.read_bytes()
