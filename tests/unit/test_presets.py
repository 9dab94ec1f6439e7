"""Presets: each loads, says what it is for, and searches only settings that exist."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
import yaml

from ecgscan_ray.config import (
    AblationConfig,
    Config,
    Section,
    SweepConfig,
    build,
    kind_of,
    load,
    merge,
    preset_names,
    read_settings,
    read_yaml,
)
from ecgscan_ray.errors import ConfigError

TRIALS = [name for name in preset_names() if name.startswith(("sweep-", "ablation-"))]
RUNS = [name for name in preset_names() if name not in TRIALS]


def dotted(tree: dict[str, Any], prefix: str = "") -> set[str]:
    """Every dotted key of a nested mapping."""
    keys: set[str] = set()
    for key, value in tree.items():
        keys |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}"}
    return keys


def test_the_presets_of_the_design_are_there() -> None:
    assert {"laptop", "gpu", "paper", "sweep-laptop", "ablation-laptop", "ablation-extras"} <= set(preset_names())


@pytest.mark.parametrize("name", RUNS)
def test_a_preset_loads(name: str) -> None:
    load(Config, name)


@pytest.mark.parametrize("name", preset_names())
def test_the_head_comment_names_command_and_score(name: str) -> None:
    text = (resources.files("ecgscan_ray") / "presets" / f"{name}.yaml").read_text()
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert f"--preset {name}" in head
    for word in ("Hardware", "Time", "Expected"):
        assert word.lower() in head.lower(), f"{name}: no {word}"


def base_of(name: str) -> tuple[dict[str, Any], set[str]]:
    """What the trials of a preset start from, and every key that they can change."""
    trials = load(kind_of(read_yaml(name)), name)
    assert isinstance(trials, SweepConfig | AblationConfig)
    base = merge(read_settings(trials.base), trials.base_overrides)
    known = dotted(build(Config, base, where=name).model_dump(mode="json"))
    assert set(trials.base_overrides) <= known
    return base, known


@pytest.mark.parametrize("name", [name for name in TRIALS if name.startswith("sweep-")])
def test_a_sweep_searches_settings_that_exist_within_their_ranges(name: str) -> None:
    (base, known), sweep = base_of(name), load(SweepConfig, name)
    assert set(sweep.space) <= known
    for key, span in sweep.space.items():
        for value in span.choices or [span.low, span.high]:
            build(Config, merge(base, {key: value}), where=f"{name} {key}")


@pytest.mark.parametrize("name", [name for name in TRIALS if name.startswith("ablation-")])
def test_the_arms_of_an_ablation_change_settings_that_exist(name: str) -> None:
    (base, known), ablation = base_of(name), load(AblationConfig, name)
    assert set(ablation.teacher_overrides) <= known
    for arm, changes in ablation.arms.items():
        assert set(changes) <= known, arm
        build(Config, merge(base, changes), where=f"{name} {arm}")


def test_a_misspelt_key_would_be_noticed() -> None:
    content = yaml.safe_load("space: {objective.gram_wait: {low: 0.1, high: 1.0}}")
    sweep = build(SweepConfig, content, where="test")
    known = dotted(load(Config, "laptop").model_dump(mode="json"))
    assert not set(sweep.space) <= known


def test_the_ablation_has_the_arms_that_were_asked_for() -> None:
    """One shared baseline first; the others each change one thing, of it or of the arm that is its baseline."""
    ablation = load(AblationConfig, "ablation-laptop")
    first = next(iter(ablation.arms))
    assert ablation.arms[first] == {}
    of_pages_alone = [arm for arm, changes in ablation.arms.items() if "training.drop_signal_fraction" in changes]
    for arm, changes in ablation.arms.items():
        other = ablation.arms[ablation.baseline.get(arm, first)].items()
        assert len(set(changes.items()) ^ set(other)) == (0 if arm == first else 2 if arm in of_pages_alone[1:] else 1)
    assert len(ablation.arms) == 9 and len(of_pages_alone) == 2 and len(ablation.seeds) == 3 and ablation.trials == 27
    base = load(Config, ablation.base)
    assert (base.page.height, base.page.width) == (160, 208)
    assert ablation.deadline_s <= 7200


@pytest.mark.parametrize("kind", [SweepConfig, AblationConfig])
@pytest.mark.parametrize("content", [{}, {"space": {}}, {"arms": {}}])
def test_a_sweep_has_a_space_and_an_ablation_has_arms(kind: type[Section], content: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"space|arms"):
        build(kind, content, where="test")


def test_each_arm_of_the_extras_changes_one_setting() -> None:
    first, *others = load(AblationConfig, "ablation-extras").arms.values()
    changed = [{key.split(".")[1] for key in changes} for changes in others]
    assert first == {}
    assert changed == [{"triple"}, {"pair"}, {"pair_weights"}, {"center_targets"}, {"schedules"}]
