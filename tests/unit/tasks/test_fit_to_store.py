"""Settings are fitted to what a store holds and to how long the run is, with one line for each change."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.runtime.trials import check_store
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.store.shards import ShardWriter
from ecgscan_ray.tasks.fit_to_store import fit_to_store
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.tasks.teach import Teach
from tests.records import recording
from tests.tiny import tiny_config


def store_of(folder: Path, reports: list[str | None], validation: int = 3) -> tuple[str, Manifest]:
    shards = []
    for split, rows in (("train", reports), ("validation", ["normal"] * validation)):
        writer = ShardWriter(str(folder), split, 0)
        writer.add([recording(f"{split}{k}", report=report) for k, report in enumerate(rows)])
        shards += [shard for shard in [writer.close()] if shard]
    return str(folder), Manifest(source="test", shards=shards)


def fitted(config: Config, store: tuple[str, Manifest], caplog: pytest.LogCaptureFixture) -> Config:
    caplog.clear()
    return fit_to_store(config, Pretrain(), *store)


@pytest.mark.parametrize("nothing", [None, "", "trace only requested."])
def test_without_reports_pages_meet_signals_alone(
    nothing: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = fitted(tiny_config(), store_of(tmp_path, [nothing] * 12), caplog)
    assert not config.objective.uses_text
    assert (config.objective.gram_weight, config.objective.pair_weights) == (0, {"image_signal": 1.0})
    assert config.objective.pair_weight == tiny_config().objective.pair_weight
    (line,) = caplog.messages
    assert "no reports in the store" in line and "volume" in line and "MRR page to signal and r" in line


def test_one_report_is_enough_to_change_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(tmp_path, [*[None] * 11, "sinus rhythm"])
    assert fitted(tiny_config(), store, caplog) == tiny_config()
    assert not caplog.messages


def test_what_is_left_must_align_pages(tmp_path: Path) -> None:
    store = store_of(tmp_path, [None] * 12)
    with pytest.raises(ConfigError, match=r"pair_weight=0 leaves nothing.*Set objective.pair_weight above 0"):
        fit_to_store(tiny_config(objective__pair_weight=0), Pretrain(), *store)


def test_a_teacher_says_what_it_needs(tmp_path: Path) -> None:
    store = store_of(tmp_path, [None] * 12)
    with pytest.raises(ConfigError, match=r"no training recording has a report.*ecgscan pretrain"):
        fit_to_store(tiny_config(), Teach(), *store)
    alone = tiny_config(teacher__report_weight=0.0)
    assert fit_to_store(alone, Teach(), *store) == alone


def test_without_validation_recordings_nothing_is_validated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_of(tmp_path, ["normal"] * 12, validation=0)
    assert fitted(tiny_config(), store, caplog).training.validation_rows == 0
    (line,) = caplog.messages
    assert "last checkpoint counts as the best" in line and "--validation-folds" in line
    assert fitted(tiny_config(training__validation_rows=0), store, caplog) and not caplog.messages


@pytest.mark.parametrize(
    ("warmup", "steps", "fits"), [(2, 6, 2), (5, 6, 5), (6, 6, 0), (15, 6, 0), (15, 40, 15), (60, 40, 4), (1, 1, 1)]
)
def test_a_warm_up_leaves_room_for_the_run(
    warmup: int, steps: int, fits: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(training__warmup_steps=warmup, training__steps=steps)
    assert fitted(config, store_of(tmp_path, ["normal"] * 12), caplog).training.warmup_steps == fits
    assert len(caplog.messages) == (fits != warmup)


def test_a_batch_that_repeats_recordings_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fitted(tiny_config(), store_of(tmp_path, ["normal"] * 11), caplog)
    assert "11 training recordings are fewer than training.global_batch_size=12" in caplog.text


def test_trials_on_such_a_store_are_refused_where_they_cannot_be_ranked(tmp_path: Path) -> None:
    store, manifest = store_of(tmp_path / "store", [None] * 12)
    assert not check_store("validation.score", tiny_config(), store, manifest).objective.uses_text
    with pytest.raises(ConfigError, match=r"mrr_page_to_text' cannot be measured.*no reports; name another metric"):
        check_store("validation.mrr_page_to_text", tiny_config(), store, manifest)
    store, manifest = store_of(tmp_path / "unvalidated", ["normal"] * 12, validation=0)
    with pytest.raises(ConfigError, match=r"cannot be measured on this store. Prepare it with validation recordings"):
        check_store("validation.score", tiny_config(), store, manifest)
