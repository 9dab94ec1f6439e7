"""Unpack the shipped sample as PhysioNet publishes PTB-XL: ``python -m ecgscan_ray.data.unpack DIR``.

Writes ``ptbxl_database.csv``, ``scp_statements.csv``, ``records100/00000/00001_lr.hea`` and ``.dat`` (WFDB format 16,
1000 steps per mV), and the licence. Samples, headers and rows are those of the original.
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecgscan_ray.errors import InputError
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.store.schema import unpack_signals

SAMPLE = Path(__file__).parent / "ptbxl_sample.parquet"
FS = 100
VALIDATION_FOLDS = (8,)
TEST_FOLDS = (9,)

LAW_BREAKERS: dict[int, float] = {6017: 3050.5}
"""Recordings of the sample that violate the lead laws by more than 2 uV: ecg_id -> residual in uV."""


def unpack_sample(folder: str | Path) -> Path:
    """Write the sample's tree into ``folder`` (made where absent) and give its path.

    Files that are already there are written again; the table comes last, so that a tree without it is not complete.

    Raises:
        InputError: ``folder`` cannot be written.
    """
    target = Path(folder)
    table = pq.read_table(SAMPLE)
    columns = [name for name in table.column_names if pq.read_schema(SAMPLE).field(name).type == "string"]
    rows = table.select(columns).to_pylist()
    write_tree(target, columns, rows, (np.rint(signal * 1000).astype("<i2") for signal in unpack_signals(table)))
    return target


def write_tree(
    target: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]], samples: Iterable[NDArray[np.int16]]
) -> None:
    """Write records, statements, licence, and last the table.

    Args:
        target: Folder, made where absent.
        columns: Of the table.
        rows: Of the table; ``filename_lr`` is where a record goes.
        samples: (12, T) in uV, one array for each row.

    Raises:
        InputError: ``target`` cannot be written.
    """
    try:
        for parent in {(target / row["filename_lr"]).parent for row in rows}:
            parent.mkdir(parents=True, exist_ok=True)
        for row, counts in zip(rows, samples, strict=True):
            _write_record(target / row["filename_lr"], counts)
        for name in ("scp_statements.csv", "LICENSE-PTBXL.md"):
            shutil.copyfile(SAMPLE.parent / name, target / name)
        with open(target / "ptbxl_database.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=target) from None


def _write_record(path: Path, counts: NDArray[np.int16]) -> None:
    """One record of WFDB format 16 from (12, T) samples in uV."""
    name = path.name
    lines = [f"{name} {len(LEADS)} {FS} {counts.shape[1]}"]
    for lead, samples in zip(LEADS, counts, strict=True):
        checksum = int(samples.sum(dtype=np.int64)) % 65536
        # PTB-XL writes AVR, AVL, AVF
        lines.append(f"{name}.dat 16 1000.0(0)/mV 16 0 {samples[0]} {checksum} 0 {lead.upper()}")
    path.with_name(f"{name}.hea").write_text("\n".join(lines) + "\n", encoding="ascii")
    path.with_name(f"{name}.dat").write_bytes(np.ascontiguousarray(counts.T).tobytes())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(unpack_sample(sys.argv[1]))
