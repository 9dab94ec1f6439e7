"""PTB-XL as published, and one's own folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgscan_ray.errors import InputError, RecordingError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.labels import SUPERCLASS_OF, superclasses
from ecgscan_ray.recording.language import language
from ecgscan_ray.recording.reports import repaired
from ecgscan_ray.recording.sources import open_source
from tests.records import heart_uv, list_items, write_record

HEAD = "ecg_id,patient_id,age,sex,report,scp_codes,strat_fold,filename_lr,filename_hr"


def ptbxl_tree(folder: Path, *rows: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scp_statements.csv").write_text(",description,diagnostic_class\nNORM,normal,NORM\nSR,sinus,\n")
    (folder / "ptbxl_database.csv").write_text("\n".join([HEAD, *rows]) + "\n", encoding="utf-8")
    write_record(folder / "records100/00000", "00001_lr")
    write_record(folder / "records500/00000", "00001_hr", heart_uv(fs=500), fs=500)
    return folder


ROW = "1,15709.0,300.0,1,verlÄngert,\"{'NORM': 80.0, 'SR': 0.0}\",3,records100/00000/00001_lr,records500/00000/00001_hr"


@pytest.mark.parametrize(("rate", "samples"), [(100, 1000), (500, 5000)])
def test_ptbxl(tmp_path: Path, rate: int, samples: int) -> None:
    source = open_source("ptbxl", rate)
    (item,) = list_items(source, ptbxl_tree(tmp_path, ROW))
    recording = source.read(item, ArchiveFiles(tmp_path))
    assert (recording.id, recording.patient_id, recording.fold, recording.fs) == ("1", "15709", 3, rate)
    assert recording.signal_mv.shape == (12, samples)
    assert recording.report == "verlÄngert"
    assert recording.labels == {"NORM": 80.0, "SR": 0.0}
    assert recording.sex == "female"
    assert recording.age == 90.0  # 300 = over 89


def test_ptbxl_with_the_statements_of_ptbxl_plus(tmp_path: Path) -> None:
    tree = ptbxl_tree(tmp_path, ROW, ROW.replace("1,15709", "2,15709"))
    (tree / "labels").mkdir()
    (tree / "labels/12sl_statements.csv").write_text("ecg_id,statements\n1,\"['NSR', 'NML']\"\n2,NSR' ]\n")
    source, archive = open_source("ptbxl"), ArchiveFiles(tree)
    first, second = source.list_records(archive)
    labels = source.read(first, archive).labels
    assert labels == {"NORM": 80.0, "SR": 0.0, "12SL:NSR": 100.0, "12SL:NML": 100.0}
    with pytest.raises(RecordingError, match="12sl_statements"):
        source.read(second, archive)


@pytest.mark.parametrize("codes", ["{'NORM': 100.0", "{'NONSENSE': 1.0}", "sinus", "['NORM']"])
def test_ptbxl_row_with_bad_statements_is_one_bad_recording(tmp_path: Path, codes: str) -> None:
    source = open_source("ptbxl")
    bad = ROW.replace("{'NORM': 80.0, 'SR': 0.0}", codes).replace("1,15709.0", "2,15709.0")
    items = list_items(source, ptbxl_tree(tmp_path, ROW, bad))
    assert source.read(items[0], ArchiveFiles(tmp_path)).id == "1"
    with pytest.raises(RecordingError) as caught:
        source.read(items[1], ArchiveFiles(tmp_path))
    assert caught.value.reason == "labels"


@pytest.mark.parametrize("gone", ["ptbxl_database.csv", "scp_statements.csv", "records100"])
def test_incomplete_ptbxl(tmp_path: Path, gone: str) -> None:
    tree = ptbxl_tree(tmp_path, ROW)
    (tree / gone).rename(tree / "elsewhere")
    with pytest.raises(InputError, match=gone):
        list_items(open_source("ptbxl"), tree)


def test_ptbxl_table_without_a_column(tmp_path: Path) -> None:
    tree = ptbxl_tree(tmp_path, ROW)
    (tree / "ptbxl_database.csv").write_text("ecg_id,patient_id\n1,2\n")
    with pytest.raises(InputError, match="no column strat_fold"):
        list_items(open_source("ptbxl"), tree)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",3,records", ",fold_3,records", "row 2: strat_fold 'fold_3'"),
        (",300.0,", ",310,", "row 2: age '310'"),
        (",300.0,1,", ",300.0,2,", "row 2: sex '2'"),
        ("records100/00000", "../records100/00000", "row 2: filename_lr .* outside"),
        ("records100/00000", "/data/records100/00000", "row 2: filename_lr .* outside"),
        (",verlÄngert,", ",verlÄngert, links,", "row 2: 10 fields, the header has 9"),
    ],
)
def test_ptbxl_table_that_is_not_understood(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list_items(open_source("ptbxl"), ptbxl_tree(tmp_path, ROW.replace(old, new)))


def test_ptbxl_with_two_rows_of_one(tmp_path: Path) -> None:
    assert len(list_items(open_source("ptbxl"), ptbxl_tree(tmp_path, ROW, ROW))) == 2, (
        "equal rows: one is left out later"
    )
    with pytest.raises(InputError, match=r"row 3: ecg_id 1\.0 is that of row 2 too"):
        list_items(open_source("ptbxl"), ptbxl_tree(tmp_path, ROW, ROW.replace("1,15709", "1.0,15710")))


def test_ptbxl_saved_again_by_pandas(tmp_path: Path) -> None:
    """It names the first column, and writes numbers with a fraction."""
    tree = ptbxl_tree(
        tmp_path, ROW.replace("1,15709", "1.0,15709").replace(",1,verl", ",1.0,verl").replace(",3,", ",3.0,")
    )
    statements = tree / "scp_statements.csv"
    statements.write_text("Unnamed: 0" + statements.read_text())
    (item,) = list_items(open_source("ptbxl"), tree)
    assert (item.id, item.patient_id, item.fold, item.details["fault"]) == ("1", "15709", 3, "")
    assert open_source("ptbxl").read(item, ArchiveFiles(tree)).sex == "female"


def test_a_copy_of_ptbxl_with_one_rate(tmp_path: Path) -> None:
    tree = ptbxl_tree(tmp_path, ROW)
    (tree / "records100").rename(tree / "elsewhere")
    with pytest.raises(InputError, match="It has records500: give --rate 500"):
        list_items(open_source("ptbxl", 100), tree)


def test_repairs_of_reports_are_for_ptbxl_alone(tmp_path: Path) -> None:
    report = "f#r lvh. Edit: LVH 80"
    (item,) = list_items(open_source("ptbxl"), ptbxl_tree(tmp_path / "ptbxl", ROW.replace("verlÄngert", report)))
    assert open_source("ptbxl").read(item, ArchiveFiles(tmp_path / "ptbxl")).report == "für lvh."
    write_record(tmp_path / "own", "a")
    (tmp_path / "own/recordings.csv").write_text(f"record,report\na,{report}\n")
    (item,) = list_items(open_source("folder"), tmp_path / "own")
    assert open_source("folder").read(item, ArchiveFiles(tmp_path / "own")).report == report


@pytest.mark.parametrize(
    ("report", "repaired_report"),
    [
        ("lagetyp normal 4.46        unbestÄtigter bericht", "lagetyp normal"),
        ("mÄssige kriterien f#r lvh, #bergang", "mÄssige kriterien für lvh, übergang"),
        ("sinus rhythm. Edit: LVH 80, (NDT)", "sinus rhythm."),
        ("bericht #3", "bericht #3"),
        ("4.46  unbestÄtigter bericht", None),
        ("Edit: LVH", None),
        (None, None),
    ],
)
def test_repaired_reports(report: str | None, repaired_report: str | None) -> None:
    assert repaired(report, "ptbxl") == repaired_report
    assert repaired(report, "folder") == report


def test_ptbxl_at_another_rate() -> None:
    with pytest.raises(InputError, match="250 Hz"):
        open_source("ptbxl", 250)
    with pytest.raises(InputError, match="each recording's own"):
        open_source("ptbxl", None)


def test_unknown_source() -> None:
    with pytest.raises(InputError, match="Did you mean 'ptbxl'"):
        open_source("ptb-xl")


def test_folder_with_table(tmp_path: Path) -> None:
    write_record(tmp_path / "deep/er", "a")
    write_record(tmp_path, "b", comments=["Age: 40", "Sex: M", "Dx: 1,2", "Patient ID: 77"])
    (tmp_path / "recordings.csv").write_text(
        "Record,patient_id,report,labels,age,sex,fold,split,other\n"
        "deep/er/a,p1,normales ekg,NORM; SR,56,female,4,val,x\n"
        "c.hea,p2,,{'MI': 50},,,,,\n"
    )
    source = open_source("folder", None)
    b, c, a = list_items(source, tmp_path)
    recording = source.read(a, ArchiveFiles(tmp_path))
    assert (recording.id, recording.patient_id, recording.report) == ("deep/er/a", "p1", "normales ekg")
    assert (recording.age, recording.sex, recording.fold, a.split) == (56.0, "female", 4, "validation")
    assert recording.labels == {"NORM": 100.0, "SR": 100.0}
    assert b.patient_id == "77"  # known before the split
    recording = source.read(b, ArchiveFiles(tmp_path))
    assert (recording.age, recording.sex, list(recording.labels), recording.report) == (40.0, "male", ["1", "2"], None)
    with pytest.raises(RecordingError) as caught:
        source.read(c, ArchiveFiles(tmp_path))
    assert caught.value.reason == "missing_file"


def test_folder_without_table(tmp_path: Path) -> None:
    write_record(tmp_path, "a")
    source = open_source("folder", None)
    (item,) = list_items(source, tmp_path)
    np.testing.assert_allclose(source.read(item, ArchiveFiles(tmp_path)).signal_mv, heart_uv() / 1000, atol=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [("record,split\na,holdout\n", "holdout"), ("record\n../a\n", "outside")],
)
def test_folder_with_a_bad_table(tmp_path: Path, table: str, message: str) -> None:
    write_record(tmp_path, "a")
    (tmp_path / "my.csv").write_text(table)
    with pytest.raises(InputError, match=message):
        list_items(open_source("folder", None), tmp_path)


def test_folder_without_recordings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recordings"):
        list_items(open_source("folder", None), tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        list_items(open_source("folder", None), tmp_path / "nowhere")


def test_superclasses() -> None:
    assert len(SUPERCLASS_OF) == 44
    assert superclasses({"IMI": 0.0, "SR": 100.0, "LVH": 15.0, "ISC_": 50.0}) == {"MI", "HYP", "STTC"}
    assert superclasses({"SR": 0.0}) == set()
    assert superclasses(["CD"]) == {"CD"}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("sinusrhythmus normales ekg", "de"),
        ("linkstyp, verdacht auf infarkt", "de"),
        ("sinus rhythm. left axis deviation.", "en"),
        ("atrial fibrillation", "en"),
        ("sinusrytm", "other"),
        ("", None),
        (None, None),
    ],
)
def test_language(report: str | None, expected: str | None) -> None:
    assert language(report) == expected
