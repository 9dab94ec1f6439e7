"""Each source reads from a bucket what it reads from a folder."""

from __future__ import annotations

from pathlib import Path

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
    here, there = read_all(kind, str(tmp_path)), read_all(kind, bucket)
    assert len(here) == 9 + 3 * (kind == "folder")
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one.signal_mv, other.signal_mv)
        for name in ("id", "patient_id", "report", "labels", "age", "sex", "fs", "notes"):
            assert getattr(one, name) == getattr(other, name)
