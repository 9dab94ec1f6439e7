"""Each source reads from a bucket, and those with a table from a plain web server, what it reads from a folder."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from pyarrow import fs

from ecgscan_ray.filesystem import open_filesystem
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources import open_source
from tests.archives import MAKERS
from tests.unit.recording.test_formats import UV, state, write_dicom, write_edf


def read_all(kind: str, root: str) -> list[Recording]:
    source, archive = open_source(kind, None), ArchiveFiles(root)
    return sorted((source.read(item, archive) for item in source.list_records(archive)), key=lambda found: found.id)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_same_recordings(kind: str, s3_server: str, tmp_path: Path) -> None:
    MAKERS[kind](tmp_path, 9)
    if kind == "folder":
        state(tmp_path, UV)
        write_edf(tmp_path / "a.edf")
        write_dicom(tmp_path / "b.dcm")
        np.save(tmp_path / "c.npy", np.zeros((5000, 12), np.int16))
    bucket = f"{s3_server}/sources/{kind}"
    fs.copy_files(str(tmp_path), open_filesystem(bucket)[1], destination_filesystem=open_filesystem(bucket)[0])
    check_same(read_all(kind, str(tmp_path)), read_all(kind, bucket), 9 + 3 * (kind == "folder"))


class Silent(SimpleHTTPRequestHandler):
    """Python's own server, which knows no ranges: each piece of a file comes as the whole file."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("kind", ["mimic-iv-ecg", "code15"])
def test_the_same_recordings_of_a_web_server(kind: str, tmp_path: Path) -> None:
    MAKERS[kind](tmp_path, 9)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        there = read_all(kind, f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
    check_same(read_all(kind, str(tmp_path)), there, 9)


def check_same(here: list[Recording], there: list[Recording], count: int) -> None:
    assert len(here) == count
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.signal_mv, other.signal_mv)
        for name in ("id", "patient_id", "report", "labels", "age", "sex", "fs", "notes"):
            assert getattr(one, name) == getattr(other, name)
