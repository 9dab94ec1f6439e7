"""Presets: each loads, says what it is for, and searches only settings that exist."""

from __future__ import annotations

from importlib import resources
from typing import Any

import pytest
import yaml

from ecgscan_ray.config import Config, SweepConfig, build, load, merge, preset_names, read_yaml
from ecgscan_ray.errors import ConfigError

SWEEPS = [name for name in preset_names() if name.startswith(("sweep-", "ablation-"))]
RUNS = [name for name in preset_names() if name not in SWEEPS]


def dotted(tree: dict[str, Any], prefix: str = "") -> set[str]:
    """Every dotted key of a nested mapping."""
    found: set[str] = set()
    for key, value in tree.items():
        found |= dotted(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}"}
    return found


def test_the_presets_of_the_design_are_there() -> None:
    assert {"laptop", "gpu", "paper", "sweep-laptop", "sweep-ablation", "ablation-extras"} <= set(preset_names())


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


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_searches_settings_that_exist_within_their_ranges(name: str) -> None:
    sweep = load(SweepConfig, name)
    base = merge(read_yaml(sweep.base), sweep.base_overrides)
    known = dotted(build(Config, base, where=name).model_dump(mode="json"))
    assert set(sweep.space) <= known
    assert set(sweep.base_overrides) | set(sweep.teacher_overrides) <= known
    for arm, changes in sweep.arms.items():
        assert set(changes) <= known, arm
        build(Config, merge(base, changes), where=f"{name} {arm}")
    for key, span in sweep.space.items():
        for value in span.choices or [span.low, span.high]:
            build(Config, merge(base, {key: value}), where=f"{name} {key}")


def test_a_misspelt_key_would_be_noticed() -> None:
    content = yaml.safe_load("space: {objective.gram_wait: {low: 0.1, high: 1.0}}")
    sweep = build(SweepConfig, content, where="test")
    known = dotted(load(Config, "laptop").model_dump(mode="json"))
    assert not set(sweep.space) <= known


def test_the_ablation_has_the_arms_that_were_asked_for() -> None:
    """One shared baseline first; the others each change one thing, of it or of the arm they are set beside."""
    sweep = load(SweepConfig, "sweep-ablation")
    first = next(iter(sweep.arms))
    assert sweep.arms[first] == {}
    of_pages_alone = [arm for arm, changes in sweep.arms.items() if "training.drop_signal_fraction" in changes]
    for arm, changes in sweep.arms.items():
        other = sweep.arms[sweep.baseline.get(arm, first)].items()
        assert len(set(changes.items()) ^ set(other)) == (0 if arm == first else 2 if arm in of_pages_alone[1:] else 1)
    assert len(sweep.arms) == 9 and len(of_pages_alone) == 2 and len(sweep.seeds) == 3 and sweep.length == 27
    base = load(Config, sweep.base)
    assert (base.page.height, base.page.width) == (160, 208)
    assert sweep.deadline_s <= 7200


@pytest.mark.parametrize("content", [{}, {"space": {"seed": {"choices": [1]}}, "arms": {"a": {}}}])
def test_a_sweep_has_a_space_or_arms(content: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="either a space"):
        build(SweepConfig, content, where="test")


def test_each_arm_of_the_extras_changes_one_setting() -> None:
    first, *others = load(SweepConfig, "ablation-extras").arms.values()
    changed = [{key.split(".")[1] for key in changes} for changes in others]
    assert first == {}
    assert changed == [{"triple"}, {"pair"}, {"pair_weights"}, {"center_targets"}, {"schedules"}]
