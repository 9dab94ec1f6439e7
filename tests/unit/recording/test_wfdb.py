"""Odd WFDB records: what a correct reader says of each, or the reason why it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.leads import LEADS, MEASURED_LEADS, lead_residual_uv
from ecgscan_ray.recording.wfdb import read_channels, read_wfdb
from tests.records import heart_uv, packed, write_record

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
def test_the_package_wfdb_reads_the_same(tmp_path: Path, name: str) -> None:
    counts = heart_uv()
    counts[5, 10:20] = -32768 if name == "gap" else 7
    gain = "409.6(-100)/uV" if name == "offset" else "1000/mV"
    path = DATA / "HR00001" if name == "real" else write_record(tmp_path, name, counts, gain=gain)
    record, channels = wfdb.rdrecord(str(path)), read_channels(path)
    np.testing.assert_array_equal(channels.values.T, record.p_signal)
    assert (channels.fs, channels.names, channels.units) == (record.fs, record.sig_name, record.units)
    assert channels.gains == record.adc_gain


@pytest.mark.parametrize("format", ["16", "24", "32", "61", "80", "160", "212", "310", "311"])
@pytest.mark.parametrize("length", ["1000", ""])
def test_every_format_of_integers(tmp_path: Path, format: str, length: str) -> None:
    counts = (heart_uv() // 8).clip(-100, 100)
    missing = {"80": -128, "310": -512, "311": -512, "212": -2048, "24": -(1 << 23), "32": -(1 << 31)}
    counts = counts.astype(np.int64)
    counts[4, 10:20] = missing.get(format, -32768)
    (tmp_path / "r.dat").write_bytes(packed(counts, format))
    lines = [
        f"r.dat {format} 125/mV 0 0 {row[0]} {row.sum() % 65536} 0 {lead}"
        for lead, row in zip(LEADS, counts, strict=True)
    ]
    (tmp_path / "r.hea").write_text("\n".join([f"r 12 100 {length}", *lines]))
    expected = counts / 125
    expected[4, 10:20] = np.nan
    np.testing.assert_array_equal(read_channels(tmp_path / "r").values, expected)


@pytest.mark.parametrize("format", ["508", "516", "524"])
def test_flac(tmp_path: Path, format: str) -> None:
    counts = heart_uv()[:8].T.clip(-120, 120).astype(np.int64)
    names = ["I", "II", *LEADS[6:]]
    write = {"fmt": [format] * 8, "adc_gain": [1.0] * 8, "baseline": [0] * 8, "write_dir": str(tmp_path)}
    wfdb.wrsamp("r", 100, ["\u00b5V"] * 8, names, d_signal=counts, **write)
    np.testing.assert_allclose(read_wfdb(tmp_path / "r").signal_mv[6:], counts.T[2:] / 1000, rtol=1e-6)
    text = (tmp_path / "r.hea").read_text()
    (tmp_path / "r.hea").write_text(text.replace(" 100 1000", " 100 500"))
    assert reason_of(tmp_path / "r") == "surplus"
    (tmp_path / "r.hea").write_text(text.replace(" 100 1000", " 100 2000"))
    assert reason_of(tmp_path / "r") == "truncated"


def test_frames_of_several_samples_and_skew(tmp_path: Path) -> None:
    """Two samples a frame are averaged (exactly: the package rounds to steps); a late signal is moved back."""
    counts = heart_uv()
    frames = np.insert(counts, 1, counts[0] + 3, axis=0)
    (tmp_path / "r.dat").write_bytes(frames.T.astype("<i2").tobytes())
    form = dict.fromkeys(LEADS, "16") | {"I": "16x2", "V6": "16:5"}
    lines = ["r 12 100 1000", *(f"r.dat {form[lead]} 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS)]
    (tmp_path / "r.hea").write_text("\n".join(lines))
    channels = read_channels(tmp_path / "r")
    np.testing.assert_allclose(channels.values[0], counts[0] / 1000 + 0.0015)
    np.testing.assert_array_equal(channels.values[11, :-5], counts[11, 5:] / 1000)
    assert np.isnan(channels.values[11, -5:]).all()
    np.testing.assert_array_equal(channels.values[1:11], counts[1:11] / 1000)


def test_two_files_in_microvolts(tmp_path: Path) -> None:
    counts = heart_uv()
    for part, rows in {"limb": counts[:6], "chest": counts[6:]}.items():
        (tmp_path / f"{part}.dat").write_bytes(rows.T.astype("<i2").tobytes())
    lines = [f"{'limb' if k < 6 else 'chest'}.dat 16 1(0)/\u00b5V 16 0 0 0 0 {lead}" for k, lead in enumerate(LEADS)]
    (tmp_path / "r.hea").write_text("\n".join(["r 12 100 1000", *lines]), encoding="utf-8")
    np.testing.assert_allclose(read_wfdb(tmp_path / "r").signal_mv, MILLIVOLTS, rtol=1e-6)


def test_signals_of_two_files_in_turn(tmp_path: Path) -> None:
    counts = heart_uv()
    for start, name in enumerate("ab"):
        (tmp_path / f"{name}.dat").write_bytes(packed(counts[start::2], "24"))
    lines = [f"{'ab'[k % 2]}.dat 24 1000/mV 24 0 0 0 0 {lead}" for k, lead in enumerate(LEADS)]
    (tmp_path / "r.hea").write_text("\n".join(["r 12 100 1000", *lines]))
    np.testing.assert_array_equal(read_wfdb(tmp_path / "r").signal_mv, MILLIVOLTS)


@pytest.mark.parametrize("units", ["uV", "UV", "microvolt", "microVolts", "\u00b5V", "\u03bcV", "\u00c2\u00b5V"])
def test_microvolts_in_words_and_signs(tmp_path: Path, units: str) -> None:
    np.testing.assert_allclose(
        read_wfdb(write_record(tmp_path, "micro", gain=f"1(0)/{units}")).signal_mv, MILLIVOLTS, rtol=1e-6
    )


@pytest.mark.parametrize("sign", [b"\xb5", b"\xe6", b"\xec"])
@pytest.mark.parametrize("format", ["16", "24"])
def test_microvolts_in_other_encodings(tmp_path: Path, sign: bytes, format: str) -> None:
    """Latin-1, code page 437, Greek; beside a comment in UTF-8."""
    wfdb.wrsamp(
        "r", 100, ["@V"] * 12, list(LEADS), d_signal=heart_uv().T.astype(np.int64), fmt=[format] * 12,
        adc_gain=[1.0] * 12, baseline=[0] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    header = (tmp_path / "r.hea").read_bytes().replace(b"@V", sign + b"V")
    (tmp_path / "r.hea").write_bytes(header + "# Name: \u00dc\u4e2d\n".encode())
    np.testing.assert_allclose(read_wfdb(tmp_path / "r").signal_mv, MILLIVOLTS, rtol=1e-6)


def test_a_byte_order_mark(tmp_path: Path) -> None:
    path = write_record(tmp_path, "mark")
    header = path.with_suffix(".hea").read_bytes()
    path.with_suffix(".hea").write_bytes(b"\xef\xbb\xbf" + header)
    np.testing.assert_array_equal(read_wfdb(path).signal_mv, MILLIVOLTS)
    for encoding in ("utf-16", "utf-16-le"):
        path.with_suffix(".hea").write_bytes(header.decode().encode(encoding))
        with pytest.raises(RecordingError, match=r"UTF-16\. Save it as UTF-8"):
            read_wfdb(path)


@pytest.mark.parametrize(
    "names",
    [
        ["DI", "DII", "DIII", *LEADS[3:]],
        ["D1", "D2", "D3", *LEADS[3:]],
        [*LEADS[:6], *(f"C{k}" for k in range(1, 7))],
        [f"{lead} (mV)" for lead in LEADS],
        [f"{lead} [uV]" for lead in LEADS],
        [f"ECG {lead}" for lead in LEADS],
        [f"EKG_{lead}" for lead in LEADS],
        [f"Lead {lead.upper()}" for lead in LEADS],
        [f"Lead_{lead}" for lead in LEADS],
        ["Lead I (Einthoven)", "II # noisy", *LEADS[2:]],
        ["I lead", "II lead", "III lead", "a VR", "aV-L", "aV F", "V-1", "V 2", "V_3", *LEADS[9:]],
    ],
)
def test_lead_names_in_common_use(tmp_path: Path, names: list[str]) -> None:
    np.testing.assert_array_equal(read_wfdb(write_record(tmp_path, "names", names=names)).signal_mv, MILLIVOLTS)


@pytest.mark.parametrize(
    ("names", "unknown"),
    [
        (["LI", "LII", *LEADS[2:]], "LI, LII"),
        (["1", "2", "3", *LEADS[3:]], "1, 2, 3"),
        ([*LEADS[:11], "V6R"], "V6R"),
        ([*LEADS[:6], "C1", "V2", "C3", "V4", "V5", "V6"], "C1, C3"),
        ([*LEADS[:11], "V6 (inverted)"], "inverted"),
        ([*LEADS[:11], "-V6"], "-V6"),
    ],
)
def test_the_line_names_what_was_not_understood(tmp_path: Path, names: list[str], unknown: str) -> None:
    with pytest.raises(RecordingError, match=f"not understood: .*{unknown}") as caught:
        read_wfdb(write_record(tmp_path, "names", names=names))
    assert caught.value.reason == "missing_lead"
    assert unknown in caught.value.what  # the quarantine table has this part of the line


def test_a_negated_lead_is_derived_instead(tmp_path: Path) -> None:
    counts = heart_uv()
    counts[3] *= -1
    recording = read_wfdb(write_record(tmp_path, "cabrera", counts, names=[*LEADS[:3], "-aVR", *LEADS[4:]]))
    np.testing.assert_allclose(recording.signal_mv, MILLIVOLTS, atol=0.001)


def test_padding_is_missing(tmp_path: Path) -> None:
    """CODE-15% fills recordings up with zeros on both sides; others with the last value."""
    counts = np.zeros((12, 1000), dtype=np.int16)
    counts[:, 120:850] = heart_uv()[:, :730]
    counts[:, 850:] = counts[:, 849:850]
    recording = read_wfdb(write_record(tmp_path, "padded", counts))
    assert np.isnan(recording.signal_mv[:, :120]).all()
    assert np.isnan(recording.signal_mv[:, 850:]).all()
    np.testing.assert_array_equal(recording.signal_mv[:, 120:849], MILLIVOLTS[:, :729])
    check(recording)


def test_a_short_standstill_and_one_still_lead_are_signal(tmp_path: Path) -> None:
    counts = heart_uv()
    counts[:, 300:399] = counts[:, 300:301]
    counts[9, 500:] = 0
    assert not np.isnan(read_wfdb(write_record(tmp_path, "pause", counts)).signal_mv).any()


def test_a_recording_of_zeros_is_flat(tmp_path: Path) -> None:
    recording = read_wfdb(write_record(tmp_path, "zeros", np.zeros((12, 1000), dtype=np.int16)))
    with pytest.raises(RecordingError, match="is constant"):
        check(recording)
