"""``ecgscan embed`` by processes and by actors of Ray: bad files, an end at any time, the same table."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgscan_ray.digitise.pool import DIED
from ecgscan_ray.encoder import embed_folder
from ecgscan_ray.filesystem import join, list_files, read_bytes
from ecgscan_ray.runtime.embed import embed
from tests.encoders import exported_encoder, save_pictures
from tests.stores import upload

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, time
from ecgscan_ray.encoder import rows

read_pages = rows.read_pages

def slow_pages(data, where):
    time.sleep(0.05)
    if data == b"DIES":
        os._exit(9)
    return read_pages(data, where)

rows.read_pages = slow_pages  # in the processes too, which import this file
from ecgscan_ray.cli import main

if __name__ == "__main__":
    main()
"""


def assert_same(uri: str, expected: Path, rows: int) -> None:
    """The first rows of a table are those of another one; the number of threads may change the last digits."""
    ours, theirs = pq.read_table(pa.BufferReader(read_bytes(uri))).slice(0, rows), pq.read_table(expected)
    for name in ("path", "error"):
        assert ours[name].to_pylist() == theirs[name].to_pylist()
    for one, other in zip(ours["embedding"].to_pylist(), theirs["embedding"].to_pylist(), strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_killed_command_goes_on_and_a_file_that_ends_its_process_is_a_row(tmp_path: Path) -> None:
    encoder, pictures = exported_encoder(tmp_path), save_pictures(tmp_path / "pictures", 100)
    whole, out, program = tmp_path / "whole.parquet", tmp_path / "out.parquet", tmp_path / "program.py"
    embed_folder(encoder, pictures, whole)
    (pictures / "zz-death.png").write_bytes(b"DIES")
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(program), "embed", encoder, str(pictures), str(out), "--workers", "2"]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("out.parquet.parts/0*.parquet")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("100 pages embedded, 2 skipped (") and "files were done before)" in done.stdout
    assert f"skipped zz-death.png: {DIED}" in done.stderr
    assert_same(str(out), whole, 101)
    assert not Path(f"{out}.parts").exists()


def test_actors_write_the_same_table_after_deaths_and_a_stop(ray_cluster: None, s3_server: str, tmp_path: Path) -> None:
    encoder, pictures = exported_encoder(tmp_path), save_pictures(tmp_path / "pictures", 200)
    embed_folder(encoder, pictures, tmp_path / "whole.parquet")
    place = join(s3_server, "embed")
    upload(pictures, join(place, "pictures"))
    out = join(place, "features.parquet")

    def stop(done: int, total: int) -> None:
        raise RuntimeError(f"stopped at {done} of {total}")

    with pytest.raises(Exception, match=r"stopped at \d+ of 201"):
        embed(encoder, join(place, "pictures"), out, workers=2, progress=stop)
    assert list_files(place) == [] and list_files(f"{out}.parts")
    killed: list[int] = []

    def kill_actors(done: int, total: int) -> None:
        for process in [] if killed else psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # one that has just ended
                if "MakePart" in " ".join(process.cmdline()):
                    process.kill()
                    killed.append(process.pid)

    result = embed(encoder, join(place, "pictures"), out, workers=2, progress=kill_actors)
    assert killed and result.num_files_before > 0
    assert result.embedded == 200 and list(result.errors) == ["torn.png"]
    assert_same(out, tmp_path / "whole.parquet", 201)
    assert list_files(f"{out}.parts") == []
