"""Tables of one's own archive: understood as a whole, or refused with file and row; and which files are records."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from ecgscan_ray.errors import InputError, RecordingError
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources import Item, open_source
from tests.records import heart_uv, list_items, write_record

SIGNAL = heart_uv()


def archive(folder: Path, table: str | bytes, names: Sequence[str] = "ab", file: str = "recordings.csv") -> Path:
    """A folder of records with a table."""
    for name in names:
        write_record(folder, name, SIGNAL)
    (folder / file).write_bytes(table if isinstance(table, bytes) else table.encode())
    return folder


def listed(folder: Path) -> dict[str, Item]:
    return {item.id: item for item in list_items(open_source("folder", None), folder)}


def read(folder: Path, item: Item) -> Recording:
    return open_source("folder", None).read(item, ArchiveFiles(folder))


REFUSED = {
    "more fields": ("record,report,fold\na,x,1\nb,sinus, normal,2\n", "row 3: 4 fields, the header has 3"),
    "fewer fields": ("record,report,fold\na,x\n", "row 2: 2 fields, the header has 3"),
    "quotation not closed": ('record,report\na,"x\nb,y\n', "row 2: a quotation"),
    "text after a quotation": ('record,report\na,"x" y\n', "row 2: text after a closed quotation"),
    "rows inside a quotation": ('record,report\na,"x\nb,y\nc,z"\n', "row 2: holds the row of b"),
    "two columns": ("record,fold,Fold \na,1,2\n", "two columns are called fold"),
    "two rows": ("record,report\na,x\nb,y\n./a.hea,z\n", "rows 2 and 4 are both of a"),
    "zero byte": (b"record,report\na,x\0y\n", "zero byte in line 2"),
    "Windows-1252": ("record,report\na,„Über“\n".encode("cp1252"), "byte 0x84 in line 2"),
    "damaged UTF-16": ("record\na\n".encode("utf-16")[:-1], "not in UTF-16"),
    "endless field": (f"record,report\na,{'x' * 1_100_000}\n", "row 2: a field of more than"),
    "no rows": ("record,report\n", "no rows"),
    "nothing": ("", "no column record"),
    "no column record": ("name,report\na,x\n", "no column record"),
    "no record": ("record,report\na,x\n ,y\n", "row 3: names no record"),
    "outside": ("record\n../a\n", "row 2: .*outside"),
    "absolute": ("record\n/etc/a\n", "row 2: .*outside"),
    "drive": ("record\nC:\\data\\a\n", "row 2: .*outside"),
    "no row has a file": ("record\nA0001\nA0002\n", "no row names a record that is here, e.g. 'A0001' in row 2"),
    "fold in words": ("record,fold\na,fold_10\n", "row 2: fold 'fold_10'"),
    "fold inf": ("record,fold\na,inf\n", "row 2: fold 'inf'"),
    "fold 1e9": ("record,fold\na,1e9\n", "row 2: fold '1e9'"),
    "fold 1.5": ("record,fold\na,1.5\n", "row 2: fold '1.5'"),
    "fold -1": ("record,fold\na,-1\n", "row 2: fold '-1'"),
    "age": ("record,age\na,56 years\n", "row 2: age '56 years'"),
    "age too high": ("record,age\na,300\n", "row 2: age '300'"),
    "sex": ("record,sex\na,1\n", "row 2: sex '1'"),
    "split": ("record,split\na,dev\n", "row 2: split 'dev'"),
    "patient cut short": ("record,patient_id\na,1.23E+10\n", "row 2: patient_id '1.23E\\+10'"),
    "Patient ID": ("record,Patient ID\na,1\n", "Did you mean 'patient_id'"),
    "reports": ("record,reports\na,1\n", "Did you mean 'report'"),
    "labals": ("record,labals\na,1\n", "Did you mean 'labels'"),
    "label": ("record,label\na,1\n", "Did you mean 'labels'"),
}


@pytest.mark.parametrize(("table", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, table: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        listed(archive(tmp_path, table))
    assert "recordings.csv" in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


WRITTEN = {
    "commas": b"record,report,fold\na,x,3\n",
    "semicolons": b"record;report;fold\na;x;3\n",
    "semicolons and commas": b'"record";"report";"fold";"a, b"\na;x;3;y, z\n',
    "tabs": b"record\treport\tfold\na\tx\t3\n",
    "Excel's first line": b"sep=;\r\nrecord;report;fold\r\na;x;3\r\n",
    "byte order mark": "\ufeffrecord,report,fold\na,x,3\n".encode(),
    "UTF-16": "record\treport\tfold\r\na\tx\t3\r\n".encode("utf-16"),
    "UTF-16, big end first": "\ufeffrecord,report,fold\na,x,3\n".encode("utf-16-be"),
    "old line ends": b"record,report,fold\ra,x,3\r",
    "names in any case": b" Record , REPORT,Fold\na,x,3\n",
    "empty rows and columns": b"record,report,fold,,\n\na,x,3,,\n,,,,\n",
    "3.0": b"record,report,fold\n a , x ,3.0\n",
    "numbers kept by a formula": b'record;report;fold\n="a";=("x");="3"\n',
    "two equal rows": b"record,report,fold\na,x,3\na.hea, x,3.0\n".replace(b"3.0", b"3"),
}


@pytest.mark.parametrize("table", WRITTEN.values(), ids=WRITTEN)
def test_the_same_table_as_programs_write_it(tmp_path: Path, table: bytes) -> None:
    item = listed(archive(tmp_path, table))["a"]
    assert (item.fold, item.details) == (3, {"report": "x"})


def test_quotations_and_long_reports(tmp_path: Path) -> None:
    report = 'Sinus, "normal"\nrate 70, axis 12" left\n' + "x" * 200_000
    quoted = report.replace('"', '""')
    item = listed(archive(tmp_path, f'record,report\na,"{quoted}"\nb,12" strip\n'))
    assert item["a"].details["report"] == report
    assert item["b"].details["report"] == '12" strip'


@pytest.mark.parametrize(
    "name", ["d/A0001", "d/A0001.mat", "./d/A0001.hea", "d\\A0001.dat", " d/A0001 ", "d//A0001.HEA"]
)
def test_a_record_in_any_spelling(tmp_path: Path, name: str) -> None:
    write_record(tmp_path / "d", "A0001", SIGNAL)
    items = listed(archive(tmp_path, f"record,patient_id\n{name},7\n", names=()))
    assert {key: item.patient_id for key, item in items.items()} == {"d/A0001": "7"}


def test_letters_composed_and_decomposed(tmp_path: Path) -> None:
    """macOS writes file names decomposed."""
    items = listed(archive(tmp_path, "record,fold\nmüller,4\n", names=("mu\u0308ller",)))
    (item,) = items.values()
    assert item.fold == 4 and (tmp_path / f"{item.path}.hea").exists()


def test_a_name_in_latin_1_is_a_record_like_others(tmp_path: Path) -> None:
    write_record(tmp_path, "a", SIGNAL)
    path = os.fsencode(tmp_path) + b"/m\xfcller"
    for ending in (b".hea", b".dat"):
        os.rename(os.fsencode(tmp_path) + b"/a" + ending, path + ending)
    (item,) = listed(tmp_path).values()
    assert item.id.encode() == b"m\\udcfcller"
    assert (tmp_path / f"{item.path}.hea").exists()


@pytest.mark.parametrize(
    "word", ["", "nan", "NaN", "None", "NA", "N/A", "null", "NULL", "-", "<NA>", "#N/A", "Unknown"]
)
def test_words_for_nothing(tmp_path: Path, word: str) -> None:
    columns = "patient_id,report,labels,age,sex,fold,split"
    item = listed(archive(tmp_path, f"record,{columns}\na{f',{word}' * 7}\nb,7,x,NORM,56,F,2,val\n"))["a"]
    assert item == Item(id="a", path="a", files=("a.hea", "a.dat"))
    recording = read(tmp_path, item)
    assert (recording.report, recording.labels, recording.age, recording.sex) == (None, {}, None, None)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("NORM", {"NORM": 100}),
        ("NORM;SR", {"NORM": 100, "SR": 100}),
        ('"NORM,SR"', {"NORM": 100, "SR": 100}),
        ("NORM | SR |", {"NORM": 100, "SR": 100}),
        ("NORM;;nan;NORM", {"NORM": 100}),
        ("AFIB  flutter", {"AFIB flutter": 100}),
        ("\"['NORM', 'SR']\"", {"NORM": 100, "SR": 100}),
        ('"[""LAO/LAE""]"', {"LAO/LAE": 100}),
        ('"[426783006, 427393009.0]"', {"426783006": 100, "427393009": 100}),
        ("426783006.0", {"426783006": 100}),
        ("\"{'NORM': 80.0, 'SR': 0}\"", {"NORM": 80, "SR": 0}),
        ('"{""NORM"": 100}"', {"NORM": 100}),
        ('"{426783006: 100, 1: 50}"', {"426783006": 100, "1": 50}),
        ("[]", {}),
        ("{}", {}),
    ],
)
def test_labels(tmp_path: Path, text: str, labels: dict[str, float]) -> None:
    assert read(tmp_path, listed(archive(tmp_path, f"record,labels\na,{text}\n"))["a"]).labels == labels


@pytest.mark.parametrize(
    "text",
    [
        '"NORM,SR;MI"',  # which of the two separates?
        "['NORM' 'SR']",  # numpy's; Python would join the two
        "['NORM'",
        "'NORM'",
        "[['NORM']]",
        "[True]",
        "{'NORM'}",
        "\"{'NORM': 101}\"",
        "{'NORM': -1}",
        "{'NORM': NaN}",
        "{'NORM': None}",
        "{'NORM': [1]}",
        "{'NORM': true}",
        f"{{'NORM': {'9' * 400}}}",
        "[" * 100_000,
        "\"{'NORM': 1, 'NORM': 2}\"",
        "\"{'NORM': 1, ' NORM': 2}\"",
        "4.27E+08",
        "\"array(['NORM'], dtype=object)\"",
    ],
)
def test_labels_are_never_made_up(tmp_path: Path, text: str) -> None:
    item = listed(archive(tmp_path, f"record,labels\na,{text}\n"))["a"]
    with pytest.raises(RecordingError, match="Write NORM;SR") as caught:
        read(tmp_path, item)
    assert caught.value.reason == "labels"


def test_a_patient_is_one_however_it_is_written(tmp_path: Path) -> None:
    for name, comment in {"c": "48705", "d": "48705.0", "e": "unknown", "f": "Smith John"}.items():
        write_record(tmp_path, name, SIGNAL, comments=[f"Patient ID: {comment}"])
    items = listed(archive(tmp_path, "record,patient_id\na,48705.0\nb, 48705\n"))
    assert [items[name].patient_id for name in "abcdef"] == ["48705"] * 4 + [None, "Smith John"]
    assert read(tmp_path, items["e"]).patient_id is None


def test_zeros_in_front_are_kept_and_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_record(tmp_path, "c", SIGNAL, comments=["Patient ID: 00123"])
    items = listed(archive(tmp_path, 'record,patient_id\na,123\nb,="0077"\n'))
    assert [items[name].patient_id for name in "abc"] == ["123", "0077", "00123"]
    assert "1 patient may have two names, e.g. 00123 and 123" in caplog.text


def test_a_decimal_comma(tmp_path: Path) -> None:
    assert read(tmp_path, listed(archive(tmp_path, "record;age;sex\na;56,5;F\n"))["a"]).age == 56.5


def test_what_is_not_used_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = archive(tmp_path, "record;folder;hr\na;60;NORM\nz;61;MI\n")
    with caplog.at_level(logging.INFO, "ecgscan_ray"):
        assert set(listed(folder)) == {"a", "b", "z"}
    for line in (
        "separated by semicolons",
        "columns not used: 'folder' (did you mean 'fold'?), 'hr'",
        "1 of 2 rows name no record here, e.g. 'z' in row 3",
        "1 of 2 records have no row in recordings.csv, e.g. 'b'",
    ):
        assert any(line in message for message in caplog.messages), line


def test_other_csv_files_are_no_tables_of_recordings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive(tmp_path, "Acronym Name,Snomed_CT\nSR,426783006\n", file="ConditionNames.csv")
    (tmp_path / "recordings.xlsx").write_bytes(b"PK")
    assert set(listed(tmp_path)) == {"a", "b"}
    assert "ConditionNames.csv has no column 'record' (it has acronym name, snomed_ct)" in caplog.text
    assert "recordings.xlsx is not read" in caplog.text
    archive(tmp_path, "record,fold\na,3\n", file="mine.csv")
    (tmp_path / "._mine.csv").write_bytes(b"\0\5\x16\7record")
    assert listed(tmp_path)["a"].fold == 3
    archive(tmp_path, "record,fold\na,4\n", file="other.csv")
    with pytest.raises(InputError, match=r"mine\.csv, other\.csv"):
        listed(tmp_path)
    archive(tmp_path, "record,fold\na,5\n")
    assert listed(tmp_path)["a"].fold == 5


def test_segments_are_no_records(tmp_path: Path) -> None:
    for name in ("m_1", "m_2", "n"):
        write_record(tmp_path, name, SIGNAL)
    (tmp_path / "m.hea").write_text("m/3 12 100 2000\nm_1 1000\n~ 50\nm_2 1000\n")
    (tmp_path / "own.hea").write_text("own/1 12 100 1000\nown 1000\n")
    (tmp_path / "p.hea").write_text("p/1 12 100 1000\nq 1000\n")
    (tmp_path / "q.hea").write_text("q/1 12 100 1000\np 1000\n")
    assert set(listed(tmp_path)) == {"m", "n", "own", "p", "q"}, "whatever a damaged header says, no record is lost"


def test_links_are_followed_once(tmp_path: Path) -> None:
    write_record(tmp_path / "disk", "a", SIGNAL)
    write_record(tmp_path / "in/z", "b", SIGNAL)
    (tmp_path / "in/more").symlink_to(tmp_path / "disk")
    (tmp_path / "in/again").symlink_to(tmp_path / "disk")
    (tmp_path / "in/a").symlink_to(tmp_path / "in/z")
    (tmp_path / "in/z/back").symlink_to(tmp_path / "in")
    (tmp_path / "in/itself").symlink_to("itself")
    (tmp_path / "in/broken").symlink_to(tmp_path / "nowhere")
    assert set(listed(tmp_path / "in")) == {"again/a", "z/b"}


def test_hidden_files_are_no_records(tmp_path: Path) -> None:
    write_record(tmp_path, "a", SIGNAL)
    write_record(tmp_path / ".trash", "b", SIGNAL)
    (tmp_path / "._a.hea").write_bytes(b"\0\5\x16\7")
    (tmp_path / "folder.hea").mkdir()
    assert set(listed(tmp_path)) == {"a"}
