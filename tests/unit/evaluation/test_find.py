"""``ecgscan find``: files of pages against a store, by the function and by the command."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from ecgscan_ray import digitise as room
from ecgscan_ray.cli import app
from ecgscan_ray.digitise import Options
from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.evaluation.find import FoundPage, find_pages
from ecgscan_ray.paper.layout import timed
from ecgscan_ray.reading.leads import Found, PageReading
from ecgscan_ray.recording.recording import Recording
from tests import fake_reader
from tests.recorded import recorded
from tests.stores import write_store

FS = fake_reader.FS
STRANGER, *OTHERS = recorded(41)
LAYOUT = "3x4"


def shown() -> Recording:
    """The recording whose 3x4 page the reader without networks reads from every picture."""
    signal = np.zeros((12, 5000), np.float32)
    for reading in fake_reader.reading((120, 200), Options(layout=LAYOUT)).strips:
        first = round(reading.strip.start_s * FS)
        signal[reading.strip.lead, first : first + len(reading.mv)] = np.nan_to_num(reading.mv)
    return Recording("shown", "made-up", "someone", signal, FS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_store(
        tmp_path_factory.mktemp("with") / "store", [*OTHERS[:38], shown()]
    )  # the last is in the split test


@pytest.fixture(scope="module")
def other_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_store(tmp_path_factory.mktemp("without") / "store", OTHERS)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Good files, one of two pages, and bad ones."""
    folder = tmp_path / "scans"
    folder.mkdir()
    picture(240).save(folder / "good.png")
    picture(240).save(folder / "two.tif", save_all=True, append_images=[picture(fake_reader.BLANK)])
    picture(fake_reader.RAISES).save(folder / "fault.png")
    (folder / "torn.png").write_bytes((folder / "good.png").read_bytes()[:60])
    return folder


def picture(first: int) -> Image.Image:
    pixels = np.full((120, 200, 3), 240, np.uint8)
    pixels[0, 0] = first
    return Image.fromarray(pixels)


def find(pages: object, store: str, **options: object) -> dict[str, FoundPage]:
    results = find_pages(str(pages), store, Options(layout=LAYOUT), workers=0, reader=fake_reader.load, **options)  # type: ignore[arg-type]
    return {result.name: result for result in results}


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["find", *(str(argument) for argument in arguments)])


def test_the_recording_of_each_page_is_found_in_any_split_and_bad_files_are_named(scans: Path, store: str) -> None:
    progress: list[tuple[int, int]] = []
    results = find(scans, store, top=3, progress=lambda done, total: progress.append((done, total)))
    assert list(results) == ["fault.png", "good.png", "torn.png", "two.tif", "two.tif#2"]
    assert [results[name].status for name in results] == ["not read", "found", "not read", "found", "not read"]
    for name in ("good.png", "two.tif"):
        matches = results[name].matches
        assert matches is not None and matches.probability > 0.9 and len(matches.matches) == 3
        assert (matches.matches[0].recording_id, matches.matches[0].source) == ("shown", "made-up")
        assert results[name].describe().startswith(f"{name}: shown (made-up), probability ")
    assert results["two.tif#2"].reasons == "no ECG page found in the picture"
    assert "ZeroDivisionError" in results["fault.png"].reasons and results["torn.png"].reasons
    assert progress[-1] == (4, 4)


def test_a_page_whose_recording_is_not_there_is_told_as_such(scans: Path, other_store: str) -> None:
    result = find(scans / "good.png", other_store)[str(scans / "good.png")]
    assert result.status == "not in the store" and "not in the store (nearest " in result.describe()
    assert result.matches is not None and result.matches.probability < 0.5


@pytest.mark.parametrize("by", ["assumed", "given"])
def test_a_page_of_50_mm_per_s_is_found_where_25_is_assumed_and_nowhere_else(scans: Path, store: str, by: str) -> None:
    """The page of ``shown`` at 50 mm/s, read as one of 25: its first five seconds over the whole width."""
    signal = shown().signal_mv

    def read(image: np.ndarray, options: Options) -> PageReading:
        page = fake_reader.read(image, options)
        strips = [
            replace(at_25, mv=signal[at_50.lead, round(at_50.start_s * FS) :][: len(at_25.mv) // 2].repeat(2))
            for at_25, at_50 in zip(page.strips, timed(LAYOUT, 50.0).strips, strict=True)
        ]
        return replace(page, strips=tuple(strips), speed=Found(25.0, by, 0.9))

    (result,) = find_pages(
        str(scans / "good.png"), store, Options(layout=LAYOUT), workers=0, reader=lambda threads: read
    )
    assert result.status == ("found" if by == "assumed" else "not in the store")
    assert ("found at 50 mm/s" in result.reasons) == (by == "assumed")


def test_a_poor_reading_does_not_say_that_a_recording_is_not_there(scans: Path, other_store: str) -> None:
    picture(fake_reader.POOR).save(scans / "good.png")
    (result,) = find(scans / "good.png", other_store).values()
    assert (
        result.status == "cannot tell" and ": cannot tell (quality of the reading 0.40, nearest " in result.describe()
    )


def test_more_pages_than_are_searched_together(scans: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecgscan_ray.evaluation.find.PAGES_AT_ONCE", 2)
    results = find(scans, store)
    assert sorted(name for name in results if results[name].status == "found") == ["good.png", "two.tif"]
    assert len(results) == 5


def test_what_cannot_be_searched_is_refused_before_a_page_is_read(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a store"):
        find(scans, str(tmp_path / "absent"))
    with pytest.raises(StoreError, match="without recordings"):
        find(scans, write_store(tmp_path / "empty", []))
    with pytest.raises(InputError, match="--layout"):
        find_pages(str(scans), write_store(tmp_path / "full", OTHERS[:3]), Options(layout="3x5"))


def test_the_command_prints_a_line_for_each_page_and_writes_a_table(
    scans: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "load_reader", fake_reader.load)
    out = tmp_path / "found.csv"
    picture(fake_reader.DIES).save(scans / "death.png")
    result = command(scans, "--in", store, "--out", out, "--top", 2, "--layout", LAYOUT, "--workers", 2)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["good.png", "two.tif"]
    assert all(": shown (made-up), probability " in line for line in lines)
    assert "not read torn.png: " in result.stderr and "not read two.tif#2: " in result.stderr
    assert "2 pages found, 0 not in the store, 0 undecided, 4 not read" in result.stderr
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    good = [row for row in rows if row["file"] == "good.png"]
    assert [(row["rank"], row["status"]) for row in good] == [("1", "found"), ("2", "found")]
    assert good[0]["recording_id"] == "shown" and float(good[0]["probability"]) > 0.9 > float(good[1]["score"])
    assert good[1]["probability"] == "" and abs(float(good[0]["shift_s"])) < 0.02
    (death,) = [row for row in rows if row["file"] == "death.png"]
    assert (death["status"], death["rank"]) == ("not read", "") and "process that read it died" in death["reasons"]


def test_the_exit_status_is_that_of_digitise(
    scans: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "load_reader", fake_reader.load)
    assert command(scans / "torn.png", "--in", store).exit_code == 1
    assert command(scans / "good.png", "--in", tmp_path / "absent").exit_code == 2
    assert command(tmp_path / "absent.png", "--in", store).exit_code == 2
    for option, value in (("--speed", 0), ("--gain", 0), ("--layout", "3x5")):
        assert f"error: {option}: " in command(scans / "good.png", "--in", store, option, value).stderr
