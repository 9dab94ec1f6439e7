"""Records of segments: each segment by its own header, gaps as missing samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.recording.wfdb import read_wfdb
from tests.records import heart_uv, write_record

COUNTS = heart_uv(seconds=20)
MILLIVOLTS = (COUNTS / 1000).astype(np.float32)


def master(folder: Path, *segments: str, first: str = "m/{count} 12 100 {length}") -> Path:
    length = sum(int(segment.split()[1]) for segment in segments)
    (folder / "m.hea").write_text("\n".join([first.format(count=len(segments), length=length), *segments]))
    return folder / "m"


def reason_of(path: Path) -> str:
    with pytest.raises(RecordingError) as caught:
        read_wfdb(path)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_each_segment_has_its_own_order_gain_and_units(tmp_path: Path) -> None:
    order = [*range(6, 12), *range(5, -1, -1)]
    write_record(tmp_path, "a", COUNTS[:, :1000])
    names = [f"Lead {LEADS[k]}" for k in order]
    write_record(tmp_path, "b", COUNTS[order, 1000:], names=names, gain="1/uV")
    recording = read_wfdb(master(tmp_path, "a 1000", "b 1000"))
    np.testing.assert_allclose(recording.signal_mv, MILLIVOLTS, rtol=1e-6)
    assert recording.steps_per_mv == 1000


def test_a_gap_is_missing(tmp_path: Path) -> None:
    write_record(tmp_path, "a", COUNTS[:, :1000])
    write_record(tmp_path, "b", COUNTS[:, 1200:])
    recording = read_wfdb(master(tmp_path, "a 1000", "~ 200", "b 800"))
    assert np.isnan(recording.signal_mv[:, 1000:1200]).all()
    np.testing.assert_array_equal(recording.signal_mv[:, :1000], MILLIVOLTS[:, :1000])
    np.testing.assert_array_equal(recording.signal_mv[:, 1200:], MILLIVOLTS[:, 1200:])
    check(recording)


def test_variable_layout(tmp_path: Path) -> None:
    """A layout header without samples, and a segment that lacks a lead."""
    (tmp_path / "layout.hea").write_text(
        "\n".join(["layout 12 100 0", *(f"~ 0 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS)])
    )
    write_record(tmp_path, "a", COUNTS[:11, :400], names=LEADS[:11])
    write_record(tmp_path, "b", COUNTS[:, 400:])
    recording = read_wfdb(master(tmp_path, "layout 0", "a 400", "b 1600"))
    assert np.isnan(recording.signal_mv[11, :400]).all()
    assert np.isnan(recording.signal_mv).sum() == 400
    np.testing.assert_array_equal(recording.signal_mv[:, 400:], MILLIVOLTS[:, 400:])


def test_segments_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "m.dat").write_bytes(COUNTS.T.astype("<i2").tobytes())
    for name, offset in {"a": 0, "b": 24000}.items():
        lines = [f"m.dat 16+{offset} 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS]
        (tmp_path / f"{name}.hea").write_text("\n".join([f"{name} 12 100 1000", *lines]))
    np.testing.assert_array_equal(read_wfdb(master(tmp_path, "a 1000", "b 1000")).signal_mv, MILLIVOLTS)
    assert reason_of(master(tmp_path, "a 1000")) == "surplus"


@pytest.mark.parametrize(
    ("reason", "segments", "first"),
    [
        ("missing_file", ["a 1000", "gone 1000"], "m/{count} 12 100 {length}"),
        ("segments", ["a 900"], "m/{count} 12 100 {length}"),
        ("segments", ["a 1000"], "m/{count} 12 100 2000"),
        ("segments", ["a 1000"], "m/{count} 12 200 {length}"),
        ("segments", ["a 1000"], "m/{count} 11 100 {length}"),
        ("segments", ["m 1000"], "m/{count} 12 100 {length}"),
        ("sampling_rate", ["a 1000"], "m/{count} 12"),
        ("empty", ["~ 1000"], "m/{count} 12 100 {length}"),
        ("header", ["a 1000"], "m/3 12 100 {length}"),
        ("header", ["../a 1000"], "m/{count} 12 100 {length}"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, reason: str, segments: list[str], first: str) -> None:
    write_record(tmp_path, "a", COUNTS[:, :1000])
    assert reason_of(master(tmp_path, *segments, first=first)) == reason


def test_a_segment_with_its_own_checksums(tmp_path: Path) -> None:
    path = write_record(tmp_path, "a", COUNTS, signal_line="{name}.dat 16 {gain} 16 0 {first} {checksum} 0 {lead}")
    read_wfdb(master(tmp_path, "a 2000"))
    data = bytearray(path.with_suffix(".dat").read_bytes())
    data[1000] ^= 1
    path.with_suffix(".dat").write_bytes(data)
    assert reason_of(tmp_path / "m") == "checksum"
