"""Mutated headers and signal files of every kind of record, read and checked as ``prepare`` does."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgscan_ray.recording.checks import check
from ecgscan_ray.recording.leads import LEADS, MEASURED_LEADS
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.wfdb import read_wfdb
from tests.fuzz.harness import fuzz, mutate
from tests.records import heart_uv, packed, write_record

DATA = Path(__file__).parents[1] / "data"
STATED = "{name}.dat FORMAT {gain} 16 0 {first} {checksum} 0 {lead}"
KINDS = ("16", "16-no-checksums", "212", "24", "310", "flac", "mat", "two-files", "segments")
HEADERS, SIGNALS = 280, 167
"""Mutants of each kind: 2,520 headers and 1,503 signal files."""
_TOKENS = (b"0", b"-1", b"1", b"12", b"1e20", b"1e-20", b"1e999", b"nan", b"99999999999", b"1000000", b"I", b"~", b"r",
           b"0/mV", b"200/V", b"1000/mmHg", b"16+24", b"212", b"516", b"16x1000", b"16:99999", b"r/2", b"")  # fmt: skip


def write_kind(kind: str, folder: Path) -> None:
    """A sound record of this kind, called ``r``."""
    match kind:
        case "16" | "16-no-checksums" | "24":
            line = STATED.replace("FORMAT", kind[:2])
            line = line.replace("{first} {checksum}", "0 0") if "no" in kind else line
            write_record(folder, "r", signal_line=line, comments=["Age: 56", "Sex: Male", "Dx: 426177001"])
            (folder / "r.dat").write_bytes(packed(heart_uv(), kind[:2]))
        case "212" | "310":
            counts = (heart_uv() // 4).clip(-500, 500)
            write_record(folder, "r", counts, gain="250/mV", signal_line=STATED.replace("FORMAT", kind))
            (folder / "r.dat").write_bytes(packed(counts, kind))
        case "flac":
            counts = heart_uv()[[LEADS.index(lead) for lead in MEASURED_LEADS]].T.astype(np.int64)
            write = {"fmt": ["516"] * 8, "adc_gain": [1000.0] * 8, "baseline": [0] * 8, "write_dir": str(folder)}
            wfdb.wrsamp("r", 100, ["mV"] * 8, list(MEASURED_LEADS), d_signal=counts, **write)
        case "mat":
            header = (DATA / "HR00001.hea").read_text().replace("HR00001", "r").replace("200/mV", "1000/mV")
            (folder / "r.hea").write_text(header)
            shutil.copy(DATA / "HR00001.mat", folder / "r.mat")
        case "two-files":
            write_record(folder, "r", signal_line=STATED.replace("FORMAT", "16"))
            first, *lines = (folder / "r.hea").read_text().splitlines()
            lines[6:] = [line.replace("r.dat", "s.dat") for line in lines[6:]]
            (folder / "r.hea").write_text("\n".join([first, *lines]))
            counts = heart_uv()
            (folder / "r.dat").write_bytes(packed(counts[:6], "16"))
            (folder / "s.dat").write_bytes(packed(counts[6:], "16"))
        case "segments":
            counts = heart_uv()
            write_record(folder, "a", counts[:, :400], signal_line=STATED.replace("FORMAT", "16"))
            write_record(folder, "b", counts[:, 500:], signal_line=STATED.replace("FORMAT", "16"))
            (folder / "r.hea").write_text("r/3 12 100 1000\na 400\n~ 100\nb 500\n")


def read(folder: Path) -> Recording:
    recording = read_wfdb(folder / "r")
    check(recording)
    return recording


@functools.cache
def sound(kind: str) -> Recording:
    with tempfile.TemporaryDirectory() as folder:
        write_kind(kind, Path(folder))
        return read(Path(folder))


def make(kind: str, ending: str, number: int, folder: Path) -> Path:
    target = folder / kind
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    write_kind(kind, target)
    rng = np.random.default_rng([number, KINDS.index(kind), len(ending)])
    files = sorted(path for path in target.iterdir() if (path.suffix == ".hea") == (ending == ".hea"))
    file = files[int(rng.integers(len(files)))]
    content = file.read_bytes()
    change = exchange_words if ending == ".hea" and rng.random() < 0.5 else mutate
    file.write_bytes(change(content, rng))
    return target


def exchange_words(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three of a header's words become other ones."""
    words = data.split(b" ")
    for _ in range(int(rng.integers(1, 4))):
        words[int(rng.integers(len(words)))] = _TOKENS[int(rng.integers(len(_TOKENS)))]
    return b" ".join(words)


def make_header(kind: str, number: int, folder: Path) -> Path:
    return make(kind, ".hea", number, folder)


def make_signals(kind: str, number: int, folder: Path) -> Path:
    return make(kind, ".dat", number, folder)


def attempt(folder: Path) -> str:
    expected, found = sound(folder.name), read(folder)
    if found.fs != expected.fs or found.sig_len != expected.sig_len:
        return "other"
    rounding = 1.5 / (expected.steps_per_mv or np.inf)  # a limb lead may come from the lead laws
    same = np.allclose(found.signal_mv, expected.signal_mv, rtol=0, atol=rounding, equal_nan=True)
    return "same" if same else "other"


@pytest.mark.verify
@pytest.mark.parametrize("kind", KINDS)
def test_headers(kind: str, tmp_path: Path) -> None:
    tally = fuzz(f"headers, {kind}", functools.partial(make_header, kind), attempt, HEADERS, tmp_path)
    assert not tally.findings


@pytest.mark.verify
@pytest.mark.parametrize("kind", KINDS)
def test_signal_files(kind: str, tmp_path: Path) -> None:
    tally = fuzz(f"signal files, {kind}", functools.partial(make_signals, kind), attempt, SIGNALS, tmp_path)
    assert not tally.findings
    if kind != "16-no-checksums":  # a change passes where the sums of all signals stay
        assert tally.outcomes["other"] <= 0.01 * SIGNALS


def test_the_sound_records_pass(tmp_path: Path) -> None:
    for kind in KINDS:
        assert sound(kind).fs in (100.0, 500.0)
    kept = heart_uv() / np.float32(1000)
    np.testing.assert_allclose(sound("two-files").signal_mv, kept, rtol=1e-6)
