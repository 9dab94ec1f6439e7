"""Nested and dotted settings say the same, and change what they name alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ecgscan_ray.config import (
    MAX_UNIT_BYTES,
    AblationConfig,
    Config,
    ResourceConfig,
    SweepConfig,
    build,
    by_key,
    load,
    merge,
    read_settings,
)
from ecgscan_ray.config.old_keys import REMOVED, RENAMED
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.paper.layout import PAGE_SECONDS
from ecgscan_ray.runs.needs import needs


def base_of(settings: list[str], content: dict[str, Any] | None = None) -> Config:
    """What each trial of a laptop sweep starts from."""
    if content is None:
        sweep = load(SweepConfig, "sweep-laptop", settings)
    else:
        sweep = build(SweepConfig, {"space": {"seed": {"choices": [1, 2]}}, **content}, where="test")
    return build(Config, merge(read_settings(sweep.base), sweep.base_overrides), where="test")


LAPTOP = load(Config, "laptop")


@pytest.mark.parametrize(
    "settings",
    [
        ["base_overrides.objective.soft_lead_weight=0"],
        ["base_overrides.objective={soft_lead_weight: 0}"],
        ["base_overrides.objective.soft_lead_weight=3", "base_overrides={objective: {soft_lead_weight: 0}}"],
    ],
)
def test_overrides_of_a_sweep_leave_the_rest_of_a_section(settings: list[str]) -> None:
    objective = base_of(settings).objective
    assert objective == LAPTOP.objective.model_copy(update={"soft_lead_weight": 0.0})


def test_nested_yaml_in_a_sweep_says_the_same_as_dotted_keys() -> None:
    nested = {"base_overrides": {"training": {"steps": 5}, "objective": {"soft_lead_weight": 0}}}
    dotted = {"base_overrides": {"training.steps": 5, "objective.soft_lead_weight": 0}}
    assert base_of([], nested) == base_of([], dotted)
    assert base_of([], nested).training.warmup_steps == LAPTOP.training.warmup_steps
    arms = {"whole": {}, "less": {"objective": {"gram_weight": 0}}}
    ablation = build(AblationConfig, {"arms": arms}, where="test")
    assert ablation.arms["less"] == {"objective.gram_weight": 0}


def test_the_command_line_overrides_what_the_file_says_in_another_form() -> None:
    resolved = load(SweepConfig, "sweep-laptop", ["base_overrides.training.steps=7"])
    assert resolved.base_overrides["training.steps"] == 7
    assert list(resolved.base_overrides).count("training.steps") == 1


def test_a_section_given_whole_keeps_what_it_does_not_name() -> None:
    resolved = load(Config, "laptop", ["objective={gram_weight: 3}"])
    assert resolved.objective == LAPTOP.objective.model_copy(update={"gram_weight": 3.0})


def test_a_mapping_that_is_one_value_is_replaced_whole() -> None:
    assert load(Config, "laptop", ["page={layouts: {12x1: 1}}"]).page.layouts == {"12x1": 1.0}
    assert by_key(Config, {"objective": {"schedules": {"gram": {"warmup": 0.1}}}}) == {
        "objective.schedules": {"gram": {"warmup": 0.1}}
    }
    encoder = {"teacher": {"encoder": {"path": "a", "dim": 3, "known": "b"}}}
    assert set(by_key(Config, encoder)) == {"teacher.encoder.path", "teacher.encoder.dim", "teacher.encoder.known"}
    assert build(Config, merge({"teacher": {"encoder": None}}, by_key(Config, encoder)), where="test").teacher.encoder


def nested_in(key: str) -> dict[str, Any]:
    """A dotted key as it stands in a file."""
    nested: dict[str, Any] = {key.rpartition(".")[2]: 1}
    for part in reversed(key.split(".")[:-1]):
        nested = {part: nested}
    return nested


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_old_key_is_refused_with_its_new_name(old: str, new: str) -> None:
    kind, preset = (Config, "laptop") if "." in old else (SweepConfig, "sweep-laptop")
    old, new = old.replace("*", "gram"), new.replace("*", "gram")
    nested = nested_in(old)
    with pytest.raises(ConfigError, match=f"^test: {re.escape(old)} is now {re.escape(new)}. Use the new name.$"):
        build(kind, nested, where="test")  # as in an old config.yaml
    if ".gram." not in old:  # a schedule is one value, which --set replaces whole
        with pytest.raises(ConfigError, match=f"{re.escape(old)} is now {re.escape(new)}"):
            load(kind, preset, [f"{old}=1"])


@pytest.mark.parametrize(("old", "reason"), REMOVED.items())
def test_a_removed_key_is_refused_with_what_became_of_it(old: str, reason: str) -> None:
    kind, preset = (SweepConfig, "sweep-laptop") if old == "arms" else (Config, "laptop")
    line = f"{re.escape(old)} is no setting any more: {re.escape(reason)}. Leave it out.$"
    with pytest.raises(ConfigError, match=f"^test: {line}"):
        build(kind, nested_in(old), where="test")  # as in an old config.yaml
    with pytest.raises(ConfigError, match=f"^{preset}: {line}"):
        load(kind, preset, [f"{old}=1"])


def test_an_ablation_given_to_sweep_is_told_the_command() -> None:
    with pytest.raises(ConfigError, match=r"^ablation-laptop: arms is no setting any more: .*'ecgscan ablate'"):
        load(SweepConfig, "ablation-laptop")


def test_signals_are_as_long_as_a_page() -> None:
    assert LAPTOP.model.sig_len == PAGE_SECONDS * LAPTOP.model.signal_fs


def test_what_was_inside_a_renamed_group_has_its_new_key_in_the_error() -> None:
    with pytest.raises(ConfigError, match=r"page\.chances is now page\.effect_probabilities"):
        load(Config, "laptop", ["page.chances.turn=1"])
    with pytest.raises(ConfigError, match=r"unknown setting 'page.chanzes'. Did you mean"):
        load(Config, "laptop", ["page.chanzes=1"])


@pytest.mark.parametrize(("name", "rows"), [("laptop", 72), ("gpu", 128), ("paper", 64)])
def test_units_of_the_presets(name: str, rows: int) -> None:
    assert load(Config, name).unit_rows == rows


def test_a_unit_is_the_largest_part_of_a_workers_share_that_fits_a_block() -> None:
    settings = ["stream.unit_rows=", "resources.num_workers=8", "model.input=image"]
    config = load(Config, "gpu", settings)
    fitting = [rows for rows in range(1, 129) if 128 % rows == 0 and rows * config.row_bytes <= MAX_UNIT_BYTES]
    assert config.unit_rows == fitting[-1] == 64
    assert load(Config, "laptop", ["resources.num_workers=2"]).unit_rows == 36
    large = ["page.height=4096", "page.width=4096", "page.channels=3"]
    assert load(Config, "laptop", [*large, "model.input=image"]).unit_rows == 1
    assert load(Config, "laptop", large).unit_rows == 72, "leads as read are small"
    with pytest.raises(ConfigError, match=r"72 is no multiple of resources\.num_workers = 5"):
        load(Config, "laptop", ["resources.num_workers=5"])


def test_a_run_asked_for_its_score_is_validated_between_steps() -> None:
    paper = load(Config, "paper")
    assert [need.resources for need in needs(paper) if need.part == "validator"] == [{"CPU": 4, "GPU": 1}]
    asked = paper.validated_between_steps()
    assert asked.training.validates_between and not [need for need in needs(asked) if need.part == "validator"]


def test_a_group_has_numbers_of_workers_whose_shares_are_whole() -> None:
    settings = ["stream.unit_rows=", "resources.num_workers=12", "training.global_batch_size=96"]
    fixed, elastic = (load(Config, "laptop", [*settings, *more]) for more in ([], ["resources.min_workers=3"]))
    assert fixed.resources.worker_counts == [12] and elastic.resources.worker_counts == [3, 4, 6, 12]
    assert elastic.unit_rows == fixed.unit_rows == 8
    for least in (5, 24):
        with pytest.raises(
            ConfigError, match=rf"min_workers={least} does not divide num_workers=12: .* 1, 2, 3, 4, 6, 12"
        ):
            load(Config, "laptop", [*settings, f"resources.min_workers={least}"])


@pytest.mark.parametrize(
    ("workers", "least", "most", "pipelines"),
    [
        (12, None, 1, 1),
        (12, None, 5, 4),
        (12, 3, 5, 1),
        (12, 6, 5, 3),
        (8, 2, 4, 2),
        (1, None, 9, 1),
        (16, None, 99, 8),
    ],
)
def test_pipelines_divide_any_number_of_workers(workers: int, least: int | None, most: int, pipelines: int) -> None:
    resources = ResourceConfig(num_workers=workers, min_workers=least, max_pipelines=most, render_actors=8)
    assert resources.pipelines == pipelines


@pytest.mark.parametrize(
    "setting",
    [
        "training.log_every=7",
        "training.checkpoint_every=7",
        "training.term_gradients_every=7",
        "training.sinks=[]",
        "stream.prefetch_units=3",
        "stream.stall_timeout_s=7",
        "resources.num_workers=2",
        "resources.min_workers=1",
        "training.validate_beside=true",
        "evaluation.bootstrap=20",
    ],
)
def test_a_resumed_run_may_differ_in_what_does_not_decide_its_outcome(setting: str) -> None:
    assert load(Config, "laptop", [setting]).digest() == LAPTOP.digest()


@pytest.mark.parametrize("setting", ["seed=1", "training.learning_rate=1e-4", "stream.window_row_groups=2"])
def test_a_resumed_run_may_not_differ_in_the_rest(setting: str) -> None:
    assert load(Config, "laptop", [setting]).digest() != LAPTOP.digest()


def test_a_file_changes_what_it_names_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: laptop\nobjective: {gram_weight: 3}\n")
    (tmp_path / "more.yaml").write_text(f"base: {tmp_path}/mine.yaml\nseed: 4\n")
    resolved = load(Config, str(tmp_path / "more.yaml"), ["training.steps=7"])
    assert resolved == load(Config, "laptop", ["objective.gram_weight=3", "seed=4", "training.steps=7"])
    sweep = build(SweepConfig, {"base": str(tmp_path / "more.yaml"), "space": {"seed": {"choices": [1]}}}, where="test")
    assert read_settings(sweep.base)["objective"]["gram_weight"] == 3


def test_bases_that_name_each_other_or_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"base: {tmp_path}/b.yaml\n")
    (tmp_path / "b.yaml").write_text(f"base: {tmp_path}/a.yaml\n")
    with pytest.raises(ConfigError, match="is its own base"):
        load(Config, str(tmp_path / "a.yaml"))
    (tmp_path / "a.yaml").write_text("base: lap-top\n")
    with pytest.raises(ConfigError, match="Did you mean 'laptop'"):
        load(Config, str(tmp_path / "a.yaml"))
    (tmp_path / "a.yaml").write_text("base: 3\n")
    with pytest.raises(ConfigError, match="base is the name of a preset"):
        load(Config, str(tmp_path / "a.yaml"))
