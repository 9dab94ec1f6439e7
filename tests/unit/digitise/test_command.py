"""``ecgscan digitise`` with a reader that has no networks: inputs, records, table, resuming."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import wfdb
from click.testing import Result
from typer.testing import CliRunner

from ecgscan_ray import digitise as room
from ecgscan_ray.cli import app
from ecgscan_ray.digitise import Options, digitise_pages
from ecgscan_ray.errors import EcgscanError, InputError
from ecgscan_ray.filesystem import list_files, read_bytes, write_bytes_atomic
from ecgscan_ray.recording.leads import LEADS
from ecgscan_ray.recording.wfdb import read_wfdb
from tests import fake_reader
from tests.fake_reader import SIZE, num_calls, page, save, table

pytestmark = pytest.mark.usefixtures("calls")


def digitise(*arguments: object, **options: object) -> room.Digitised:
    *pages, out = [str(argument) for argument in arguments]
    return digitise_pages(pages, out, Options(**options), workers=0, reader=fake_reader.load)  # type: ignore[arg-type]


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["digitise", *(str(argument) for argument in arguments)])


def test_the_table_says_how_a_page_was_read(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    digitise(tmp_path / "a.png", tmp_path / "out", speed_mm_per_s=50.0, layout="6x2")
    (row,) = table(tmp_path / "out").values()
    expected = {
        "status": "read", "record": "a", "layout": "6x2", "layout_by": "given", "speed_mm_per_s": "50", "speed_by": "given",
        "gain_mm_per_mv": "10", "gain_by": "pulse", "gain_confidence": "1.0", "turns": "1", "px_per_mm_x": "7.9",
        "px_per_mm_y": "7.8", "quality": "0.9", "I_s": "5.0", "V6_s": "4.0", "reasons": "",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected


def test_a_record_is_read_back_as_it_was_read(tmp_path: Path) -> None:
    save(tmp_path / "scan 1.png")
    digitise(tmp_path / "scan 1.png", tmp_path / "out", gain_mm_per_mv=5.0)
    expected, _ = fake_reader.reading(SIZE).signal_mv()
    missing = np.isnan(expected)
    assert 0.6 < missing.mean() < 0.75
    record = wfdb.rdrecord(str(tmp_path / "out" / "scan-1"))
    assert (record.fs, record.units, record.fmt, record.sig_name) == (500, ["mV"] * 12, ["16"] * 12, list(LEADS))
    np.testing.assert_array_equal(np.isnan(record.p_signal.T), missing)
    assert np.nanmax(np.abs(record.p_signal.T - expected)) <= 0.0005 + 1e-6, "half a step of 1 uV"
    assert record.comments[:6] == [
        "digitised from a page, not recorded", "source: scan 1.png", "page: 1", "layout: 3x4+1 (labels)",
        "speed: 25 mm/s (grid)", "gain: 5 mm/mV (given)",
    ]  # fmt: skip
    assert "quality: 0.90" in record.comments and "V6 7.5-9 s" in record.comments[-1]
    own = read_wfdb(tmp_path / "out" / "scan-1")
    np.testing.assert_array_equal(np.isnan(own.signal_mv), missing)
    assert np.nanmax(np.abs(own.signal_mv - expected)) <= 0.0005 + 1e-6 and own.fs == 500


def test_other_formats(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    expected, belief = fake_reader.reading(SIZE).signal_mv()
    digitise(tmp_path / "a.png", tmp_path / "out", format="csv", overlay=False)
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.csv", "pages.csv"]
    lines = (tmp_path / "out" / "a.csv").read_text().splitlines()
    assert lines[0] == "time_s," + ",".join(LEADS) and len(lines) == 5001
    assert lines[1].startswith("0.0000,0.0000,") and lines[2].startswith("0.0020,") and lines[1].endswith(",,,,,,,,,")
    digitise(tmp_path / "a.png", tmp_path / "out", format="npz", overlay=False)
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.npz", "pages.csv"], "no old record"
    with np.load(tmp_path / "out" / "a.npz", allow_pickle=False) as content:
        np.testing.assert_array_equal(content["signal_mv"], expected)
        np.testing.assert_array_equal(content["belief"], belief)
        assert float(content["fs"]) == 500 and tuple(content["leads"]) == LEADS


def test_a_page_of_low_quality_is_refused_and_says_so(tmp_path: Path) -> None:
    save(tmp_path / "poor.png", fake_reader.POOR)
    assert digitise(tmp_path / "poor.png", tmp_path / "out").read == 1
    result = command(tmp_path / "poor.png", tmp_path / "out", "--min-quality", "0.5")
    assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("error: ")
    (row,) = table(tmp_path / "out").values()
    assert (row["status"], row["record"]) == ("refused", "")
    assert row["reasons"] == "quality 0.40 is below 0.5; faint trace"
    assert [path.name for path in (tmp_path / "out").glob("poor*")] == ["poor_overlay.jpg"], "and its record is gone"


def test_a_second_run_reads_what_is_new_changed_or_incomplete(tmp_path: Path, calls: Path) -> None:
    source, out = tmp_path / "scans", tmp_path / "out"
    for name in "abc":
        save(source / f"{name}.png")
    page().save(source / "two.tif", save_all=True, append_images=[page()])
    assert (digitise(source, out).read, num_calls(calls)) == (5, 5)
    again = digitise(source, out)
    assert (again.read, again.num_skipped, num_calls(calls)) == (5, 5, 5)
    first = (out / "pages.csv").read_bytes()
    save(source / "a.png", 241)
    os.utime(source / "a.png", ns=(1, 1))
    (out / "b.dat").write_bytes(b"half")
    (out / ".pages" / "two--2.json").write_bytes(b"{")
    save(source / "ward" / "c.png")
    assert (digitise(source, out).num_skipped, num_calls(calls)) == (2, 9)
    assert {row["record"] for row in table(out).values()} == {"a", "b", "c", "two", "two--2", "ward_c"}
    assert set((out / "pages.csv").read_bytes().splitlines()) >= set(first.splitlines())
    assert (digitise(source, out, gain_mm_per_mv=5.0).num_skipped, num_calls(calls)) == (0, 15)
    page().save(source / "two.tif")
    digitise(source, out, gain_mm_per_mv=5.0)
    assert not list(out.glob("two--2*")) and ("two.tif", 2) not in table(out), "a page that is gone"


def test_what_another_run_wrote_stays_in_the_table(tmp_path: Path) -> None:
    save(tmp_path / "a" / "page.png")
    save(tmp_path / "b" / "page.png")
    digitise(tmp_path / "a", tmp_path / "out")
    before = (tmp_path / "out" / "page.hea").read_bytes()
    done = digitise(tmp_path / "b", tmp_path / "out")
    assert done.read == 1 and (tmp_path / "out" / "page.hea").read_bytes() == before
    assert (
        len(list((tmp_path / "out").glob("*.hea")))
        == len((tmp_path / "out" / "pages.csv").read_text().splitlines()) - 1
        == 2
    )


def test_a_list_of_names(tmp_path: Path) -> None:
    save(tmp_path / "scans" / "a.png")
    save(tmp_path / "scans" / "more" / "b.png")
    save(tmp_path / "c d.png")
    (tmp_path / "list.txt").write_text(
        f"\ufeff# pages\r\nscans/a.png\n\nscans/more\n{tmp_path}/c d.png\ngone.png\ns3:/x\n", "utf-8"
    )
    done = digitise(f"@{tmp_path}/list.txt", tmp_path / "scans" / "a.png", tmp_path / "out")
    assert (done.read, done.failed) == (3, 2)
    assert done.problems == {"gone.png": "no such file", "s3:/x": "no such file"}
    assert {key[0] for key in table(tmp_path / "out")} == {
        "scans/a.png",
        "b.png",
        f"{tmp_path}/c d.png",
        "gone.png",
        "s3:/x",
    }


def test_the_folder_written_may_lie_in_that_of_the_pages(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    for _ in range(2):
        assert digitise(tmp_path, tmp_path / "out").failed == 0
    with pytest.raises(InputError, match="is the folder of the pages"):
        digitise(tmp_path, tmp_path)
    assert digitise(tmp_path / "a.png", tmp_path).read == 1, "one file beside its record"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone", "out"], "no such folder or file"),
        (["nothing", "out"], "no files here"),
        (["@gone.txt", "out"], "gone.txt: no such file"),
        (["a.png", "a.png"], "a.png: cannot be written"),
        (["a.png", "/proc/out"], "cannot be written"),
        (["a.png", "out", "--layout", "3x5"], "--layout: no layout named '3x5'"),
        (["a.png", "out", "--speed", "0"], "--speed: 0 is not between"),
        (["a.png", "s3:/bucket"], "neither a URI nor a path"),
    ],
)
def test_bad_arguments_are_one_line_and_nothing_is_written(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.png")
    (tmp_path / "nothing").mkdir()
    monkeypatch.chdir(tmp_path)
    result = command(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: ") and message in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "nothing"]


def test_no_page_read_is_status_1(tmp_path: Path) -> None:
    save(tmp_path / "blank.png", fake_reader.BLANK)
    result = command(tmp_path / "blank.png", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, f"0 pages read, 1 refused, 0 failed: {tmp_path / 'out'}\n")
    assert len(table(tmp_path / "out")) == 1


def test_a_full_disk_ends_the_job_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.png")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(EcgscanError, match="No space left"):
        digitise(tmp_path / "a.png", tmp_path / "out")
    assert not list((tmp_path / "out").glob("a*"))


def test_pages_and_records_in_a_bucket(s3_server: str, tmp_path: Path) -> None:
    place = f"{s3_server}/digitise"
    content = io.BytesIO()
    page().save(content, "PNG")
    write_bytes_atomic(f"{place}/pages/ward/a.png", content.getvalue())
    write_bytes_atomic(f"{place}/pages/b.png", b"")
    for kept in (0, 1):
        done = digitise(f"{place}/pages", f"{place}/out")
        assert (done.read, done.failed, done.num_skipped) == (1, 1, kept)
    assert list_files(f"{place}/out") == ["a.dat", "a.hea", "a_overlay.jpg", "pages.csv"]
    assert read_bytes(f"{place}/out/a.hea").startswith(b"a 12 500 5000")
    assert digitise(f"{place}/pages/ward/a.png", f"file://{tmp_path}/one").read == 1
    assert (tmp_path / "one" / "a.hea").exists()


@pytest.mark.parametrize("writes", range(4))
def test_a_page_that_is_half_written_again_is_neither_the_old_nor_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: Path, writes: int
) -> None:
    """Samples, overlay, header, state: an end before each of these."""
    save(tmp_path / "a.png")
    digitise(tmp_path / "a.png", tmp_path / "out", gain_mm_per_mv=10.0)
    done = 0

    def write_some(uri: str, data: bytes) -> None:
        nonlocal done
        if done == writes:
            raise KeyboardInterrupt
        done += 1
        write_bytes_atomic(uri, data)

    with monkeypatch.context() as patch:
        patch.setattr("ecgscan_ray.digitise.state.write_bytes_atomic", write_some)
        with pytest.raises(KeyboardInterrupt):
            digitise(tmp_path / "a.png", tmp_path / "out", gain_mm_per_mv=20.0)
    assert (tmp_path / "out" / "a.hea").exists() == (writes == 3)
    before = num_calls(calls)
    assert digitise(tmp_path / "a.png", tmp_path / "out", gain_mm_per_mv=10.0).read == 1
    assert num_calls(calls) == before + 1, "read again"
