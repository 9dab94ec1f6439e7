"""Who a run folder belongs to: taken in one step, taken again, refused, or changed in its length."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from ecgscan_ray.errors import InputError, RunError
from ecgscan_ray.runs.checkpoints import read_config
from ecgscan_ray.runs.folder import RunFolder
from ecgscan_ray.runs.opening import check_run, take_run
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.store.manifest import Manifest, Shard
from tests.checkpoints import write_checkpoint
from tests.tiny import tiny_config

SHARD = Shard(path="train-00000.parquet", split="train", rows=120, row_groups=[120], bytes=1, sha256="0")
MANIFEST = Manifest(source="test", shards=[SHARD])


def spec(out: Path, manifest: Manifest = MANIFEST, store: str = "/store", **changes: Any) -> RunSpec:
    return RunSpec("pretrain", tiny_config(**changes), store, manifest, "{}", 0, str(out))


def take(out: Path, fresh: bool = False, manifest: Manifest = MANIFEST, **changes: Any) -> str:
    run = spec(out, manifest, **changes)
    status = check_run(run.out, run.config, manifest, fresh, run.facts)
    take_run(run)
    return status


def test_a_folder_is_taken_recognised_and_refused_to_others(tmp_path: Path) -> None:
    assert take(tmp_path / "run") == "new"
    write_checkpoint(tmp_path / "run", 2)
    assert take(tmp_path / "run") == "unfinished"
    with pytest.raises(RunError, match=r"objective\.gram_weight: 1\.0 -> 2\.0"):
        take(tmp_path / "run", objective__gram_weight=2.0)
    with pytest.raises(RunError, match="another store"):
        take(tmp_path / "run", manifest=Manifest(source="other", shards=[SHARD]))
    with pytest.raises(RunError, match="--fresh needs an empty folder"):
        take(tmp_path / "run", fresh=True)
    (tmp_path / "run" / "finished.json").write_text('{"step": 2}')
    assert take(tmp_path / "run") == "finished"


@pytest.mark.parametrize("left", ["environment.json", "environment.json.tmp-1f", "config.yaml.tmp-1f", ".lease.json"])
def test_a_command_cut_while_it_took_the_folder_takes_it_again(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text("{")
    assert take(tmp_path) == "new"
    assert json.loads((tmp_path / "environment.json").read_text())["store"] == "/store"


def test_a_credential_in_the_stores_uri_is_not_kept(tmp_path: Path) -> None:
    uri = "abfs://:HUSHHUSH@account.blob.core.windows.net/c/store"
    with pytest.raises(InputError, match="a credential") as raised:
        take_run(spec(tmp_path, store=uri))
    assert "HUSH" not in str(raised.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("thing", ["files/p1/a.hea", "thesis.txt", "checkpoints/mine.txt"])
def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path: Path, thing: str) -> None:
    (tmp_path / thing).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / thing).write_text("")
    with pytest.raises(RunError, match=f"holds other things \\({thing.partition('/')[0]}"):
        take(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / thing]


def test_settings_that_saved_no_step_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    take(tmp_path, training__learning_rate=1.5)
    (tmp_path / "tokenizer.json").write_text("of the first settings")
    half = tmp_path / "checkpoints" / "checkpoint_000000002"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"cut")
    with caplog.at_level(logging.INFO, "ecgscan_ray"):
        assert take(tmp_path) == "new"
    assert "training.learning_rate: 1.5 -> 0.0015" in caplog.text
    assert read_config(str(tmp_path)) == tiny_config()
    assert not (tmp_path / "tokenizer.json").exists() and not (half / "model.safetensors").exists()
    with caplog.at_level(logging.INFO, "ecgscan_ray"):
        caplog.clear()
        take(tmp_path)
    assert not caplog.text, "and now they are the folder's"
    (tmp_path / "config.yaml").write_text("seed: [")
    assert take(tmp_path) == "new"


def test_a_run_is_lengthened_and_never_made_shorter_than_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    take(tmp_path, training__steps=4)
    write_checkpoint(tmp_path, 4)
    (tmp_path / "finished.json").write_text('{"step": 4}')
    with caplog.at_level(logging.INFO, "ecgscan_ray"):
        assert take(tmp_path, training__steps=8) == "unfinished"
    assert "8 steps instead of 4" in caplog.text and "learning rate" in caplog.text
    assert read_config(str(tmp_path)).training.steps == 8
    assert not (tmp_path / "finished.json").exists()
    with pytest.raises(RunError, match="has done 4 steps, more than the 3 asked for"):
        take(tmp_path, training__steps=3)
    assert take(tmp_path, training__steps=None, training__epochs=1.0) == "unfinished", "120 rows by 12 are 10 steps"
    assert take(tmp_path, training__steps=20, training__warmup_steps=5) == "unfinished"
    with pytest.raises(RunError, match=r"training\.warmup_steps: 5 -> 6"):
        take(tmp_path, training__steps=20, training__warmup_steps=6)
    with pytest.raises(RunError, match="other settings: seed: 0 -> 1"):
        take(tmp_path, training__steps=12, seed=1)


def test_the_folder_has_the_settings_of_the_last_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    take(tmp_path)
    checkpoint = write_checkpoint(tmp_path, 2)
    with caplog.at_level(logging.INFO, "ecgscan_ray"):
        assert take(tmp_path, training__log_every=3, resources__render_actors=2) == "unfinished"
    assert "goes on with other settings (resources.render_actors: 1 -> 2; training.log_every: 1 -> 3)" in caplog.text
    assert read_config(str(tmp_path)) == tiny_config(training__log_every=3, resources__render_actors=2)
    assert read_config(str(checkpoint)) == tiny_config(), "a checkpoint keeps those that it was made with"
    written = (tmp_path / "config.yaml").stat().st_mtime_ns
    take(tmp_path, training__log_every=3, resources__render_actors=2)
    assert (tmp_path / "config.yaml").stat().st_mtime_ns == written


def test_what_a_killed_write_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    kept = ["progress.json", "metrics/part-00000.jsonl", "notes.tmp-mine"]
    for name in [*kept, f"progress.json.tmp-{'0f' * 16}", f"metrics/part-00001.jsonl.tmp-{'a1' * 16}"]:
        (tmp_path / name).write_text("{")
    RunFolder(str(tmp_path)).remove_unfinished_writes()
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")) == sorted(kept)


def test_a_finished_run_without_its_checkpoints_is_left_alone(tmp_path: Path) -> None:
    take(tmp_path, training__steps=4)
    (tmp_path / "finished.json").write_text('{"step": 4}')
    assert take(tmp_path, training__steps=4) == "finished"
    with pytest.raises(RunError, match="its checkpoints are gone"):
        take(tmp_path, training__steps=8)
    with pytest.raises(RunError, match="seed: 0 -> 1"):
        take(tmp_path, training__steps=4, seed=1)


@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
@pytest.mark.parametrize("content", ["", "[" * 10_000, "{a", "[]", "\x00", "null", '{"a": {"b": 1}}'])
def test_damaged_files_of_a_run_are_one_line(tmp_path: Path, name: str, content: str) -> None:
    take(tmp_path)
    write_checkpoint(tmp_path, 2)
    (tmp_path / name).write_text(content)
    with pytest.raises(RunError) as found:
        take(tmp_path)
    assert "\n" not in str(found.value)
