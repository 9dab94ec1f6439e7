"""The shipped sample: what the package promises of it."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import wfdb

from ecgscan_ray.data import unpack
from ecgscan_ray.filesystem.archive import ArchiveFiles
from ecgscan_ray.recording.labels import SUPERCLASSES, superclasses
from ecgscan_ray.recording.leads import LEADS, lead_residual_uv
from ecgscan_ray.recording.recording import Recording
from ecgscan_ray.recording.sources import open_source
from tests.records import list_items
from tools.make_sample import SPLITS

SPLIT_OF_FOLD = {fold: split for split, (folds, _) in SPLITS.items() for fold in folds}


@pytest.fixture(scope="module")
def recordings(sample_tree: Path) -> list[Recording]:
    source = open_source("ptbxl", 100)
    return [source.read(item, ArchiveFiles(sample_tree)) for item in list_items(source, sample_tree)]


def test_size_on_disk() -> None:
    assert unpack.SAMPLE.stat().st_size <= 12e6


def test_splits_patients_and_classes(recordings: list[Recording]) -> None:
    assert Counter(SPLIT_OF_FOLD[r.fold] for r in recordings) == {split: n for split, (_, n) in SPLITS.items()}
    for split in SPLITS:
        rows = [r for r in recordings if SPLIT_OF_FOLD[r.fold] == split]
        classes = Counter(name for r in rows for name in superclasses(r.labels))
        assert all(classes[name] >= 0.1 * len(rows) for name in SUPERCLASSES), (split, classes)
        patients = {r.patient_id for r in rows}
        assert split == "train" or len(patients) == len(rows)
        others = {r.patient_id for r in recordings if SPLIT_OF_FOLD[r.fold] != split}
        assert not patients & others


def test_every_recording_has_report_labels_age_and_sex(recordings: list[Recording]) -> None:
    for recording in recordings:
        assert recording.labels, recording.id
        assert recording.sex in ("male", "female")
        assert recording.signal_mv.shape == (12, 1000)
        assert not np.isnan(recording.signal_mv).any()
        if SPLIT_OF_FOLD[recording.fold] != "train":
            assert recording.report
            assert not recording.report.startswith("trace only")
    assert sum(bool(recording.report) for recording in recordings) >= len(recordings) - 2
    assert sum(recording.age is not None for recording in recordings) >= 0.98 * len(recordings)


def test_the_lead_laws_hold_but_for_named_recordings(recordings: list[Recording]) -> None:
    """Steps of 1 uV and halves of them: at most 2 uV."""
    breakers = {int(r.id): lead_residual_uv(r.signal_mv) for r in recordings if lead_residual_uv(r.signal_mv) > 2.0}
    assert breakers == pytest.approx(unpack.LAW_BREAKERS, abs=0.1)


def test_exchanged_leads_would_be_seen(recordings: list[Recording]) -> None:
    exchanged = list(range(12))
    exchanged[LEADS.index("aVL")], exchanged[LEADS.index("aVF")] = LEADS.index("aVF"), LEADS.index("aVL")
    undetected = sum(lead_residual_uv(recording.signal_mv[exchanged]) <= 2.0 for recording in recordings)
    assert undetected == 0


def test_the_tree_is_what_physionet_publishes(sample_tree: Path) -> None:
    with open(sample_tree / "ptbxl_database.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:3] == ["ecg_id", "patient_id", "age"]
    assert {row["filename_lr"].split("/")[0] for row in rows} == {"records100"}
    assert (sample_tree / "LICENSE-PTBXL.md").read_text().count("CC BY 4.0")
    for row in rows[::200]:
        record = wfdb.rdrecord(str(sample_tree / row["filename_lr"]), physical=False)
        assert record.calc_checksum() == record.checksum
        assert record.init_value == record.d_signal[0].tolist()
        assert record.sig_name == [lead.upper() for lead in LEADS]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(unpack.InputError, match="cannot be written"):
        unpack.unpack_sample(tmp_path / "file")
