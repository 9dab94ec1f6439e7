"""What ``prepare`` refuses before it begins, without a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ecgscan_ray.errors import InputError, StoreError
from ecgscan_ray.runtime.prepare import prepare
from ecgscan_ray.store.revisions import unused_revision
from tests.records import write_record


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": "ptb"}, InputError, "Did you mean"),
        ({"from_dir": "nowhere"}, InputError, "no such folder"),
        ({"from_dir": "https://127.0.0.1:1/archive"}, InputError, "cannot be listed"),
        ({"validation_folds": (9, 10)}, InputError, "overlap"),
        ({"rate": -100}, InputError, "rate -100"),
        ({"rate": float("nan")}, InputError, "rate nan"),
        ({"rate": float("inf")}, InputError, "rate inf"),
        ({"rate": 20}, InputError, "50 to 5000 Hz"),
        ({"limit": -5}, InputError, "limit -5"),
        ({"limit": 0}, InputError, "limit 0"),
        ({"row_group_rows": 0}, InputError, "row groups"),
        ({"to": "in/a.hea"}, StoreError, "cannot be written"),
        ({"source": "ptbxl"}, InputError, "no PTB-XL recordings"),
    ],
)
def test_bad_input_is_found_before_work_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_record(tmp_path / "in", "a")
    arguments = {"source": "folder", "from_dir": "in", "to": "out"} | changes
    with pytest.raises(error, match=message):
        prepare(**arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("there", "revision"),
    [
        (set(), 0),
        ({"manifest.json", "train-00000.parquet"}, 1),
        ({"train-00000-r1.parquet"}, 0),
        ({"train-00000.parquet", "test-00003-r1.parquet"}, 2),
    ],
)
def test_shards_of_a_new_store_have_names_of_their_own(there: set[str], revision: int) -> None:
    assert unused_revision(there) == revision


def test_one_prepare_at_a_time(tmp_path: Path) -> None:
    write_record(tmp_path / "in", "a")
    code = (
        "import sys\nfrom ecgscan_ray.filesystem.lease import exclusive\n"
        "with exclusive(sys.argv[1], 'ecgscan prepare'):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="in use by 'ecgscan prepare'"):
            prepare("folder", str(tmp_path / "in"), str(tmp_path / "out"))
        other.communicate("")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "no such thing"])
def test_an_address_without_a_cluster_is_the_first_thing_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=f"RAY_ADDRESS={address}"):
        prepare("folder", str(tmp_path / "no such archive"), str(tmp_path / "store"))
