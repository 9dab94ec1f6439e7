"""Each source on 200 recordings in the published layout, against what was put in and against an independent reader."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import wfdb

from ecgscan_ray.errors import InputError, RecordingError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.leads import LEADS, lead_names
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources import open_source
from tests.archives import MAKERS, Truth, chapman, cinc2021, code15, mimic_iv_ecg
from tests.records import list_items

COUNT = 200


def read_all(kind: str, folder: Path) -> dict[str, Recording]:
    source, archive = open_source(kind, None), ArchiveFiles(folder)
    return {item.id: source.read(item, archive) for item in source.list_records(archive)}


def independently(truth: Truth, folder: Path) -> np.ndarray:
    """(12, T) in mV by wfdb, or of CODE-15% by h5py: its values are half millivolts."""
    if truth.path.endswith(".hdf5"):
        with h5py.File(folder / truth.path) as file:
            (row,) = np.flatnonzero(file["exam_id"][:] == int(truth.id))
            values = file["tracings"][row].T / 2
        known = np.flatnonzero(values.any(axis=0))
        return values[:, known[0] : known[-1] + 1]
    record = wfdb.rdrecord(str(folder / truth.path))
    leads = dict(zip(lead_names(record.sig_name), record.p_signal.T, strict=True))
    one, two = leads["I"], leads["II"]
    derived = {"III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}
    return np.stack([(derived | leads)[lead] for lead in LEADS])


@pytest.mark.parametrize("kind", MAKERS)
def test_as_published(tmp_path: Path, kind: str) -> None:
    truths = MAKERS[kind](tmp_path, COUNT)
    found = read_all(kind, tmp_path)
    assert found.keys() == {truth.id for truth in truths} and len(found) == COUNT
    for truth in truths:
        recording = found[truth.id]
        assert (recording.fs, recording.patient_id, recording.report) == (truth.fs, truth.patient_id, truth.report)
        assert (set(recording.labels), recording.age, recording.sex) == (truth.labels, truth.age, truth.sex)
        np.testing.assert_allclose(recording.signal_mv, independently(truth, tmp_path), atol=1e-6)
        np.testing.assert_allclose(recording.signal_mv, truth.signal_uv / 1000, atol=0.0011)
        assert check(recording) == ()


def test_notes(tmp_path: Path) -> None:
    truths = MAKERS["folder"](tmp_path, 8)
    notes = {id: recording.notes for id, recording in read_all("folder", tmp_path).items()}
    assert [notes[truth.id] for truth in truths[:4]] == [(), (), (), ("derived from I and II: III, aVR, aVL, aVF",)]


def test_mimic_says_which_studies_have_no_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mimic_iv_ecg(tmp_path, 20)
    list_items(open_source("mimic-iv-ecg"), tmp_path)
    assert "2 of 20 records have no row in machine_measurements.csv" in caplog.text
    (tmp_path / "machine_measurements.csv").unlink()
    with pytest.raises(InputError, match=r"no MIMIC-IV-ECG: no machine_measurements\.csv here"):
        list_items(open_source("mimic-iv-ecg"), tmp_path)


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("record_list.csv", "files/p1000", "../p1000", "row 2: path '../p1000.* outside"),
        ("record_list.csv", "study_id", "study", "no column study_id"),
        ("record_list.csv", ",files", ",a,files", "row 2: 6 fields, the header has 5"),
        ("record_list.csv", "files", "f\0iles", "a zero byte in line 2"),
        ("record_list.csv", "files", "\udcff", "not in UTF-8 after line"),
        ("machine_measurements.csv", "40689239", "40689238", "row 3: study_id 40689238 has another report"),
    ],
)
def test_mimic_tables_that_are_not_understood(tmp_path: Path, table: str, old: str, new: str, message: str) -> None:
    mimic_iv_ecg(tmp_path, 4)
    file = tmp_path / table
    file.write_bytes(file.read_text().replace(old, new, 1).encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        list_items(open_source("mimic-iv-ecg"), tmp_path)


def test_codes_without_the_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cinc2021(tmp_path, 8)
    for table in tmp_path.glob("*.csv"):
        table.unlink()
    assert set(read_all("cinc2021", tmp_path)["I0002"].labels) == {"sinus rhythm", "atrial fibrillation", "55827005"}
    assert "only the 30 codes known without are named" in caplog.text


def test_a_table_of_codes_without_codes(tmp_path: Path) -> None:
    chapman(tmp_path, 1)
    (tmp_path / "ConditionNames_SNOMED-CT.csv").write_text("Acronym Name,Full Name\nSB,Sinus Bradycardia\n")
    with pytest.raises(InputError, match="no column snomed_ct"):
        list_items(open_source("chapman"), tmp_path)


def test_the_subset_of_a_record(tmp_path: Path) -> None:
    cinc2021(tmp_path, 8)
    items = {item.id: item for item in list_items(open_source("cinc2021"), tmp_path)}
    assert (items["I0002"].details["subset"], items["I0002"].patient_id) == ("st_petersburg_incart", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no recordings of chapman"):
        list_items(open_source("chapman"), tmp_path / "empty")


def test_a_header_that_is_damaged_is_one_bad_recording(tmp_path: Path) -> None:
    chapman(tmp_path, 3)
    (tmp_path / "WFDBRecords/01/000/JS00002.hea").write_text("")
    source, archive = open_source("chapman"), ArchiveFiles(tmp_path)
    first, second, third = source.list_records(archive)
    assert [source.read(item, archive).id for item in (first, third)] == ["JS00001", "JS00003"]
    with pytest.raises(RecordingError, match="empty header"):
        source.read(second, archive)


def test_code15_with_parts_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truths = code15(tmp_path, 9)
    (tmp_path / "exams_part1.hdf5").unlink()
    (tmp_path / "exams_part2.hdf5").write_bytes(b"PK\3\4" + bytes(1000))
    source, archive = open_source("code15"), ArchiveFiles(tmp_path)
    for item in source.list_records(archive):
        if item.path == "exams_part0.hdf5":
            assert source.read(item, archive).fs == 400
            continue
        with pytest.raises(RecordingError) as caught:
            source.read(item, archive)
        assert caught.value.reason == "missing_file"
    assert "exams_part1.hdf5 is not here" in caplog.text and "not readable as HDF5" in caplog.text
    (tmp_path / truths[0].path).unlink()
    with pytest.raises(InputError, match=r"Unpack exams_part0\.zip"):
        list_items(source, tmp_path)


def test_code15_of_another_shape(tmp_path: Path) -> None:
    code15(tmp_path, 3, parts=1)
    source, archive = open_source("code15"), ArchiveFiles(tmp_path)
    items = list(source.list_records(archive))
    with h5py.File(tmp_path / "exams_part0.hdf5", "a") as file:
        del file["tracings"]
        file["tracings"] = np.zeros((3, 12, 4096), np.float32)
    with pytest.raises(RecordingError, match=r"not \(N, 4096, 12\)"):
        source.read(items[0], archive)
    with h5py.File(tmp_path / "exams_part0.hdf5", "a") as file:
        del file["tracings"]
        file["tracings"] = np.zeros((3, 4096, 12), np.float32)
    with pytest.raises(RecordingError, match="nothing but zeros"):
        open_source("code15").read(items[0], archive)
