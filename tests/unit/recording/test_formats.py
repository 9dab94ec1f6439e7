"""Arrays, EDF and DICOM in one's own folder: what the file or ``recordings.yaml`` states, or put aside with a reason."""

from __future__ import annotations

import datetime
import io
from pathlib import Path

import edfio
import h5py
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage

from ecgscan_ray.errors import ConfigError, InputError, RecordingError, StoreError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.formats.arrays import Arrays, read_hdf5
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources import open_source
from tests.records import heart_uv, list_items, write_record

SIGNAL = heart_uv(fs=500)
UV = f"arrays: {{fs: 500, units: uV, leads: [{', '.join(LEADS)}]}}"


def read_all(folder: Path) -> dict[str, Recording]:
    source, archive = open_source("folder", None), ArchiveFiles(folder)
    return {item.id: source.read(item, archive) for item in source.list_records(archive)}


def state(folder: Path, text: str) -> None:
    (folder / "recordings.yaml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("end", [b"(", b"'", b"}{", b"\\"])
def test_a_damaged_header_of_an_array_is_one_bad_recording(tmp_path: Path, end: bytes) -> None:
    np.save(tmp_path / "a.npy", SIGNAL.T)
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"}", end, 1))
    state(tmp_path, UV)
    with pytest.raises(RecordingError, match=r"a file of numpy\.save"):
        read_all(tmp_path)


def write_csv(path: Path, separator: str = ",", decimal: str = ".") -> None:
    """Chest leads first, behind the time."""
    order = [*range(6, 12), *range(6)]
    rows = [separator.join(("t", *(LEADS[k] for k in order)))]
    rows += [
        separator.join([f"{k / 500}", *map(str, row)]).replace(".", decimal) for k, row in enumerate(SIGNAL[order].T)
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_edf(path: Path, **changes: object) -> None:
    signals = [
        edfio.EdfSignal(
            samples.astype(float), 500, label=f"ECG {lead}", physical_dimension="uV", physical_range=(-32768, 32767)
        )
        for lead, samples in zip(LEADS, SIGNAL, strict=True)
    ]
    signals.append(edfio.EdfSignal(np.zeros(100), 10, label="Resp", physical_range=(-1, 1)))
    patient = edfio.Patient(code="4711", sex="F", birthdate=datetime.date(1950, 1, 1))
    edfio.Edf(signals, patient=patient, **changes).write(path)  # type: ignore[arg-type]


def write_dicom(path: Path, sensitivity: str | None = "2.5", names: tuple[str, ...] = LEADS) -> None:
    """A rhythm of ten seconds in steps of 2.5 uV, and a median beat of one second."""
    groups = []
    for counts in (SIGNAL[:, :500] // 5, SIGNAL // 5 * 2):
        group = Dataset()
        group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = counts.shape
        group.WaveformOriginality, group.SamplingFrequency = "ORIGINAL", 500
        group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
        group.WaveformPaddingValue = b"\x00\x80"
        group.ChannelDefinitionSequence = [_channel(name, sensitivity) for name in names]
        group.WaveformData = np.ascontiguousarray(counts.T, "<i2").tobytes()
        groups.append(group)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = TwelveLeadECGWaveformStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    content = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    content.PatientID, content.PatientAge, content.PatientSex = "0815", "056Y", "M"
    content.WaveformSequence = groups
    content.save_as(path, enforce_file_format=True)


def _channel(name: str, sensitivity: str | None) -> Dataset:
    channel, source, units = Dataset(), Dataset(), Dataset()
    source.CodeValue, source.CodingSchemeDesignator, source.CodeMeaning = f"MDC_ECG_LEAD_{name}", "MDC", f"Lead {name}"
    units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = "uV", "UCUM", "microvolt"
    channel.ChannelSourceSequence, channel.WaveformBitsStored = [source], 16
    if sensitivity is not None:
        channel.ChannelSensitivity, channel.ChannelSensitivityUnitsSequence = sensitivity, [units]
        channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = "1", "0"
    return channel


def test_arrays_of_each_kind(tmp_path: Path) -> None:
    state(tmp_path, UV)
    np.save(tmp_path / "npy.npy", SIGNAL.T)
    np.save(tmp_path / "columns.npy", np.asfortranarray(SIGNAL.T.astype(np.float64)))
    np.savez_compressed(tmp_path / "npz.npz", signal=SIGNAL.T)
    with h5py.File(tmp_path / "hdf5.h5", "w") as file:
        file["signal"] = SIGNAL.T
    write_csv(tmp_path / "csv.csv")
    found = read_all(tmp_path)
    assert found.keys() == {"npy", "columns", "npz", "hdf5", "csv"}
    for id, recording in found.items():
        np.testing.assert_allclose(recording.signal_mv, SIGNAL / 1000, atol=1e-6, err_msg=id)
        assert (recording.fs, recording.patient_id) == (500, None)
    assert found["npy"].steps_per_mv == 1000 and found["columns"].steps_per_mv is None


def test_a_csv_file_with_decimal_commas(tmp_path: Path) -> None:
    state(tmp_path, "arrays: {fs: 500, units: uV}")
    write_csv(tmp_path / "a.csv", ";", ",")
    np.testing.assert_allclose(read_all(tmp_path)["a"].signal_mv, SIGNAL / 1000, atol=1e-6)


def test_steps_leads_first_and_missing_samples(tmp_path: Path) -> None:
    state(tmp_path, UV[:-1] + ", steps_per_unit: 0.2, first_axis: leads, missing: -9999}")
    counts = SIGNAL // 5
    counts[7, 100:200] = -9999
    np.save(tmp_path / "a.npy", counts)
    recording = read_all(tmp_path)["a"]
    assert recording.steps_per_mv == 200 and np.isnan(recording.signal_mv).sum() == 100
    np.testing.assert_allclose(recording.signal_mv[0], (SIGNAL // 5)[0] * 5 / 1000, atol=1e-6)


def test_arrays_are_not_guessed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "a.npy", SIGNAL.T)
    with pytest.raises(InputError, match="no recordings here"):
        list_items(open_source("folder"), tmp_path)
    write_record(tmp_path, "b", heart_uv())
    np.save(tmp_path / "b.npy", SIGNAL.T)
    assert [item.id for item in list_items(open_source("folder"), tmp_path)] == ["b"]
    assert "files of arrays are not read (2 .npy): state rate, units and leads in recordings.yaml" in caplog.text
    state(tmp_path, UV)
    assert {item.id: item.files[0] for item in list_items(open_source("folder"), tmp_path)} == {
        "a": "a.npy",
        "b": "b.hea",
    }
    assert "other forms of recordings are not used (1, e.g. b.npy)" in caplog.text


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (SIGNAL, "missing_lead"),
        (SIGNAL.T[:, :3], "missing_lead"),
        (SIGNAL.T[None], "format"),
        (SIGNAL.T.astype("U4"), "format"),
        (np.array([[{}]]), "format"),
        (np.zeros((0, 12)), "empty"),
    ],
)
def test_an_array_that_is_not_as_stated(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    state(tmp_path, UV)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(RecordingError) as caught:
        read_all(tmp_path)
    assert caught.value.reason == reason


def test_an_array_that_is_cut(tmp_path: Path) -> None:
    state(tmp_path, UV)
    np.save(tmp_path / "a.npy", SIGNAL.T)
    content = (tmp_path / "a.npy").read_bytes()
    for changed, reason in ((content[:-2], "truncated"), (content + b"\0\0", "surplus"), (content[:50], "format")):
        (tmp_path / "a.npy").write_bytes(changed)
        with pytest.raises(RecordingError) as caught:
            read_all(tmp_path)
        assert caught.value.reason == reason


def test_several_arrays_in_a_file(tmp_path: Path) -> None:
    state(tmp_path, UV)
    np.savez(tmp_path / "a.npz", ecg=SIGNAL.T, time=np.zeros(3))
    with pytest.raises(RecordingError, match="State 'dataset'"):
        read_all(tmp_path)
    state(tmp_path, UV[:-1] + ", dataset: ecg}")
    np.testing.assert_allclose(read_all(tmp_path)["a"].signal_mv, SIGNAL / 1000, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arrays: {units: uV}", "arrays.fs: Field required"),
        ("arrays: {fs: 500, units: mmHg}", "no unit of voltage"),
        ("arrays: {fs: 500, units: uV, leads: [I, I]}", "a lead is named twice"),
        ("table: {encoding: latin-99}", "no encoding is called latin-99"),
        ("table: {separator: ab}", "not one letter"),
        ("table: {colums: {}}", "table.colums"),
        ("table: {columns: {patient: Pat}}", "table.columns.patient"),
        ("- a", "the file"),
        ("table: {columns: {record: Datei}}", "no column 'datei', which recordings.yaml names"),
    ],
)
def test_settings_that_are_not_understood(tmp_path: Path, text: str, message: str) -> None:
    write_record(tmp_path, "a", heart_uv())
    (tmp_path / "recordings.csv").write_text("record,report\na,x\n")
    state(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        list_items(open_source("folder"), tmp_path)
    assert isinstance(caught.value, ConfigError) == ("no column" not in message) and "\n" not in str(caught.value)


def test_a_table_in_other_words(tmp_path: Path) -> None:
    write_record(tmp_path, "a", heart_uv())
    rows = "Datei#PatNr#Befund#Geschlecht\na#007#Überdrehter Linkstyp – „neu“#W\n"
    (tmp_path / "liste.csv").write_bytes(rows.encode("cp1252"))
    state(
        tmp_path,
        """table:
  encoding: cp1252
  separator: "#"
  columns: {record: Datei, patient_id: PatNr, report: Befund, sex: Geschlecht}
  values: {sex: {w: female, m: male}}
""",
    )
    recording = read_all(tmp_path)["a"]
    assert (recording.patient_id, recording.report) == ("007", "Überdrehter Linkstyp – „neu“")
    assert recording.sex == "female"


def test_latin_1_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_record(tmp_path, "a", heart_uv())
    table = tmp_path / "recordings.csv"
    table.write_bytes("record;report\na;überdreht\n".encode("latin-1"))
    assert read_all(tmp_path)["a"].report == "überdreht"
    assert "read as Latin-1 (ISO 8859-1), e.g. ';report a;überdreht'" in caplog.text
    for text in ("record;report\na;ü".encode() + b"\xfc\n", "record;report\na;ü\n".encode("cp437")):
        table.write_bytes(text)  # UTF-8 with a damaged letter; a code page whose letters are no Latin-1
        with pytest.raises(InputError, match=r"not in UTF-8.*recordings\.yaml"):
            read_all(tmp_path)


def test_edf(tmp_path: Path) -> None:
    write_edf(tmp_path / "a.EDF")
    (item,) = list_items(open_source("folder"), tmp_path)
    recording = read_all(tmp_path)["a"]
    assert (item.patient_id, recording.fs, recording.sex) == ("4711", 500, "female")
    np.testing.assert_allclose(recording.signal_mv, SIGNAL / 1000, atol=0.0006)
    assert recording.steps_per_mv == pytest.approx(1000)
    content = bytearray((tmp_path / "a.EDF").read_bytes())
    for changed, reason in ((content[:-100], "truncated"), (content + bytes(24020), "surplus")):
        (tmp_path / "a.EDF").write_bytes(changed)
        with pytest.raises(RecordingError) as caught:
            read_all(tmp_path)
        assert caught.value.reason == reason
    content[256 + 13 * 96 : 256 + 13 * 96 + 2] = b"mA"  # the first signal's units
    (tmp_path / "a.EDF").write_bytes(content)
    with pytest.raises(RecordingError) as caught:
        read_all(tmp_path)
    assert caught.value.reason == "units"


def test_dicom(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm")
    (item,) = list_items(open_source("folder"), tmp_path)
    recording = read_all(tmp_path)["a"]
    assert (item.patient_id, recording.fs, recording.sig_len) == ("0815", 500, 5000)
    assert (recording.age, recording.sex, recording.steps_per_mv) == (56, "male", 400)
    np.testing.assert_allclose(recording.signal_mv, SIGNAL // 5 * 5 / 1000, atol=1e-6)
    (tmp_path / "recordings.csv").write_text("record,patient_id\na.dcm,p1\n")
    (item,) = list_items(open_source("folder"), tmp_path)
    assert (item.id, item.patient_id) == ("a", "p1"), "the table goes first"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"sensitivity": None}, "not_calibrated"), ({"names": (*LEADS[:11], "X")}, "missing_lead")],
)
def test_dicom_that_cannot_be_used(tmp_path: Path, changes: dict, reason: str) -> None:
    write_dicom(tmp_path / "a.dcm", **changes)
    with pytest.raises(RecordingError) as caught:
        read_all(tmp_path)
    assert caught.value.reason == reason


def test_dicom_of_a_device(tmp_path: Path) -> None:
    """The example that comes with pydicom, against pydicom's own reading."""
    path = get_testdata_file("waveform_ecg.dcm")
    assert isinstance(path, str)
    content = pydicom.dcmread(path)
    (tmp_path / "a.dcm").write_bytes(Path(path).read_bytes())
    recording = read_all(tmp_path)["a"]
    np.testing.assert_allclose(recording.signal_mv, content.waveform_array(0).T / 1000, atol=1e-5)
    assert (recording.fs, recording.sig_len) == (1000, 10000)


@pytest.mark.parametrize("failure", [StoreError("cannot be read: its server does not answer"), OSError(5, "I/O error")])
def test_storage_that_fails_under_hdf5_is_no_damaged_file(tmp_path: Path, failure: Exception) -> None:
    """At whichever read it fails."""

    class Failing(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            if self.reads == fails_at:
                raise failure
            return super().read(size)

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("signal", data=SIGNAL.T, chunks=(500, 12), compression="gzip")
    content, stated = (tmp_path / "a.h5").read_bytes(), Arrays(fs=500, units="uV", leads=LEADS)
    fails_at = 0
    whole = Failing(content)
    read_hdf5(whole, "a.h5", stated)
    assert whole.reads > 5
    for fails_at in range(1, whole.reads + 1):  # noqa: B007 - read by Failing
        with pytest.raises(StoreError, match="cannot be read"):
            read_hdf5(Failing(content), "a.h5", stated)
    with pytest.raises(RecordingError, match="not readable as HDF5"):
        read_hdf5(Failing(content[:-1000]), "a.h5", stated)
