"""Pages written and pictures read by several processes are those of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecgscan_ray.config import PageConfig
from ecgscan_ray.encoder import embed_folder
from ecgscan_ray.errors import InputError, RecordingError
from ecgscan_ray.paper.write import OutputOptions, write_pages
from tests.encoders import exported_encoder, save_pictures
from tests.unit.paper.pages import sheet


def test_many_processes_write_the_same_files(tmp_path: Path) -> None:
    recordings = [sheet(seed=i, name=f"a/{i}") for i in range(9)]
    page, counts = PageConfig(effects="photo"), []
    one = write_pages(recordings, OutputOptions(tmp_path / "one", views=4), page, 3)
    two = write_pages(recordings, OutputOptions(tmp_path / "two", views=4), page, 3, workers=2, progress=counts.append)
    assert [p.name for p in one] == [p.name for p in two]
    assert len(set(one)) == 36
    assert counts == [16, 32, 36]
    for a, b in zip(one, two, strict=True):
        assert a.read_bytes() == b.read_bytes()
        assert a.with_suffix(".json").read_text() == b.with_suffix(".json").read_text()


def test_a_recording_that_cannot_be_drawn_stops_all_processes_with_its_name(tmp_path: Path) -> None:
    bad = sheet(name="a/bad")
    bad.signal_mv[:] = np.nan
    with pytest.raises(RecordingError, match="a/bad"):
        write_pages([sheet(), bad], OutputOptions(tmp_path), PageConfig(), 0, workers=2)


def test_a_folder_read_by_processes_gives_the_same_table(tmp_path: Path) -> None:
    exported = exported_encoder(tmp_path)
    pictures = save_pictures(tmp_path / "pictures", 5)
    calls: list[tuple[int, int]] = []
    one, two = pictures / "one.parquet", pictures / "two.parquet"
    embed_folder(str(exported), pictures, one)
    embed_folder(str(exported), pictures, two, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert pq.read_table(one).equals(pq.read_table(two))
    assert calls == [(number, 6) for number in range(1, 7)]
    with pytest.raises(InputError, match="workers"):
        embed_folder(str(exported), pictures, two, workers=0)
