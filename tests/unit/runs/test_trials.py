"""The trials of a sweep and the rule by which a trial stops itself."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ecgscan_ray.runs.trials import StopRule, TrialStore, of_the_search, repeats_of, trial_id

METRIC = "validation.score"


def write_curve(trial_store: TrialStore, settings: dict, scores: dict[int, float], state: str = "done") -> str:
    """A stored trial whose run reported these scores."""
    name = trial_id(settings)
    folder = Path(trial_store.run_folder(name), "metrics")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, "kind": "validation", METRIC: score}) for step, score in scores.items()]
    (folder / "part-00000.jsonl").write_text("\n".join(lines) + "\n")
    trial_store.write(settings, state)
    return name


@pytest.fixture
def trial_store(tmp_path: Path) -> TrialStore:
    return TrialStore(str(tmp_path), METRIC)


def rule(trial_store: TrialStore, name: str, quantile: float = 0.5, deadline: float = 1e12) -> StopRule:
    return StopRule(trial_store, name, quantile, factor=None, prune_grace=1, last_step=30, deadline=deadline)


def test_settings_name_the_trial_whatever_their_order() -> None:
    assert trial_id({"a": 1.0, "b": 2}) == trial_id({"b": 2, "a": 1.0})
    assert trial_id({"a": 1.0}) != trial_id({"a": 1.0000000000000002})


def test_a_trial_is_read_back_with_its_curve(trial_store: TrialStore) -> None:
    name = write_curve(trial_store, {"a": 1.0}, {10: 0.1, 20: 0.3, 30: 0.2})
    trial_store.write({"a": 2.0}, "failed", "error: x")
    assert sorted(trial_store.names()) == sorted([name, trial_id({"a": 2.0})])
    trial = trial_store.trial(name)
    assert (trial.state, trial.config, trial.score(METRIC)) == ("done", {"a": 1.0}, 0.3)
    assert trial_store.trial(trial_id({"a": 2.0})).error == "error: x"


def test_a_trial_that_falls_behind_stops_after_its_grace_and_says_why(trial_store: TrialStore) -> None:
    for number, score in enumerate((0.2, 0.3, 0.4)):
        write_curve(trial_store, {"a": number}, {10: score, 20: score})
    name = write_curve(trial_store, {"a": 9}, {10: 0.05}, state="running")
    assert not rule(trial_store, name)(10, {METRIC: 0.05}), "the first report is free"
    write_curve(trial_store, {"a": 9}, {10: 0.05, 20: 0.25}, state="running")
    assert rule(trial_store, name)(20, {METRIC: 0.25})
    trial_store.write({"a": 9}, "done")
    trial = trial_store.trial(name)
    assert trial.state == "stopped"
    assert trial.reason is not None
    assert "0.2500 at step 20 lies below 0.3000" in trial.reason


@pytest.mark.parametrize(
    ("quantile", "score", "peers"),
    [(0.0, 0.0, 3), (0.5, 0.31, 3), (0.5, 0.3, 3), (0.5, 0.0, 1)],
    ids=["switched off", "above", "level", "too few peers"],
)
def test_a_trial_that_does_not_fall_behind_goes_on(
    trial_store: TrialStore, quantile: float, score: float, peers: int
) -> None:
    for number, other in enumerate((0.2, 0.3, 0.4)[:peers]):
        write_curve(trial_store, {"a": number}, {10: other, 20: other})
    name = write_curve(trial_store, {"a": 9}, {10: score, 20: score}, state="running")
    assert not rule(trial_store, name, quantile)(20, {METRIC: score})
    assert trial_store.trial(name).state == "running"


def test_peers_count_only_at_the_same_step(trial_store: TrialStore) -> None:
    for number in range(3):
        write_curve(trial_store, {"a": number}, {10: 0.9})
    name = write_curve(trial_store, {"a": 9}, {10: 0.1, 20: 0.1}, state="running")
    assert not rule(trial_store, name)(20, {METRIC: 0.1})


def test_the_deadline_stops_a_trial_but_not_at_its_last_step(trial_store: TrialStore) -> None:
    name = write_curve(trial_store, {"a": 1}, {10: 0.1}, state="running")
    late = rule(trial_store, name, deadline=time.time() - 1)
    assert not late(30, {METRIC: 0.1})
    assert late(10, {METRIC: 0.1})
    trial_store.write({"a": 1}, "done")
    assert "deadline" in (trial_store.trial(name).reason or "")


def test_trials_that_differ_in_a_further_seed_are_repeats(trial_store: TrialStore) -> None:
    for settings in ({"a": 1.0}, {"a": 1.0, "seed": 1}, {"a": 1.0, "seed": 2}, {"a": 2.0}, {"a": 3.0, "seed": 1}):
        trial_store.write(settings, "done")
    trials = trial_store.trials()
    found = {name: {trial.config["seed"] for trial in group} for name, group in repeats_of(trials).items()}
    assert found == {trial_id({"a": 1.0}): {1, 2}}
    assert {trial.id for trial in of_the_search(trials)} == {
        trial_id(settings) for settings in ({"a": 1.0}, {"a": 2.0}, {"a": 3.0, "seed": 1})
    }


def halving(trial_store: TrialStore, name: str, grace: int = 1, factor: int = 2) -> StopRule:
    return StopRule(trial_store, name, 0.0, factor, grace, last_step=1000, deadline=1e12)


def test_halving_compares_at_powers_of_its_factor_alone(trial_store: TrialStore) -> None:
    for number in range(3):
        write_curve(trial_store, {"a": number}, {10 * step: 0.5 for step in range(1, 20)})
    stops = {1: [], 2: []}
    for grace, reports in stops.items():
        for report in range(1, 20):
            curve = {10 * step: 0.1 for step in range(1, report)}  # the last line may not be stored yet
            name = write_curve(trial_store, {"a": 9}, curve, state="running")
            if halving(trial_store, name, grace)(10 * report, {METRIC: 0.1}):
                reports.append(report)
    assert stops == {1: [1, 2, 4, 8, 16], 2: [2, 4, 8, 16]}


@pytest.mark.parametrize(
    ("others", "score", "stops"),
    [([], 0.1, False), ([0.9], 0.1, False), ([0.9, 0.8], 0.1, True), ([0.9, 0.8], 0.95, False)]
    + [([0.1 * k for k in range(8)], score, stops) for score, stops in ((0.65, False), (0.55, False), (0.45, True))],
)
def test_halving_promotes_the_best_of_those_that_got_there(
    trial_store: TrialStore, others: list[float], score: float, stops: bool
) -> None:
    """A factor of 3: the first two go on, then a third of all, the trial itself included."""
    for number, other in enumerate(others):
        write_curve(trial_store, {"a": number}, {10: other})
    name = write_curve(trial_store, {"a": "own"}, {}, state="running")
    assert halving(trial_store, name, factor=3)(10, {METRIC: score}) == stops
    if stops:
        trial_store.write({"a": "own"}, "done")
        trials = len(others) + 1
        assert f"of {trials} trials, and the best {trials // 3} go on" in (trial_store.trial(name).reason or "")
