"""Odd WFDB records: what a correct reader says of each, or the reason why it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.format16 import read_plain
from ecgscan_ray.recording.leads import LEADS, MEASURED_LEADS, lead_residual_uv
from ecgscan_ray.recording.wfdb import read_channels, read_wfdb
from tests.records import heart_uv, write_record

DATA = Path(__file__).parents[2] / "data"
MILLIVOLTS = (heart_uv() / 1000).astype(np.float32)


def reason_of(path: Path) -> str:
    with pytest.raises(RecordingError) as caught:
        read_wfdb(path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return caught.value.reason


def test_plain_record(tmp_path: Path) -> None:
    recording = read_wfdb(write_record(tmp_path, "plain"))
    np.testing.assert_array_equal(recording.signal_mv, MILLIVOLTS)
    assert recording.signal_mv.dtype == np.float32
    assert (recording.id, recording.fs, recording.steps_per_mv) == ("plain", 100.0, 1000.0)
    assert recording.seconds == 10.0
    assert recording.labels == {}


@pytest.mark.parametrize(
    "oddity",
    [
        {"gain": "1(0)/uV"},
        {"gain": "1000000(0)/V"},
        {"gain": "1000(0)"},
        {"gain": "1000.0(0)/mv"},
        {"newline": "\r\n"},
        {"names": [lead.lower() for lead in LEADS]},
        {"names": ["MDC_ECG_LEAD_I", "Lead II", "ecg iii", "AVR", "AVL", "AVF", *LEADS[6:10], "v5", "LEAD_V6"]},
    ],
)
def test_the_same_signal_written_otherwise(tmp_path: Path, oddity: dict) -> None:
    np.testing.assert_allclose(read_wfdb(write_record(tmp_path, "odd", **oddity)).signal_mv, MILLIVOLTS, rtol=1e-6)


def test_baseline_is_subtracted(tmp_path: Path) -> None:
    recording = read_wfdb(write_record(tmp_path, "offset", heart_uv() + np.int16(100), gain="1000(100)/mV"))
    np.testing.assert_array_equal(recording.signal_mv, MILLIVOLTS)


def test_leads_are_sorted_by_name(tmp_path: Path) -> None:
    order = [*range(6, 12), *range(6)]
    path = write_record(tmp_path, "chest_first", heart_uv()[order], names=[LEADS[k] for k in order])
    np.testing.assert_array_equal(read_wfdb(path).signal_mv, MILLIVOLTS)


def test_frank_leads_are_dropped(tmp_path: Path) -> None:
    counts = np.vstack([heart_uv(), heart_uv(seed=1)[:3]])
    path = write_record(tmp_path, "frank", counts, names=[*LEADS, "vx", "vy", "vz"])
    np.testing.assert_array_equal(read_wfdb(path).signal_mv, MILLIVOLTS)


def test_four_leads_follow_from_eight(tmp_path: Path) -> None:
    index = [LEADS.index(lead) for lead in MEASURED_LEADS]
    recording = read_wfdb(write_record(tmp_path, "eight", heart_uv()[index], names=MEASURED_LEADS))
    np.testing.assert_array_equal(recording.signal_mv[index], MILLIVOLTS[index])
    np.testing.assert_allclose(recording.signal_mv, MILLIVOLTS, atol=0.0006)
    assert lead_residual_uv(recording.signal_mv) < 0.01
    assert recording.steps_per_mv == 2000.0


def test_missing_samples_are_nan(tmp_path: Path) -> None:
    counts = heart_uv()
    counts[LEADS.index("V2"), 200:400] = -32768
    recording = read_wfdb(write_record(tmp_path, "gap", counts))
    assert np.isnan(recording.signal_mv[LEADS.index("V2"), 200:400]).all()
    assert np.isnan(recording.signal_mv).sum() == 200
    check(recording)


@pytest.mark.parametrize("missing", ["II", "V6"])
def test_a_missing_lead_is_an_error(tmp_path: Path, missing: str) -> None:
    keep = [k for k, lead in enumerate(LEADS) if lead != missing]
    path = write_record(tmp_path, "eleven", heart_uv()[keep], names=[LEADS[k] for k in keep])
    with pytest.raises(RecordingError, match=f"missing lead {missing}") as caught:
        read_wfdb(path)
    assert caught.value.reason == "missing_lead"


@pytest.mark.parametrize("gain", ["0/mV", "0(0)/mV", "0.0"])
def test_no_gain_is_not_calibrated(tmp_path: Path, gain: str) -> None:
    line = "{name}.dat 16 {gain} 16 0 0 0 0 {lead}"
    assert reason_of(write_record(tmp_path, "gain", gain=gain, signal_line=line)) == "not_calibrated"


def test_file_and_format_only_is_no_ecg(tmp_path: Path) -> None:
    assert reason_of(write_record(tmp_path, "bare", signal_line="{name}.dat 16")) == "not_12_lead"


def test_pressure_is_no_voltage(tmp_path: Path) -> None:
    assert reason_of(write_record(tmp_path, "pressure", gain="10/mmHg")) == "units"


def test_two_signals_of_one_name(tmp_path: Path) -> None:
    assert reason_of(write_record(tmp_path, "twice", names=["I", *LEADS[1:11], "lead i"])) == "duplicate_lead"


@pytest.mark.parametrize("cut", [1, 24, 12010])
def test_truncated_samples(tmp_path: Path, cut: int) -> None:
    path = write_record(tmp_path, "short")
    data = path.with_suffix(".dat").read_bytes()
    path.with_suffix(".dat").write_bytes(data[:-cut])
    assert reason_of(path) == "truncated"


def test_missing_files(tmp_path: Path) -> None:
    path = write_record(tmp_path, "gone")
    path.with_suffix(".dat").unlink()
    assert reason_of(path) == "missing_file"
    path.with_suffix(".hea").unlink()
    assert reason_of(path) == "missing_file"


@pytest.mark.parametrize("content", ["", "# only a comment\n", "\x00\x01\x02\x03", "record with words"])
def test_a_header_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "bad.hea").write_text(content)
    assert reason_of(tmp_path / "bad") == "header"


def test_record_name_with_file_ending(tmp_path: Path) -> None:
    path = write_record(tmp_path, "E00001", record_name="E00001.mat")
    with pytest.raises(RecordingError, match=r"E00001\.mat 12 100 1000") as caught:
        read_wfdb(path)
    assert caught.value.reason == "header"


@pytest.mark.parametrize(
    ("comments", "age", "sex", "labels"),
    [
        (["Age: 74", "Sex: Male", "Dx: 426177001,164934002"], 74.0, "male", ["426177001", "164934002"]),
        ([" Age: 74", " Sex: F", " Dx: "], 74.0, "female", []),
        (["age: NaN", "sex: Unknown", "Dx: Unknown"], None, None, []),
        (["Age: 743"], None, None, []),
    ],
)
def test_comments(tmp_path: Path, comments: list[str], age: float, sex: str, labels: list[str]) -> None:
    recording = read_wfdb(write_record(tmp_path, "comments", comments=comments))
    assert (recording.age, recording.sex, list(recording.labels)) == (age, sex, labels)


def test_any_signals_can_be_read_as_channels(tmp_path: Path) -> None:
    channels = read_channels(write_record(tmp_path, "three", heart_uv()[:3], names=["ABP", "I", "RESP"], gain="200/NU"))
    assert channels.values.shape == (3, 1000)
    assert channels.names == ["ABP", "I", "RESP"]
    assert channels.gains == [200.0] * 3


def test_a_real_gain_five_times_off_is_implausible() -> None:
    recording = read_wfdb(DATA / "HR00001")
    assert recording.signal_mv.min() == pytest.approx(-7.22)
    with pytest.raises(RecordingError, match="gain") as caught:
        check(recording)
    assert caught.value.reason == "implausible_gain"


@pytest.mark.parametrize("name", ["plain", "offset", "gap", "real"])
def test_the_short_way_and_the_wfdb_package_agree(tmp_path: Path, name: str) -> None:
    counts = heart_uv()
    counts[5, 10:20] = -32768 if name == "gap" else 7
    gain = "409.6(-100)/uV" if name == "offset" else "1000/mV"
    path = DATA / "HR00001" if name == "real" else write_record(tmp_path, name, counts, gain=gain)
    record = wfdb.rdrecord(str(path))
    plain = read_plain(str(path), path.with_suffix(".hea").read_text().split("#")[0].splitlines())
    assert plain is not None
    np.testing.assert_array_equal(plain.values.T, record.p_signal)
    assert (plain.fs, plain.names, plain.units) == (record.fs, record.sig_name, record.units)
    assert plain.gains == record.adc_gain


@pytest.mark.parametrize(
    "line",
    [
        "{name}.dat 16x2 {gain} 16 0 0 0 0 {lead}",
        "{name}.dat 16:3 {gain} 16 0 0 0 0 {lead}",
        "{name}.dat 212 {gain} 12 0 0 0 0 {lead}",
        "{name}.dat 16 0/mV 16 0 0 0 0 {lead}",
        "{name}.dat 16",
        "{lead}.dat 16 {gain} 16 0 0 0 0 {lead}",
    ],
)
def test_the_short_way_leaves_the_rest_to_the_package(tmp_path: Path, line: str) -> None:
    path = write_record(tmp_path, "other", signal_line=line)
    assert read_plain(str(path), path.with_suffix(".hea").read_text().splitlines()) is None
