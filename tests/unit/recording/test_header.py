"""Headers: every field is understood or refused, and nothing large is made for a promise."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray.errors import RecordingError
from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.wfdb import read_channels, read_wfdb
from tests.records import heart_uv, packed, write_record


def refused(path: Path) -> RecordingError:
    with pytest.raises(RecordingError) as caught:
        check(read_wfdb(path))
    assert "\n" not in str(caught.value)
    return caught.value


def with_first_line(folder: Path, line: str) -> Path:
    path = write_record(folder, "r")
    text = path.with_suffix(".hea").read_text()
    path.with_suffix(".hea").write_text(text.replace("r 12 100 1000", line))
    return path


@pytest.mark.parametrize(
    ("line", "fs"),
    [("r 12 100/24.5(0) 1000", 100.0), ("r 12 62.4725 1000", 62.4725), ("r 12 1e2", 100.0), ("r 12 360/24.5", 360.0)],
)
def test_rates(tmp_path: Path, line: str, fs: float) -> None:
    channels = read_channels(with_first_line(tmp_path, line))
    assert (channels.fs, channels.values.shape) == (fs, (12, 1000))


@pytest.mark.parametrize("format", ["16", "212"])
@pytest.mark.parametrize(
    "line",
    [
        "r 12 100 0",
        "r 12 100",
        "r 12 100 1000 2006",
        "r 12 100 1000 05-May-2020 14:50:55",
        "r 12 100 1000 10:20:30 01/02/89",
        "r 12 100 1000 10:20:30 31/02/2020",
        "r 12 100/100(0) 1000 10:20:30.123",
    ],
)
def test_first_lines_of_public_archives(tmp_path: Path, line: str, format: str) -> None:
    """Dates that are none and a length of 0 (not stated), in formats that the package wfdb unpacks and in others."""
    counts = (heart_uv() // 2).clip(-2000, 2000)
    signal_line = "{name}.dat " + format + " 500/mV 16 0 {first} {checksum} 0 {lead}"
    path = write_record(tmp_path, "r", counts, signal_line=signal_line)
    path.with_suffix(".dat").write_bytes(packed(counts, format))
    text = path.with_suffix(".hea").read_text()
    path.with_suffix(".hea").write_text(text.replace("r 12 100 1000", line))
    np.testing.assert_allclose(read_wfdb(path).signal_mv, counts / 500, rtol=1e-6)


@pytest.mark.parametrize(
    "line",
    [
        "r 12",
        "r 12 ~ 1000",
        "r 12 0 1000",
        "r 12 -100 1000",
        "r 12 nan 1000",
        "r 12 1e999 1000",
        "r 12 49 1000",
        "r 12 5001 1000",
        "r 12 0.004 1000",
        "r 12 1e308 1000",
        "r 12 100Hz 1000",
    ],
)
def test_a_rate_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    assert refused(with_first_line(tmp_path, line)).reason in ("sampling_rate", "header")


@pytest.mark.parametrize("line", ["ge/00001 12 100 1000", "r/3 12 100 1000", "r.mat 12 100 1000", "r 12 100 1000.5"])
def test_a_first_line_that_is_not_understood(tmp_path: Path, line: str) -> None:
    error = refused(with_first_line(tmp_path, line))
    assert error.reason == "header"
    assert line[:8] in error.what


@pytest.mark.parametrize(
    "lines",
    [
        "x 100000000 100 1000",
        "x 300 100 1000",
        "x 12 100 99999999999\n" + "\n".join("x.dat 16 1000 16 0 0 0 0 I" for _ in range(12)),
        "x 1 100 1000\nx.dat 16x999999 1000 16 0 0 0 0 I",
        "x/1 12 100 999999999\nx 999999999",
        "x/99999999 12 100 1000\nx 1000",
    ],
)
def test_great_promises_cost_nothing(tmp_path: Path, lines: str) -> None:
    (tmp_path / "x.hea").write_text(lines)
    (tmp_path / "x.dat").write_bytes(bytes(24000))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert refused(tmp_path / "x").reason in ("header", "too_large")
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_comments_and_lines_of_any_length_are_read_at_once(tmp_path: Path) -> None:
    path = write_record(tmp_path, "long", comments=["a" + " " * 300_000 + "!", "Age: 56"])
    start = time.process_time()
    assert read_wfdb(path).age == 56
    assert time.process_time() - start < 1
    path = write_record(tmp_path, "longer", comments=["a" * 1_100_000])
    assert refused(path).reason == "header"
    path = write_record(tmp_path, "line", names=["I", "II" + " x" * 50_000, *"abcdefghij"])
    assert refused(path).reason == "header"


@pytest.mark.parametrize(
    "line",
    [
        "{name}.dat 16x0 1000/mV 16 0 0 0 0 {lead}",
        "../{name}.dat 16 1000/mV 16 0 0 0 0 {lead}",
        "/etc/hostname 16 1000/mV 16 0 0 0 0 {lead}",
        "{name}.dat",
        "{name}.dat 16 1000(0)/mV 16 0 0 x 0 {lead}",
        "{name}.dat 16 1000(0/mV 16 0 0 0 0 {lead}",
    ],
)
def test_a_signal_line_that_is_not_understood(tmp_path: Path, line: str) -> None:
    assert refused(write_record(tmp_path, "r", signal_line=line)).reason == "header"


@pytest.mark.parametrize("gain", ["1e999/mV", "1e20/mV", "1e-300/uV", "-1e13"])
def test_a_gain_that_cannot_be(tmp_path: Path, gain: str) -> None:
    assert refused(write_record(tmp_path, "r", gain=gain)).reason == "implausible_gain"


def test_baseline_and_unit_exchanged_are_no_unit(tmp_path: Path) -> None:
    assert refused(write_record(tmp_path, "r", gain="1000/mV(0)")).reason == "units"


@pytest.mark.parametrize("change", [-1, 1])
def test_as_many_signal_lines_as_promised(tmp_path: Path, change: int) -> None:
    path = write_record(tmp_path, "r")
    lines = path.with_suffix(".hea").read_text().splitlines()
    lines = lines[:-1] if change < 0 else [*lines, lines[-1].replace("V6", "V7")]
    path.with_suffix(".hea").write_text("\n".join(lines))
    error = refused(path)
    assert error.reason == "header"
    assert f"{12 + change} have a line" in error.what


def test_a_missing_adc_field_shifts_nothing(tmp_path: Path) -> None:
    path = write_record(tmp_path, "r", signal_line="{name}.dat 16 {gain} {lead}")
    np.testing.assert_array_equal(read_wfdb(path).signal_mv, (heart_uv() / 1000).astype(np.float32))
