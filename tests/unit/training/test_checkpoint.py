"""Checkpoints that are damaged or made by hand: one line each, no code run, and another one of the run is taken."""

from __future__ import annotations

import json
import logging
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ecgscan_ray.errors import RunError
from ecgscan_ray.runs.checkpoints import DamagedCheckpoint, find_checkpoint, write_score
from ecgscan_ray.tasks.loading import load_run
from ecgscan_ray.training.checkpoint import restore
from ecgscan_ray.training.optimizer import build_optimizer
from tests.checkpoints import damage, sign, tiny_model, write_checkpoint
from tests.tiny import tiny_config


def take_up(folder: Path) -> None:
    """As a resumed run does."""
    model = tiny_model()
    restore(folder, model, build_optimizer(model, tiny_config().training))


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "{}", "{", "[" * 100_000, '{"schema_version": 3, "digests": []}', "\x00", "9" * 5000],
    ids=lambda content: content[:12] or "empty",
)
def test_any_state_is_one_line(tmp_path: Path, content: str) -> None:
    folder = write_checkpoint(tmp_path, 2)
    (folder / "state.json").write_text(content)
    for attempt in (lambda: load_run(str(tmp_path)), lambda: take_up(folder)):
        with pytest.raises(RunError) as found:
            attempt()
        assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", "2"),
        ("step", -1),
        ("step", 1e300),
        ("samples_seen", None),
        ("score", float("nan")),
        ("score", [1]),
        ("more", 1),
    ],
)
def test_wrong_types_in_the_state_are_damage(tmp_path: Path, key: str, value: object) -> None:
    folder = write_checkpoint(tmp_path, 2)
    state = json.loads((folder / "state.json").read_text()) | {key: value}
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(DamagedCheckpoint):
        load_run(str(tmp_path))


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def _weights(change: Callable[[dict[str, torch.Tensor], str], object]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights, sorted(weights)[0])
        save_file(weights, folder / "model.safetensors")

    return harm


def _moments(change: Callable[[dict[int, dict[str, torch.Tensor]]], object]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        content = torch.load(folder / "optimizer.pt", weights_only=True)
        change(content["state"])
        torch.save(content, folder / "optimizer.pt")

    return harm


def _packed(folder: Path) -> None:
    with zipfile.ZipFile(folder / "optimizer.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)


HARM: dict[str, Callable[[Path], object]] = {
    "a tensor less": _weights(lambda weights, name: weights.pop(name)),
    "a tensor more": _weights(lambda weights, name: weights.update(more=torch.zeros(1))),
    "another shape": _weights(lambda weights, name: weights.update({name: weights[name][None].clone()})),
    "another type": _weights(lambda weights, name: weights.update({name: weights[name].double()})),
    "a weight that is no number": _weights(lambda weights, name: weights[name].fill_(float("nan"))),
    "weights cut": lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 100),
    "weights empty": lambda folder: (folder / "model.safetensors").write_bytes(b""),
}
OF_THE_CONFIG: dict[str, Callable[[Path], object]] = {
    "settings of another model": lambda folder: _replace(folder / "config.yaml", "embed_dim: 16", "embed_dim: 32"),
    "no YAML": lambda folder: (folder / "config.yaml").write_text("seed: ["),
    "unknown settings": lambda folder: (folder / "config.yaml").write_text("sead: 1"),
    "tokenizer empty": lambda folder: (folder / "tokenizer.json").write_text(""),
    "tokenizer a path": lambda folder: (folder / "tokenizer.json").write_text("/etc/passwd"),
    "tokenizer of nothing": lambda folder: (folder / "tokenizer.json").write_text("{}"),
}
OF_THE_OPTIMISER: dict[str, Callable[[Path], object]] = {
    "a pickle": lambda folder: (folder / "optimizer.pt").write_bytes(pickle.dumps(Bomb())),
    "a pickle in torch's form": lambda folder: torch.save(Bomb(), folder / "optimizer.pt"),
    "empty": lambda folder: (folder / "optimizer.pt").write_bytes(b""),
    "a list": lambda folder: torch.save([1], folder / "optimizer.pt"),
    "larger inside": _packed,
    "moments that are no numbers": _moments(lambda state: state[0]["exp_avg"].fill_(float("inf"))),
    "moments of another shape": _moments(lambda state: state[0].update(exp_avg=torch.zeros(3, 3, 3))),
    "moments of nothing": _moments(lambda state: state.update({10_000: state[0]})),
    "another optimiser's": _moments(lambda state: state[0].pop("exp_avg_sq")),
    "of another model": lambda folder: torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt"),
}


def _replace(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


@pytest.mark.parametrize("what", [*HARM, *OF_THE_CONFIG])
def test_what_does_not_fit_is_named_though_the_digests_do(tmp_path: Path, what: str) -> None:
    folder = write_checkpoint(tmp_path, 2)
    (HARM | OF_THE_CONFIG)[what](folder)
    sign(folder)
    with pytest.raises(RunError) as found:
        load_run(str(tmp_path))
    assert "\n" not in str(found.value) and str(folder) in str(found.value)


@pytest.mark.parametrize("what", [*HARM, *OF_THE_OPTIMISER])
def test_what_does_not_fit_is_not_trained_on(tmp_path: Path, what: str) -> None:
    folder = write_checkpoint(tmp_path, 2)
    (HARM | OF_THE_OPTIMISER)[what](folder)
    sign(folder)
    with pytest.raises(RunError) as found:
        take_up(folder)
    assert "\n" not in str(found.value) and str(folder) in str(found.value)


@pytest.mark.parametrize(("which", "left"), [("best", 2), ("last", 4)])
def test_damaged_ones_are_passed_over_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, which: str, left: int
) -> None:
    for step, score in ((2, 0.6), (4, 0.5), (6, 0.9)):
        write_checkpoint(tmp_path, step, score)
    damage(tmp_path / "checkpoints" / "checkpoint_000000006" / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        assert load_run(str(tmp_path), which).state.step == left  # type: ignore[arg-type]
        assert find_checkpoint(str(tmp_path), which).endswith(f"checkpoint_{left:09d}")  # type: ignore[arg-type]
    assert "checkpoint_000000006" in caplog.text and f"checkpoint_{left:09d}: taken instead" in caplog.text
    for step in (2, 4):
        (tmp_path / "checkpoints" / f"checkpoint_{step:09d}" / "config.yaml").unlink()
    with pytest.raises(RunError, match="none of its checkpoints is whole"):
        load_run(str(tmp_path))


def test_a_score_measured_later_counts_for_the_weights_that_it_was_measured_on(tmp_path: Path) -> None:
    first, second = write_checkpoint(tmp_path, 2, 0.3), write_checkpoint(tmp_path, 4)
    before = (second / "state.json").read_bytes()
    write_score(str(second), 0.9)
    assert load_run(str(tmp_path)).state.score == 0.9 and (second / "state.json").read_bytes() == before
    content = json.loads((second / "score.json").read_text())
    for other in (
        json.dumps(content | {"weights": "0" * 64}),
        json.dumps(content | {"score": math.nan}),
        "",
        "[" * 100_000,
    ):
        (second / "score.json").write_text(other)
        assert find_checkpoint(str(tmp_path), "best") == str(first)
