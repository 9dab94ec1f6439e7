"""Mutated files of every source but WFDB signals (``test_signals``) and one's own table (``test_tables``), as ``prepare`` reads
them: arrays, EDF, DICOM and HDF5, the tables of published archives, and the settings of a folder.

Most of these formats have no checksum: a changed sample is another sample, and the share is printed.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.recording.sources import open_source
from tests.archives import chapman, cinc2021, code15, mimic_iv_ecg
from tests.fuzz.harness import fuzz, mutate
from tests.records import heart_uv, write_record
from tests.unit.recording.test_formats import state, write_csv, write_dicom, write_edf

pytestmark = pytest.mark.verify

SETTINGS = f"""arrays:
  fs: 500
  units: uV
  leads: [{", ".join(LEADS)}]
"""
Write = Callable[[Path], object]


def _arrays(write: Write) -> Write:
    def make(folder: Path) -> None:
        state(folder, SETTINGS)
        write(folder)

    return make


def _hdf5(folder: Path) -> None:
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("signal", data=heart_uv(fs=500).T, compression="gzip")


def _own(folder: Path) -> None:
    write_record(folder, "a", heart_uv())
    (folder / "liste.csv").write_text("Datei;Befund\na;Sinusrhythmus\n")
    state(folder, "table:\n  file: liste.csv\n  separator: ';'\n  columns: {record: Datei, report: Befund}\n")


KINDS: dict[str, tuple[str, Write, str, int]] = {
    "npy": ("folder", _arrays(lambda folder: np.save(folder / "a.npy", heart_uv(fs=500).T)), "a.npy", 600),
    "npz": ("folder", _arrays(lambda folder: np.savez_compressed(folder / "a.npz", heart_uv(fs=500).T)), "a.npz", 600),
    "csv": ("folder", _arrays(lambda folder: write_csv(folder / "a.csv")), "a.csv", 400),
    "hdf5": ("folder", _arrays(_hdf5), "a.h5", 1000),
    "edf": ("folder", lambda folder: write_edf(folder / "a.edf"), "a.edf", 600),
    "dicom": ("folder", lambda folder: write_dicom(folder / "a.dcm"), "a.dcm", 600),
    "settings": ("folder", _own, "recordings.yaml", 400),
    "mimic-iv-ecg list": ("mimic-iv-ecg", lambda folder: mimic_iv_ecg(folder, 3), "record_list.csv", 300),
    "mimic-iv-ecg reports": ("mimic-iv-ecg", lambda folder: mimic_iv_ecg(folder, 3), "machine_measurements.csv", 300),
    "cinc2021 header": ("cinc2021", lambda folder: cinc2021(folder, 1), "training/cpsc_2018/g1/A0000.hea", 300),
    "cinc2021 codes": ("cinc2021", lambda folder: cinc2021(folder, 2), "dx_mapping_scored.csv", 200),
    "chapman codes": ("chapman", lambda folder: chapman(folder, 2), "ConditionNames_SNOMED-CT.csv", 200),
    "code15 exams": ("code15", lambda folder: code15(folder, 3, parts=1), "exams.csv", 300),
    "code15 part": ("code15", lambda folder: code15(folder, 3, parts=1), "exams_part0.hdf5", 1000),
}
"""Name -> source, what writes the archive, the file that is mutated, and how often."""


def _text_edit(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three pieces of a text exchanged for others of it, or for one that means something."""
    words = data.split(b",")
    for _ in range(int(rng.integers(1, 4))):
        other = (b"", b"-1", b"1e9", b"nan", b'"', b"../x", b"\n", b"True", words[int(rng.integers(len(words)))])
        words[int(rng.integers(len(words)))] = other[int(rng.integers(len(other)))]
    return b",".join(words)


def make(kind: str, number: int, folder: Path) -> Path:
    _, write, name, _ = KINDS[kind]
    root, sound = folder / kind / str(number), folder / kind / "sound"
    if not sound.exists():
        sound.mkdir(parents=True)
        write(sound)
    shutil.copytree(sound, root)
    shutil.rmtree(folder / kind / str(number - 1), ignore_errors=True)
    rng = np.random.default_rng([number, len(kind)])
    is_text = name.endswith((".csv", ".yaml", ".hea"))
    change = _text_edit if is_text and number % 2 else mutate
    (root / name).write_bytes(change((root / name).read_bytes(), rng))
    return root


def read(kind: str, root: Path) -> list[tuple]:
    """What a store would hold: recordings, and those put aside with their reason."""
    source, archive = open_source(KINDS[kind][0], None), ArchiveFiles(root)
    rows: list[tuple] = []
    for item in source.list_records(archive):
        try:
            recording = source.read(item, archive)
            check(recording)
        except RecordingError as error:
            rows.append((item.id, error.reason, str(error).count("\n")))
            continue
        known = (recording.id, recording.patient_id, recording.report, recording.age, recording.sex, recording.fs)
        rows.append((*known, tuple(recording.labels.items()), recording.signal_mv.tobytes()))
    return rows


@functools.cache
def expected(kind: str) -> list[tuple]:
    with tempfile.TemporaryDirectory() as folder:
        KINDS[kind][1](Path(folder))
        return read(kind, Path(folder))


def attempt(root: Path) -> str:
    kind = root.parent.name
    rows = read(kind, root)
    assert all(row[2] == 0 for row in rows if len(row) == 3), "a reason of several lines"
    if rows == expected(kind):
        return "same"
    kept = [row for row in rows if len(row) > 3]
    return "put aside" if len(kept) < len(rows) and all(row in expected(kind) for row in kept) else "other"


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(tmp_path: Path, kind: str) -> None:
    tally = fuzz(kind, functools.partial(make, kind), attempt, KINDS[kind][3], tmp_path)
    assert not tally.findings, tally.findings[:5]


def test_the_sound_ones_are_read() -> None:
    for kind in KINDS:
        assert all(len(row) > 3 for row in expected(kind)), kind
