"""``ecgscan digitise`` by processes, with a reader that has no networks: odd files, an end at any time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wfdb
from PIL import Image
from typer.testing import CliRunner

from ecgscan_ray.cli import app
from ecgscan_ray.digitise import Options, digitise_pages
from tests import fake_reader
from tests.fake_reader import SIZE, num_calls, page, save, table

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("calls")


def test_files_of_every_kind_and_odd_ones_are_rows_and_end_nothing(tmp_path: Path) -> None:
    source, out = tmp_path / "scans", tmp_path / "out"
    save(source / "a.png")
    save(source / "ward" / "a.png")
    save(source / "Müller, 心電図.png")
    page().save(source / "two.tif", save_all=True, append_images=[page(), page(fake_reader.BLANK)])
    page().save(source / "three.pdf", save_all=True, append_images=[page(), page()], resolution=200)
    exif = Image.Exif()
    exif[274] = 6
    page().save(source / "turned.jpg", exif=exif)
    (source / "torn.png").write_bytes((source / "a.png").read_bytes()[:60])
    (source / "empty.png").write_bytes(b"")
    (source / "text.png").write_text("not a picture")
    (source / "torn.pdf").write_bytes(b"%PDF-1.7\n1 0 obj\n%%EOF")
    Image.new("1", (13000, 13000)).save(source / "bomb.png")
    save(source / "fault.png", fake_reader.RAISES)
    save(source / "death.png", fake_reader.DIES)
    result = CliRunner().invoke(app, ["digitise", str(source), str(out), "--workers", "2"])
    assert result.exit_code == 0, result.output
    rows = table(out)
    status = {key: row["status"] for key, row in rows.items()}
    reasons = {key[0]: row["reasons"] for key, row in rows.items()}
    assert {key for key, value in status.items() if value == "read"} == {
        ("a.png", 1), ("ward/a.png", 1), ("Müller, 心電図.png", 1), ("two.tif", 1), ("two.tif", 2), ("three.pdf", 1),
        ("three.pdf", 2), ("three.pdf", 3), ("turned.jpg", 1),
    }  # fmt: skip
    assert {key for key, value in status.items() if value == "refused"} == {("two.tif", 3)}
    assert {key[0] for key, value in status.items() if value == "failed"} == {
        "torn.png", "empty.png", "text.png", "torn.pdf", "bomb.png", "fault.png", "death.png",
    }  # fmt: skip
    assert reasons["two.tif"] == "no ECG page found in the picture"
    assert reasons["empty.png"] == "an empty file" and "not a picture" in reasons["text.png"]
    assert reasons["torn.pdf"] == "a damaged PDF file"
    assert "megapixels" in reasons["bomb.png"] and "process that read it died" in reasons["death.png"]
    assert reasons["fault.png"] == "the reading failed (ZeroDivisionError: a fault of the reader)"
    records = {row["record"] for row in rows.values() if row["record"]}
    assert records == {path.stem for path in out.glob("*.hea")} == {path.stem for path in out.glob("*.dat")}
    assert {"two", "two--2", "three--3", "Muller", "turned"} <= records and len(records) == 9
    assert {f"{name}_overlay.jpg" for name in records} == {path.name for path in out.glob("*.jpg")}
    with Image.open(out / "turned_overlay.jpg") as overlay:
        assert overlay.width == SIZE[0], "drawn over the upright page"
    assert result.stdout.splitlines()[-1] == f"9 pages read, 1 refused, 7 failed: {out}"
    assert "not read bomb.png: " in result.stderr and "not read two.tif#3: " in result.stderr
    assert not list(out.glob(".lease*")) and not list(out.glob("*.tmp-*"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_leaves_whole_pages_alone_and_goes_on(
    tmp_path: Path, calls: Path, number: signal.Signals
) -> None:
    source, out = tmp_path / "scans", tmp_path / "out"
    for name in "abcdef":
        save(source / f"{name}.png")
    frames = [page() for _ in range(20)]
    frames[0].save(source / "many.tif", save_all=True, append_images=frames[1:])
    program = (
        "import ecgscan_ray.digitise as room\nfrom tests import fake_reader\nroom.load_reader = fake_reader.load_slow\n"
        "from ecgscan_ray.cli import main\nif __name__ == '__main__':\n    main()\n"
    )
    (tmp_path / "program.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    arguments = [sys.executable, str(tmp_path / "program.py"), "digitise", str(source), str(out)]
    process = subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while num_calls(calls) < 9:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGINT:
        said = "interrupted: the pages read so far are complete; the same command goes on with the others"
        assert (process.returncode, errors.splitlines()[-1]) == (130, said)
    assert not (out / "pages.csv").exists()
    for header in out.glob("*.hea"):
        wfdb.rdrecord(str(header.with_suffix("")))
    before = num_calls(calls)
    assert 9 <= before <= 11
    done = digitise_pages([str(source)], str(out), Options(), workers=0, reader=fake_reader.load)
    assert (done.read, done.failed) == (26, 0) and done.num_skipped >= before - 2
    assert num_calls(calls) == before + 26 - done.num_skipped
    assert len(list(out.glob("*.hea"))) == 26 and not list(out.glob("**/*.tmp-*"))
