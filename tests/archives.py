"""Archives in their published layouts, made up: ``python -m tests.archives KIND FOLDER [COUNT]``.

Each maker gives what was put in, so that a reader can be checked against it.
"""

from __future__ import annotations

import csv
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgscan_ray.recording.leads import LEADS, MEASURED_LEADS
from tests.records import heart_uv, write_record

MIMIC_ORDER = ("I", "II", "III", "aVR", "aVF", "aVL", *LEADS[6:])
SUBSETS = {
    "cpsc_2018": "A",
    "cpsc_2018_extra": "Q",
    "st_petersburg_incart": "I",
    "ptb": "S",
    "ptb-xl": "HR",
    "georgia": "E",
    "chapman_shaoxing": "JS0",
    "ningbo": "JS4",
}
CODES = {"426783006": "sinus rhythm", "164889003": "atrial fibrillation", "55827005": "left ventricular high voltage"}
STATEMENTS = ("Sinus rhythm", "Left axis deviation", "Inferior infarct - age undetermined", "Abnormal ECG")


@dataclass
class Truth:
    """One recording as it was put in.

    Attributes:
        signal_uv: (12, T) in the order of ``LEADS``.
        path: Of its file, from the archive's root; of a WFDB record, without ending.
    """

    id: str
    path: str
    signal_uv: NDArray[np.int16]
    fs: float
    patient_id: str | None = None
    report: str | None = None
    labels: set[str] = field(default_factory=set)
    age: float | None = None
    sex: str | None = None


def write_mat_record(path: Path, counts: NDArray[np.int16], fs: float, gain: float, comments: Iterable[str]) -> None:
    """A record as the challenge has them: a MATLAB 4 file, read as format 16 behind 24 bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack("<5i", 30, len(counts), counts.shape[1], 0, 4) + b"val\0"
    path.with_suffix(".mat").write_bytes(head + np.ascontiguousarray(counts.T, "<i2").tobytes())
    lines = [f"{path.name} {len(counts)} {fs:g} {counts.shape[1]} 12-May-2020 12:33:59"]
    for lead, samples in zip(LEADS, counts, strict=True):
        checksum = int(samples.astype(np.int64).sum()) % 65536
        checksum -= 65536 * (checksum > 32767)
        lines.append(f"{path.name}.mat 16+24 {gain:g}/mV 16 0 {samples[0]} {checksum} 0 {lead}")
    path.with_suffix(".hea").write_text("\n".join([*lines, *(f"#{text}" for text in comments)]) + "\n")


def mimic_iv_ecg(folder: Path, count: int) -> list[Truth]:
    """Two studies a patient, 5 uV a step, limb leads in MIMIC's order; each tenth study has no row of measurements."""
    truths, measurements = [], []
    for k in range(count):
        subject, study = str(10000032 + k // 2), str(40689238 + k)
        uv = 5 * (heart_uv(fs=500, seed=k) // 5)
        path = f"files/p{subject[:4]}/p{subject}/s{study}/{study}"
        order = [LEADS.index(lead) for lead in MIMIC_ORDER]
        line = "{name}.dat 16 {gain} 16 0 {first} {checksum} 0 {lead}"
        target = folder / path
        write_record(
            target.parent, study, uv[order] // 5, names=MIMIC_ORDER, gain="200.0(0)/mV", fs=500, signal_line=line
        )
        said = STATEMENTS[: 1 + k % len(STATEMENTS)]
        if k % 10 != 9:
            measurements.append([subject, study, "6848296", *said, *[""] * (18 - len(said)), "0.005-150 Hz"])
        report = ". ".join(said) if k % 10 != 9 else None
        truths.append(Truth(study, path, uv, 500, subject, report))
    times = "2180-07-23 08:44:00"
    rows = [[truth.patient_id, truth.id, truth.id, times, truth.path] for truth in truths]
    _table(folder / "record_list.csv", ["subject_id", "study_id", "file_name", "ecg_time", "path"], rows)
    reports = [f"report_{number}" for number in range(18)]
    _table(
        folder / "machine_measurements.csv", ["subject_id", "study_id", "cart_id", *reports, "bandwidth"], measurements
    )
    return truths


def cinc2021(folder: Path, count: int) -> list[Truth]:
    """All eight subsets, with their rates and gains, and the challenge's tables."""
    truths = []
    for k in range(count):
        subset, letters = list(SUBSETS.items())[k % len(SUBSETS)]
        fs, gain = {"ptb": (1000, 2000), "st_petersburg_incart": (257, 1000)}.get(subset, (500, 1000))
        name = f"{letters}{k:04d}"
        path = f"training/{subset}/g{1 + k // 1000}/{name}"
        codes = list(CODES)[: 1 + k % 3]
        uv = heart_uv(fs=fs, seed=k)
        age, sex = (None, None) if k % 7 == 0 else (30 + k % 60, ("Male", "Female")[k % 2])
        comments = [
            f"Age: {'NaN' if age is None else age}",
            f" Sex: {sex or 'Unknown'}",
            f"Dx: {','.join(codes)}",
            "Rx: Unknown",
        ]
        write_mat_record(folder / path, uv * (gain // 1000), fs, gain, comments)
        labels = {CODES[code] for code in codes}
        truths.append(Truth(name, path, uv, fs, labels=labels, age=age, sex=sex and sex.lower()))
    names = list(CODES.items())
    _table(
        folder / "dx_mapping_scored.csv", ["Dx", "SNOMEDCTCode", "Abbreviation"], [(n, c, "X") for c, n in names[:2]]
    )
    _table(
        folder / "dx_mapping_unscored.csv", ["Dx", "SNOMEDCTCode", "Abbreviation"], [(n, c, "X") for c, n in names[2:]]
    )
    return truths


def chapman(folder: Path, count: int) -> list[Truth]:
    """Folders of a hundred records, and the table of conditions, in which one code has two names."""
    truths = []
    for k in range(count):
        name = f"JS{1 + k:05d}"
        path = f"WFDBRecords/{1 + k // 1000:02d}/{k // 100:03d}/{name}"
        uv, codes = heart_uv(fs=500, seed=k), ["426177001", "55930002"][: 1 + k % 2]
        age, sex = 20 + k % 70, ("Male", "Female")[k % 2]
        write_mat_record(folder / path, uv, 500, 1000, [f"Age: {age}", f"Sex: {sex}", f"Dx: {','.join(codes)}"])
        labels = {"Sinus Bradycardia", "ST-T Change or ST drop down"} if k % 2 else {"Sinus Bradycardia"}
        truths.append(Truth(name, path, uv, 500, labels=labels, age=age, sex=sex.lower()))
    conditions = [("SB", "Sinus Bradycardia", "426177001")]
    conditions += [("STTC", "ST-T Change", "55930002"), ("STDD", "ST drop down", "55930002")]
    _table(folder / "ConditionNames_SNOMED-CT.csv", ["Acronym Name", "Full Name", "Snomed_CT"], conditions)
    return truths


def code15(folder: Path, count: int, parts: int = 3) -> list[Truth]:
    """Exams of 7.3, 10 and 10.24 s in the middle of 4,096 samples, in several parts; the table is in another order."""
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    truths, rows = [], []
    for part in range(parts):
        numbers = range(part, count, parts)
        tracings = np.zeros((len(numbers) + 1, 4096, 12), np.float32)  # one row more, as the published files have
        for row, k in enumerate(numbers):
            length = (2934, 4000, 4096)[k % 3]
            uv = heart_uv(length / 400, 400, seed=k)
            uv[:, [0, -1]] += (uv[:, [0, -1]] == 0).all(axis=0)  # no zeros of its own at the ends
            before = (4096 - length) // 2
            tracings[row, before : before + length] = uv.T / 1000 / 0.5
            labels = {name for bit, name in enumerate(("1dAVb", "RBBB", "AF")) if k >> bit & 1} or {"normal_ecg"}
            truth = Truth(str(590000 + k), f"exams_part{part}.hdf5", uv, 400, str(48000 + k // 2), labels=labels)
            truth.age, truth.sex = 20 + k % 70, ("male", "female")[k % 2]
            truths.append(truth)
        with h5py.File(folder / f"exams_part{part}.hdf5", "w") as file:
            file["exam_id"] = np.array([590000 + k for k in numbers] + [0])
            file.create_dataset("tracings", data=tracings, chunks=(1, 4096, 12))
    names = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
    for truth in sorted(truths, key=lambda truth: -int(truth.id)):
        flags = [str(name in truth.labels) for name in names]
        known = [truth.patient_id, "False", "2.1", "normal_ecg" in truth.labels, truth.path]
        rows.append([truth.id, f"{truth.age:g}", truth.sex == "male", "51.2", *flags, *known])
    columns = ["exam_id", "age", "is_male", "nn_predicted_age", *names]
    columns += ["patient_id", "death", "timey", "normal_ecg", "trace_file"]
    _table(folder / "exams.csv", columns, rows)
    return truths


def own_folder(folder: Path, count: int) -> list[Truth]:
    """A hospital's: rates and names of leads as each device writes them, and a table of a German spreadsheet in Latin-1."""
    truths, rows = [], []
    names = {
        100: LEADS,
        250: [f"MDC_ECG_LEAD_{lead}" for lead in LEADS],
        500: ["DI", "DII", "DIII", "AVR", "AVL", "AVF", "C1", "C2", "C3", "C4", "C5", "C6"],
        1000: [f"{lead} (mV)" for lead in MEASURED_LEADS],
    }
    for k in range(count):
        fs = list(names)[k % 4]
        path, uv = f"Gerät {k % 4}/EKG{k:04d}", heart_uv(fs=fs, seed=k)
        order = [LEADS.index(lead) for lead in (MEASURED_LEADS if len(names[fs]) == 8 else LEADS)]
        write_record((folder / path).parent, f"EKG{k:04d}", uv[order], names=names[fs], fs=fs)
        patient, report = f"{k // 2:05d}", ("Sinusrhythmus, überdrehter Linkstyp", "Vorhofflimmern")[k % 2]
        age, sex, labels = 30.5 + k % 60, ("male", "female")[k % 2], {"SR", "Übergang"} if k % 2 else {"SR"}
        rows.append(
            [path.replace("/", "\\"), patient, report, " | ".join(sorted(labels)), f"{age:g}".replace(".", ","), sex[0]]
        )
        truths.append(Truth(path, path, uv, fs, patient, report, labels, age, sex))
    columns = ["record", "patient_id", "report", "labels", "age", "sex"]
    _table(folder / "recordings.csv", columns, rows, separator=";", encoding="latin-1")
    return truths


MAKERS: dict[str, Callable[[Path, int], list[Truth]]] = {
    "mimic-iv-ecg": mimic_iv_ecg,
    "cinc2021": cinc2021,
    "chapman": chapman,
    "code15": code15,
    "folder": own_folder,
}


def _table(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], separator: str = ",", encoding: str = "utf-8"
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(columns)
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in MAKERS:
        sys.exit(f"{__doc__}\nKIND: {', '.join(MAKERS)}")
    MAKERS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 200)
