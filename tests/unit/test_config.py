"""Nested and dotted settings say the same, and change what they name alone."""

from __future__ import annotations

from typing import Any

import pytest

from ecgscan_ray.config import Config, SweepConfig, build, by_key, load, merge, read_yaml


def base_of(settings: list[str], content: dict[str, Any] | None = None) -> Config:
    """What each trial of a laptop sweep starts from."""
    if content is None:
        sweep = load(SweepConfig, "sweep-laptop", settings)
    else:
        sweep = build(SweepConfig, {"space": {"seed": {"choices": [1, 2]}}, **content}, where="test")
    return build(Config, merge(read_yaml(sweep.base), sweep.base_overrides), where="test")


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
    sweep = build(SweepConfig, {"arms": arms}, where="test")
    assert sweep.arms["less"] == {"objective.gram_weight": 0}


def test_the_command_line_overrides_what_the_file_says_in_another_form() -> None:
    found = load(SweepConfig, "sweep-laptop", ["base_overrides.training.steps=7"])
    assert found.base_overrides["training.steps"] == 7
    assert list(found.base_overrides).count("training.steps") == 1


def test_a_section_given_whole_keeps_what_it_does_not_name() -> None:
    found = load(Config, "laptop", ["objective={gram_weight: 3}"])
    assert found.objective == LAPTOP.objective.model_copy(update={"gram_weight": 3.0})


def test_a_mapping_that_is_one_value_is_replaced_whole() -> None:
    assert load(Config, "laptop", ["page={layouts: {12x1: 1}}"]).page.layouts == {"12x1": 1.0}
    assert by_key(Config, {"objective": {"schedules": {"gram": {"rise": 0.1}}}}) == {
        "objective.schedules": {"gram": {"rise": 0.1}}
    }
    encoder = {"teacher": {"encoder": {"path": "a", "dim": 3, "known": "b"}}}
    assert set(by_key(Config, encoder)) == {"teacher.encoder.path", "teacher.encoder.dim", "teacher.encoder.known"}
    assert build(Config, merge({"teacher": {"encoder": None}}, by_key(Config, encoder)), where="test").teacher.encoder
