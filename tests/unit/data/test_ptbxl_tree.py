"""Packed recordings become a tree that the source of PTB-XL reads: no patient who is left out, no unknown likelihood."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray.errors import InputError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.sources import open_source
from tests.records import heart_uv, list_items
from tools.make_sample import COLUMNS
from tools.ptbxl_tree import make_tree

READER = """
import numpy as np
import pyarrow as pa

def read(path):
    content = np.load(path, allow_pickle=False)
    return pa.table({"ecg_id": content["ids"]}), content["samples"]
"""


def write_data(folder: Path) -> None:
    """Four recordings in two shards; patient 9 is left out."""
    (folder / "ptbxl").mkdir()
    (folder / "photos").mkdir()
    (folder / "photos" / "patients_left_out.txt").write_text("9\n")
    (folder / "ptbxl" / "read.py").write_text(READER)
    rows = []
    for shard, ids in (("fold1-b.npz", (4, 2)), ("fold1-a.npz", (3, 1))):
        samples = np.stack([heart_uv(seed=number).T for number in ids])
        with open(folder / "ptbxl" / shard, "wb") as file:
            np.savez(file, ids=np.array(ids), samples=samples)
        for number in ids:
            codes = "{'NORM': 100.0}" if number != 2 else "{'SR': -1.0, 'NORM': -1.0}"
            rows.append(
                dict.fromkeys(COLUMNS, "")
                | {"ecg_id": str(number), "patient_id": "9" if number == 3 else str(number), "strat_fold": "1"}
                | {"scp_codes": codes, "sex": "1", "age": "300.0", "shard": shard}
                | {"filename_lr": f"records100/00000/{number:05d}_lr"}
            )
    with gzip.open(folder / "ptbxl" / "database.csv.gz", "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_a_tree_holds_the_samples_and_labels_of_those_who_may_be_trained_on(tmp_path: Path) -> None:
    data, tree = tmp_path / "data", tmp_path / "tree"
    data.mkdir()
    write_data(data)
    assert make_tree(data, tree) == 3
    source = open_source("ptbxl", 100)
    recordings = {r.id: r for r in (source.read(item, ArchiveFiles(tree)) for item in list_items(source, tree))}
    assert set(recordings) == {"1", "2", "4"}
    for number, recording in recordings.items():
        np.testing.assert_array_equal(np.rint(recording.signal_mv * 1000), heart_uv(seed=int(number)))
    assert recordings["2"].labels == {"SR": 0.0, "NORM": 0.0}
    assert recordings["2"].fold == 1


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"database\.csv\.gz"):
        make_tree(tmp_path, tmp_path / "tree")
