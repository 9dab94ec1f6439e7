"""Signal files that are not what the header says are refused, each by its own reason."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.recording.wfdb import read_wfdb
from tests.records import heart_uv, packed, write_record

STATED = "{name}.dat 16 {gain} 16 0 {first} {checksum} 0 {lead}"


def refused(path: Path) -> RecordingError:
    with pytest.raises(RecordingError) as caught:
        read_wfdb(path)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_flipped_bit_is_told_by_the_checksum(tmp_path: Path) -> None:
    path = write_record(tmp_path, "r", signal_line=STATED)
    read_wfdb(path)
    data = bytearray(path.with_suffix(".dat").read_bytes())
    data[2 * (500 * 12 + 8) + 1] ^= 0x40
    path.with_suffix(".dat").write_bytes(data)
    error = refused(path)
    assert error.reason == "checksum"
    assert "V3" in error.what


def test_checksums_may_be_signed_or_absent(tmp_path: Path) -> None:
    counts = heart_uv()
    total = int(counts[0].sum()) & 0xFFFF
    for checksum in (total, total - 65536):
        names = ["I", *LEADS[1:]]
        path = write_record(tmp_path, "r", counts, names=names, signal_line=STATED)
        text = path.with_suffix(".hea").read_text()
        path.with_suffix(".hea").write_text(text.replace(f" {total} 0 I\n", f" {checksum} 0 I\n"))
        read_wfdb(path)
    read_wfdb(write_record(tmp_path, "r", counts, signal_line="{name}.dat 16 {gain} 16 0 0 0 0 {lead}"))
    read_wfdb(write_record(tmp_path, "r", counts, signal_line="{name}.dat 16 {gain} 16 0 {lead}"))


def test_without_checksums_the_first_samples_count(tmp_path: Path) -> None:
    path = write_record(tmp_path, "r")
    data = path.with_suffix(".dat").read_bytes()
    path.with_suffix(".dat").write_bytes(data[24:] + data[:24])
    assert refused(path).reason == "checksum"


@pytest.mark.parametrize("format", ["212", "24", "32", "80", "310", "61"])
def test_other_formats_have_checksums_too(tmp_path: Path, format: str) -> None:
    counts = (heart_uv() // 16).clip(-100, 100)
    line = "{name}.dat " + format + " 60/mV 16 0 {first} {checksum} 0 {lead}"
    path = write_record(tmp_path, "r", counts, signal_line=line)
    path.with_suffix(".dat").write_bytes(packed(counts, format))
    read_wfdb(path)
    counts[7, 600] ^= 4
    path.with_suffix(".dat").write_bytes(packed(counts, format))
    error = refused(path)
    assert (error.reason, "V2" in error.what) == ("checksum", True)


@pytest.mark.parametrize("frames", [1, 4000])
def test_frames_left_over(tmp_path: Path, frames: int) -> None:
    path = write_record(tmp_path, "r")
    data = path.with_suffix(".dat").read_bytes()
    path.with_suffix(".dat").write_bytes(data + bytes(24 * frames))
    assert refused(path).reason == "surplus"


def test_less_than_a_frame_may_be_left_over(tmp_path: Path) -> None:
    path = write_record(tmp_path, "r")
    path.with_suffix(".dat").write_bytes(path.with_suffix(".dat").read_bytes() + b"\n")
    read_wfdb(path)


def matlab(folder: Path, values: np.ndarray, name: str = "val", version: str = "4", compress: bool = False) -> Path:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {name: values}, format=version, do_compression=compress)
    (folder / "r.mat").write_bytes(buffer.getvalue())
    lines = ["r 12 500 5000", *(f"r.mat 16+24 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS)]
    (folder / "r.hea").write_text("\n".join(lines))
    return folder / "r"


def test_matlab_files(tmp_path: Path) -> None:
    counts = heart_uv(fs=500)
    np.testing.assert_array_equal(read_wfdb(matlab(tmp_path, counts)).signal_mv, (counts / 1000).astype(np.float32))
    assert refused(matlab(tmp_path, counts.T)).reason == "format"
    assert refused(matlab(tmp_path, counts / 1000)).reason == "format"
    for name in ("val", "ECG_data"):
        for compress in (False, True):
            error = refused(matlab(tmp_path, counts, name, version="5", compress=compress))
            assert (error.reason, "version 5" in error.what) == ("format", True)


@pytest.mark.parametrize("ending", [".mat", ".dat"])
@pytest.mark.parametrize("kind", ["gzip", "zip", "HDF5", "7.3", "Git LFS", "web page"])
def test_files_of_another_kind(tmp_path: Path, kind: str, ending: str) -> None:
    content = {
        "gzip": gzip.compress(heart_uv().tobytes()),
        "zip": b"PK\x03\x04",
        "HDF5": b"\x89HDF\r\n\x1a\n",
        "7.3": b"MATLAB 7.3 MAT-file, Platform: GLNXA64",
        "Git LFS": b"version https://git-lfs.github.com/spec/v1",
        "web page": b"<!DOCTYPE html><html>",
    }[kind]
    path = write_record(tmp_path, "r", signal_line="{name}" + ending + " 16 1000/mV 16 0 0 0 0 {lead}")
    path.with_suffix(ending).write_bytes(content.ljust(24000, b"\0"))
    error = refused(path)
    assert error.reason == "format"
    assert kind in error.what


@pytest.mark.parametrize("fault", ["formats", "offsets", "unknown"])
def test_signals_of_one_file_agree(tmp_path: Path, fault: str) -> None:
    path = write_record(tmp_path, "r")
    text = path.with_suffix(".hea").read_text()
    other = {"formats": "r.dat 24 ", "offsets": "r.dat 16+2 ", "unknown": "r.dat 17 "}[fault]
    path.with_suffix(".hea").write_text(text.replace("r.dat 16 ", other, 1))
    assert refused(path).reason == ("format" if fault == "unknown" else "header")
