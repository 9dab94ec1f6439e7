"""The step loop without Ray: a list of batches, a reporter that keeps folders."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ecgscan_ray import precision, text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.config import Config
from ecgscan_ray.errors import NotFiniteError, RunError, WorkError
from ecgscan_ray.runs.checkpoints import verify
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.tasks.loading import load_checkpoint
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training import loop, meters
from ecgscan_ray.training.loop import train
from ecgscan_ray.training.meters import Meter, read_values
from ecgscan_ray.training.optimizer import learning_rate
from ecgscan_ray.training.tensors import shown_and_derivable
from tests.records import recording
from tests.tiny import tiny_config

TOKENIZER = text.fit_tokenizer(["sinusrhythmus normales ekg", "linksschenkelblock"], 300)


@pytest.fixture(scope="module")
def batches() -> list[dict[str, np.ndarray]]:
    config = tiny_config()
    maker, size = BatchMaker(config, TOKENIZER), config.training.global_batch_size
    rows = [recording(str(n), seed=n, report=f"sinusrhythmus {n}") for n in range(size)]
    return [maker.make(rows, range(s * size, (s + 1) * size), [s] * size) for s in range(6)]


class Keeper:
    """Keeps every checkpoint; starts from one, stops after one."""

    def __init__(self, folder: Path, start: Path | None = None, stop_at: int | None = None) -> None:
        self.folder, self.start, self.stop_at = folder, start, stop_at
        self.kept: list[Path] = []
        folder.mkdir(exist_ok=True)

    def last_checkpoint(self) -> Path | None:
        return self.start

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        assert checkpoint is not None
        self.kept.append(self.folder / f"step{int(metrics['step'])}")
        shutil.move(checkpoint, self.kept[-1])

    def should_stop(self, step: int, metrics: dict[str, float]) -> bool:
        return step == self.stop_at

    def close(self) -> None:
        """All is stored already."""


def run(config: Config, batches, keeper: Keeper, **options: Any) -> torch.nn.Module:
    model = Pretrain().build_model(config, TOKENIZER)
    manifest = Manifest(source="test", shards=[])
    spec = RunSpec("pretrain", config, "/store", manifest, TOKENIZER.to_str(), 6, "/run")
    train(spec, Pretrain(), model, iter(batches), keeper, device=torch.device("cpu"), **options)
    return model


def test_stop_and_resume_equals_a_run_without_a_break(batches, tmp_path: Path) -> None:
    config = tiny_config(training__precision="fp32")  # a probe on a busy machine could decide differently each time
    whole = run(config, batches, Keeper(tmp_path / "a"))
    broken = Keeper(tmp_path / "b", stop_at=4)
    run(config, batches, broken)
    assert [p.name for p in broken.kept] == ["step2", "step4"]
    assert verify(str(broken.kept[-1])).samples_seen == 4 * config.training.global_batch_size
    resumed = run(config, batches[4:], Keeper(tmp_path / "c", start=broken.kept[-1]))
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)


def test_a_run_goes_on_in_the_arithmetic_that_it_began_with(
    batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the probe says, unless bf16 has become far slower: on another machine."""

    def probe(ratio: float) -> None:
        monkeypatch.setattr(precision, "matmul_seconds", lambda *_: {torch.float32: 1.0, torch.bfloat16: ratio})

    used = {}
    for name, first, then in (("kept", 0.5, 1.5), ("other", 0.5, 100.0), ("exact", 1.5, 0.5)):
        probe(first)
        begun = Keeper(tmp_path / name, stop_at=2)
        run(tiny_config(), batches, begun)
        probe(then)
        resumed = Keeper(tmp_path / f"{name}-resumed", start=begun.kept[-1])
        caplog.clear()
        run(tiny_config(), batches[2:], resumed)
        used[name] = [verify(str(keeper.kept[-1])).precision for keeper in (begun, resumed)]
        assert ("the steps before were made in bf16" in caplog.text) == (name == "other")
    assert used == {"kept": ["bf16", "bf16"], "other": ["bf16", "fp32"], "exact": ["fp32", "fp32"]}


def test_the_running_average_is_what_is_validated_and_saved_and_it_resumes(batches, tmp_path: Path) -> None:
    config = tiny_config(training__precision="fp32", training__ema_decay=0.5, training__checkpoint_every=1)
    steps = [Pretrain().build_model(config, TOKENIZER).state_dict()]
    validated: list[dict[str, torch.Tensor]] = []

    def validate(model: torch.nn.Module) -> dict[str, float]:
        validated.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        assert not model.training
        return {"validation.score": 0.5}

    keeper = Keeper(tmp_path / "a")
    run(config, batches, keeper, validate=validate)
    steps += [load_file(folder / "trained.safetensors") for folder in keeper.kept]
    average = dict(steps[0])
    for step, folder in enumerate(keeper.kept, start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        average = {name: decay * value + (1 - decay) * steps[step][name] for name, value in average.items()}
        saved = load_file(folder / "model.safetensors")
        for name, value in average.items():
            torch.testing.assert_close(saved[name], value, rtol=1e-5, atol=1e-6, msg=name)
            torch.testing.assert_close(validated[step - 1][name], saved[name], rtol=0, atol=0, msg=name)
    for name, value in load_checkpoint(keeper.kept[-1]).model.state_dict().items():
        torch.testing.assert_close(value, saved[name], rtol=0, atol=0, msg="what is exported is the average")
    resumed = Keeper(tmp_path / "b", start=keeper.kept[3])
    run(config, batches[4:], resumed)
    for name in ("model.safetensors", "trained.safetensors"):
        assert (resumed.kept[-1] / name).read_bytes() == (keeper.kept[-1] / name).read_bytes()


def test_it_learns_these_rows(batches, tmp_path: Path) -> None:
    config = tiny_config(training__log_every=1)
    before = Pretrain().build_model(config, TOKENIZER)
    after = run(config, batches, Keeper(tmp_path))
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_skipped_rows_and_an_early_end_are_errors(batches, tmp_path: Path) -> None:
    config = tiny_config()
    with pytest.raises(WorkError, match="plan position 12 where step 1 of rank 0 needs 0"):
        run(config, batches[1:], Keeper(tmp_path))
    with pytest.raises(WorkError, match="ended before step 3"):
        run(config, batches[:2], Keeper(tmp_path / "x"))


def test_a_loss_that_is_not_finite_stops_before_a_checkpoint(batches, tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    spoiled = [dict(batch) for batch in batches]
    spoiled[1]["signal_scale_mv"] = np.full_like(spoiled[1]["signal_scale_mv"], np.inf)
    with pytest.raises(WorkError, match="not finite at step 2"):
        run(tiny_config(), spoiled, keeper)
    assert keeper.kept == []


def test_the_step_that_was_not_finite_is_found_among_many(batches, tmp_path: Path) -> None:
    """The loss is looked at every sixth step; the batch at fault is that of the third."""
    spoiled = [dict(batch) for batch in batches]
    spoiled[2]["signal_scale_mv"] = np.full_like(spoiled[2]["signal_scale_mv"], np.inf)
    with pytest.raises(NotFiniteError, match="not finite at step 3") as found:
        run(tiny_config(training__log_every=6, training__checkpoint_every=6), spoiled, Keeper(tmp_path))
    assert found.value.step == 3


def test_weights_that_are_not_finite_are_not_saved(batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step before a checkpoint is infinitely long: its loss was fine."""
    keeper, rate = Keeper(tmp_path), loop.learning_rate
    monkeypatch.setattr(loop, "learning_rate", lambda step, *rest: float("inf") if step == 3 else rate(step, *rest))
    with pytest.raises(NotFiniteError, match="weights not finite at step 4") as found:
        run(tiny_config(), batches, keeper)
    assert found.value.step == 4
    assert [folder.name for folder in keeper.kept] == ["step2"]


def test_metrics_are_means_over_steps_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, of which the other has seen mean losses of 4."""
    monkeypatch.setattr(meters, "world_size", lambda: 2)
    monkeypatch.setattr(meters, "global_sum", lambda value: value + 4)
    meter = Meter()
    for loss in (1.0, 3.0):
        meter.add({"loss": torch.tensor(loss)})
    values = read_values(meter.means(), {"fingerprint": torch.tensor(2**53 - 1)}, torch.device("cpu"))
    assert values == {"loss": 3.0, "fingerprint": 2**53 - 1}, "what is the same on all ranks is read as it is"
    assert meter.means() == {}


def test_damaged_checkpoints_are_refused(batches, tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, stop_at=2)
    run(tiny_config(), batches, keeper)
    folder = keeper.kept[-1]
    assert load_checkpoint(folder).state.step == 2
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(RunError, match=r"tokenizer\.json is missing or damaged"):
        load_checkpoint(folder)
    (folder / "state.json").unlink()
    with pytest.raises(RunError, match="no checkpoint here"):
        load_checkpoint(folder)


def test_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    config = tiny_config(training__warmup_steps=10, training__learning_rate=1.0, training__min_learning_rate_ratio=0.1)
    rates = [learning_rate(step, 100, config.training) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1) and max(rates) <= 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_masks_of_a_page_with_rhythm_strip() -> None:
    """3x4 + II shows 15 of 48 lead-quarters; 5 more follow from the lead laws (method of the objective's three parts)."""
    from ecgscan_ray.paper.layout import windows_of

    windows = np.full((1, 16, 3), -1, np.float32)
    windows[0, :13] = windows_of("3x4+1")
    shown, derivable = shown_and_derivable(torch.from_numpy(windows), 100, 1000)
    assert shown.float().mean() * 48 == pytest.approx(15)
    assert derivable.float().mean() * 48 == pytest.approx(5)
    assert not (shown & derivable).any()
    assert derivable[0, 3:6, :250].all() and derivable[0, [0, 2], 250:500].all()
