"""Ray's list of checkpoints, brought into line with the folder: read back by Ray's own manager."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.train import CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext

from ecgscan_ray.errors import RunError
from ecgscan_ray.runs.checkpoints import write_score
from ecgscan_ray.runtime.registered import registered_step, use_newest_whole
from tests.checkpoints import damage, write_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step, score in ((2, 0.9), (4, 0.5), (6, 0.6)):
        write_checkpoint(tmp_path, step, score)
    use_newest_whole(str(tmp_path))
    return tmp_path


def rays_own(run: Path) -> tuple[str, list[str]]:
    """What Ray would go on from, and what it keeps, the worst first."""
    keep = CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="validation.score")
    manager = CheckpointManager(keep, StorageContext(str(run), "checkpoints"))
    latest = manager.latest_checkpoint_result
    assert latest is not None
    return Path(latest.checkpoint.path).name, [Path(r.checkpoint.path).name for r in manager._checkpoint_results]


def name(step: int) -> str:
    return f"checkpoint_{step:09d}"


def test_ray_goes_on_from_the_newest(run: Path) -> None:
    assert use_newest_whole(str(run)) == registered_step(str(run)) == 6
    assert rays_own(run) == (name(6), [name(4), name(6), name(2)])
    written = (run / "checkpoints" / "checkpoint_manager_snapshot.json").stat().st_mtime_ns
    use_newest_whole(str(run))
    assert (run / "checkpoints" / "checkpoint_manager_snapshot.json").stat().st_mtime_ns == written, "left as it is"


@pytest.mark.parametrize(
    "harm",
    [
        lambda last: damage(last / "model.safetensors"),
        lambda last: damage(last / "optimizer.pt"),
        lambda last: (last / "tokenizer.json").unlink(),
        lambda last: (last / "state.json").write_text(""),
        lambda last: (last / "state.json").write_text("[" * 100_000),
        lambda last: (last / "state.json").unlink(),
        shutil.rmtree,
    ],
    ids=["weights", "optimiser", "no tokenizer", "state empty", "state deep", "no state", "no folder"],
)
def test_a_damaged_last_checkpoint_is_passed_over(
    run: Path, harm: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    last = run / "checkpoints" / name(6)
    harm(last)
    with caplog.at_level(logging.WARNING):
        assert use_newest_whole(str(run)) == registered_step(str(run)) == 4
    assert rays_own(run) == (name(4), [name(4), name(2)])
    assert (name(6) in caplog.text) == (last / "state.json").exists()


@pytest.mark.parametrize("content", ["", "null", "[]", '{"latest_checkpoint_result": 3}', "[" * 100_000])
def test_a_damaged_list_is_written_again(run: Path, content: str) -> None:
    (run / "checkpoints" / "checkpoint_manager_snapshot.json").write_text(content)
    assert use_newest_whole(str(run)) == 6
    assert rays_own(run)[0] == name(6)


def test_a_checkpoint_that_was_not_registered_counts(run: Path) -> None:
    write_checkpoint(run, 8, 0.7)
    assert use_newest_whole(str(run)) == 8


def test_what_has_no_score_waits_for_its_validation(run: Path) -> None:
    write_checkpoint(run, 8)
    write_checkpoint(run, 10)
    write_score(str(run / "checkpoints" / name(8)), 0.95)
    use_newest_whole(str(run), validate=True)
    keep = CheckpointConfig(num_to_keep=2, checkpoint_score_attribute="validation.score")
    manager = CheckpointManager(keep, StorageContext(str(run), "checkpoints"))
    pending = manager.get_pending_training_results()
    assert [(Path(one.path).name, validation) for one, (_, validation) in pending.items()] == [(name(10), True)]
    assert rays_own(run) == (name(10), [name(10), name(4), name(6), name(2), name(8)])


def test_nothing_whole_is_an_error_and_nothing_at_all_a_start(run: Path, tmp_path: Path) -> None:
    for step in (2, 4, 6):
        damage(run / "checkpoints" / name(step) / "model.safetensors")
    with pytest.raises(RunError, match=r"no checkpoint is whole \(.*model\.safetensors is missing or damaged"):
        use_newest_whole(str(run))
    for step in (2, 4, 6):
        shutil.rmtree(run / "checkpoints" / name(step))
    assert use_newest_whole(str(run)) == registered_step(str(run)) == 0
