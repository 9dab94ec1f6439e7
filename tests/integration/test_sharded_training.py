"""A model shared out among workers (FSDP2) trains as one that each of them holds, and goes on with another number of them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ecgscan_ray import text
from ecgscan_ray.batch import BatchMaker
from ecgscan_ray.config import Config
from ecgscan_ray.distributed import rank, world_size
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.tasks.loading import load_checkpoint
from ecgscan_ray.tasks.pretrain import Pretrain
from ecgscan_ray.training.loop import expected_positions, train
from ecgscan_ray.training.sharding import shard
from ecgscan_ray.training.timing import PHASES
from tests.processes import ProcessPool
from tests.records import recording
from tests.tiny import tiny_config

pytestmark = pytest.mark.verify  # minutes

STEPS, HALF = 20, 10
STILL = {"lead_dropout": 0.0, "gain": 0.0, "noise_mv": 0.0, "token_dropout": 0.0}
TOKENIZER = text.fit_tokenizer(["sinusrhythmus normales ekg", "linksschenkelblock"], 300)


EXACT: dict[str, Any] = {
    "stream__unit_rows": 3,
    "training__augment": STILL,
    "training__precision": "fp32",
    "training__steps": STEPS,
    "training__checkpoint_every": 1,
    "training__term_gradients_every": 0,
    # AdamW divides a gradient by its own size: where that is rounding alone, the weight still moves by the learning rate. At
    # 1e-4 one process with micro-batches is then 2e-6 from itself without, DDP and FSDP 3e-6, and 3e-7 from each other.
    "training__learning_rate": 1e-5,
    "training__ema_decay": 0.9,
    "model__image": {"name": "vit_tiny_patch16_224", "kwargs": {"depth": 2, "embed_dim": 24, "num_heads": 2}},
}


def settings(sharded: bool, **changes: Any) -> Config:
    return tiny_config(**EXACT, resources__shard_model=sharded, **changes)


class Keeper:
    """Losses of each step; the checkpoints of the middle and of the last."""

    def __init__(self, folder: Path, start: Path | None) -> None:
        self.folder, self.start, self.losses = folder, start, list[float]()

    def last_checkpoint(self) -> Path | None:
        return self.start

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        self.losses.append(metrics["loss"])
        assert sum(metrics[f"{phase}_s"] for phase in PHASES) == pytest.approx(metrics["step_s"])
        assert (metrics["communication_s"] > 0) == (world_size() > 1)
        if checkpoint and metrics["step"] in (HALF, STEPS):
            shutil.move(checkpoint, self.folder / f"step{int(metrics['step'])}")

    def should_stop(self, step: int, metrics: dict[str, float]) -> bool:
        return False

    def close(self) -> None:
        """All is stored already."""


def losses_of_a_run(config: Config, folder: str, start: str | None = None) -> list[float]:
    """Train on this rank's rows; the losses of all ranks."""
    Path(folder).mkdir(exist_ok=True)
    model = Pretrain().build_model(config, TOKENIZER)
    model.page.dropout.p = 0.0
    maker, first = BatchMaker(config, TOKENIZER), HALF if start else 0
    batches = []
    for step in range(first, STEPS):
        positions = expected_positions(config, step)
        rows = [recording(str(n % 12), seed=int(n) % 12, report=f"sinusrhythmus {n % 12}") for n in positions]
        batches.append(maker.make(rows, positions.tolist(), [0] * len(rows)))
    parallel = shard if config.resources.shard_model else DistributedDataParallel
    wrap = parallel if world_size() > 1 else lambda module: module
    keeper = Keeper(Path(folder), Path(start) if start else None)
    spec = RunSpec("pretrain", config, "/store", Manifest(source="test", shards=[]), TOKENIZER.to_str(), STEPS, "/run")
    validated: list[dict[str, Tensor]] = []

    def validate(evaluated: nn.Module) -> dict[str, float]:
        validated.append({name: tensor.clone() for name, tensor in evaluated.state_dict().items()})
        return {}

    options: dict[str, Any] = {"validate": validate} if rank() == 0 else {}
    train(spec, Pretrain(), model, iter(batches), keeper, device=torch.device("cpu"), wrap=wrap, **options)
    if rank() == 0:
        saved = load_file(Path(folder) / f"step{STEPS}" / "model.safetensors")
        assert all(torch.equal(validated[-1][name], tensor) for name, tensor in saved.items())
    return keeper.losses


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], Path]:
    folder = tmp_path_factory.mktemp("one")
    return losses_of_a_run(settings(False), str(folder)), folder


def assert_same_weights(folder: Path, other: Path) -> None:
    for name in ("model.safetensors", "trained.safetensors"):
        expected = load_file(other / name)
        for key, tensor in load_file(folder / name).items():
            torch.testing.assert_close(tensor, expected[key], rtol=1e-3, atol=3e-5, msg=key)


@pytest.mark.parametrize(("world", "micro_batch"), [(4, None), (2, 2)])
def test_shared_out_or_not_the_loss_is_that_of_one_process(
    process_pool: ProcessPool, one_process: Any, tmp_path: Path, world: int, micro_batch: int | None
) -> None:
    expected, whole = one_process
    changes = {"training__micro_batch": micro_batch, "training__activation_checkpointing": micro_batch is not None}
    for sharded in (True, False):
        folder = tmp_path / f"{sharded}"
        losses = process_pool.run(world, losses_of_a_run, settings(sharded, **changes), str(folder))
        assert all(of_rank == losses[0] for of_rank in losses)
        assert losses[0] == pytest.approx(expected, rel=1e-6)
        assert_same_weights(folder / f"step{STEPS}", whole / f"step{STEPS}")
    load_checkpoint(tmp_path / "True" / f"step{STEPS}")


def test_a_run_of_four_workers_goes_on_with_two_and_with_one(
    process_pool: ProcessPool, one_process: Any, tmp_path: Path
) -> None:
    expected, _ = one_process
    process_pool.run(4, losses_of_a_run, settings(True), str(tmp_path / "four"))
    half = str(tmp_path / "four" / f"step{HALF}")
    two = process_pool.run(2, losses_of_a_run, settings(True), str(tmp_path / "two"), half)[0]
    one = losses_of_a_run(settings(True), str(tmp_path / "one"), half)
    assert two == pytest.approx(expected[HALF:], rel=1e-6)
    assert one == pytest.approx(expected[HALF:], rel=1e-6)
