"""Write all packed PTB-XL recordings as PhysioNet publishes them: ``python -m tools.ptbxl_tree DATA_DIR FOLDER``.

``DATA_DIR`` is that of ``tools.make_sample``. Patients of ``photos/patients_left_out.txt`` are left out: tests with photographs
need them. Rows without a report keep their labels. The tree is for ``ecgscan prepare --source ptbxl``.
"""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgscan_ray.data.unpack import write_tree
from ecgscan_ray.errors import InputError
from tools.make_sample import COLUMNS, Row, column_text, read_samples

_UNKNOWN_LIKELIHOOD = "-1.0"


def trainable(data: Path) -> list[Row]:
    """Rows of patients who may be trained on, shard by shard.

    Raises:
        InputError: ``data`` is not such a folder.
    """
    table = data / "ptbxl" / "database.csv.gz"
    if not table.is_file():
        raise InputError("no ptbxl/database.csv.gz", where=data)
    left_out = set((data / "photos" / "patients_left_out.txt").read_text().split())
    with gzip.open(table, "rt", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["patient_id"] not in left_out]
    return sorted(rows, key=lambda row: (row["shard"], int(row["ecg_id"])))


def original(row: Row) -> Row:
    """The row with the columns of the original table; a likelihood that is not known is 0, as there."""
    columns = {name: column_text(row, name) for name in COLUMNS}
    return columns | {"scp_codes": row["scp_codes"].replace(_UNKNOWN_LIKELIHOOD, "0.0")}


def _samples(data: Path, rows: Sequence[Row]) -> Iterator[NDArray[np.int16]]:
    """(12, 1000) in uV of each row; one shard in memory at a time."""
    for _, of_shard in groupby(rows, key=lambda row: row["shard"]):
        members = list(of_shard)
        samples = read_samples(data, members)
        yield from (samples[row["ecg_id"]].astype("<i2") for row in members)


def make_tree(data: Path, folder: Path) -> int:
    """Write the tree; gives the number of recordings.

    Raises:
        InputError: ``data`` is not such a folder, or ``folder`` cannot be written.
    """
    rows = trainable(data)
    write_tree(folder, COLUMNS, [original(row) for row in rows], _samples(data, rows))
    return len(rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(make_tree(Path(sys.argv[1]), Path(sys.argv[2])), "recordings")
