"""Make ``docs/scale.md``: what limits a run on 8 to 1,024 GPUs, computed from figures that were measured on small machines.

Run as ``python -m tools.make_scale > docs/scale.md``. Nothing here was run at these sizes. Every figure that goes in stands in
``WORKLOADS``, ``MACHINES`` and ``Engine`` with where it comes from; change one and run it again.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from ecgscan_ray.config import Config, load
from ecgscan_ray.tasks.dry_run import ASSUMED_MFU
from ecgscan_ray.training.timing import PEAK_FLOPS

SIZES = (8, 32, 128, 512, 1024)
"""GPUs."""
MODALITIES = 3
"""Feature vectors of a recording that are exchanged: of its page, signal and report."""
LARGEST_BATCH = 32_768
"""Rows; up to here the global batch grows with the number of GPUs. Published contrastive runs go no further by much."""


@dataclass(frozen=True)
class Workload:
    """A preset, and what was counted or measured of it.

    Attributes:
        preset: Its name.
        flops_a_row: Forward and backward; 'operations' of ``ecgscan pretrain --dry-run``.
        parameters: Of the model; the same command.
        made_per_core_s: Rows that one core makes in a second; 'rendering' of the same command, laptop's cores.
        stream_share: Share of it that arrives through the stream; ``make -s bench ONLY=ingest``, ``vs_bare``.
    """

    preset: str
    flops_a_row: float
    parameters: float
    made_per_core_s: float
    stream_share: float

    @property
    def config(self) -> Config:
        return load(Config, self.preset)


@dataclass(frozen=True)
class Machine:
    """A node with eight GPUs.

    Attributes:
        gpu: Name in ``PEAK_FLOPS``.
        fp32_flops: Of one GPU, outside tensor cores; its maker's figure.
        network_bytes_s: Of the node, in one direction; the cloud's figure.
        lost_per_hour: Chance that the node is lost within an hour.
    """

    gpu: str
    fp32_flops: float
    network_bytes_s: float
    lost_per_hour: float


@dataclass(frozen=True)
class Engine:
    """Of Ray and storage.

    Attributes:
        coordinator_s_a_unit: Processor time of a pipeline's coordinator for each unit that it hands on; measured on two
            cores with the ``engine`` of ``make -s bench ONLY=ingest``: 7.2 ms at 336 RGB, 8.2 ms as leads.
        upload_bytes_s: Of one process to a bucket.
        head_cores: Of the node that runs Ray Train's controller, where all coordinators run.
        start_s: From a lost worker to the next step: a new group, its stream and the checkpoint.
        start_s_a_worker: More for each worker, which are started one after the other by one controller.
    """

    coordinator_s_a_unit: float = 0.0075
    upload_bytes_s: float = 0.5e9
    head_cores: int = 64
    start_s: float = 60.0
    start_s_a_worker: float = 0.1


WORKLOADS = {
    "gpu": (Workload("gpu", 8.5e9, 6.5e6, 650, 0.76), Machine("L4", 30e12, 12.5e9, 0.02)),
    "paper": (Workload("paper", 1.18e12, 340e6, 423, 0.86), Machine("H100", 67e12, 400e9, 0.0002)),
}
ENGINE = Engine()
GPUS_A_NODE = 8

_HEAD = """# Scale

Made by `python -m tools.make_scale`. **Nothing on this page was run at these sizes**: it follows from figures that were
measured on two cores, from what makers and clouds state of their machines, and from assumptions that are named. It says what
would break first, so that it can be looked at first.

What goes in:

| figure | where from |
|---|---|
| operations and parameters | counted by `ecgscan pretrain --dry-run` |
| rows that a core makes, share that arrives | measured: the dry run, and `make -s bench ONLY=ingest` on two cores |
| work of a pipeline's coordinator for a unit | measured: 7.5 ms of processor time, with actors that compute nothing |
| cores of the node where the coordinators run | assumed: 64 |
| share of a GPU's arithmetic that is used | assumed: 40 % in bf16; the loss, in fp32, likewise |
| network of a node, fp32 arithmetic | stated by clouds and makers |
| upload of a checkpoint | assumed: 0.5 GB/s from one process |
| from a lost worker to the next step | assumed: 60 s, and 0.1 s for each worker |
| lost nodes | assumed: 2 % an hour on spot (L4), 0.02 % an hour otherwise (H100) |

A step is compute, then the loss, then the exchange of features and gradients, one after the other; in truth gradients travel
during the backward pass. The global batch grows with the number of GPUs up to 32,768 rows.

Columns: rows/s are what the GPUs would take if rows always came; cores and pipelines (`resources.max_pipelines`) are what that
needs; then the time to store a checkpoint, and between two of them; and the share of the time that lost nodes leave.
"""

_TAIL = """## What follows

- **One coordinator of Ray Data is soon too few**: at 130 units a second it feeds two dozen H100 with pictures, and fewer GPUs
  than a node has with leads as read, whose model is small. `resources.max_pipelines` gives each part of the workers a stream
  with a coordinator of its own; the batches stay the same. A row group is read once if a window has no more rows than a part
  of the batch, as in the presets; with windows twice as large it is read twice.
- All coordinators run on the node of Ray Train's controller, a core each.
- Cores that make rows: about one for each H100 with pictures, nine for each L4 with leads as read (a row of them costs the
  GPU as much as the hundredth part of a picture).
- The loss grows with the square of the batch, shared out over the ranks: it stays small as long as the batch stays within
  32,768.
- Gradients of small towers cost more than their arithmetic on nodes with slow networks: there, train on fewer, fuller GPUs,
  or accumulate (`training.micro_batch` with a larger batch).
- A checkpoint is written by rank 0 while training goes on. Where it takes longer than the time between two, training waits:
  raise `training.checkpoint_every`.
- Lost nodes cost half of the time between two checkpoints and a restart each. On spot, `training.checkpoint_every` is what to
  lower.

What an hour costs: `ecgscan pretrain --dry-run --prices prices.yaml`, with your own prices.
"""


@dataclass(frozen=True)
class Estimate:
    """One size of cluster.

    Attributes:
        gpus: Their number.
        batch: Rows of a step.
        compute_s: Forward and backward of a rank's rows.
        loss_s: Scores of a rank's rows against all, forward and backward, in fp32.
        exchange_s: Features and gradients over the network, none of it hidden behind the backward pass.
        rows_per_s: Of the step as a whole.
        cores: That make the rows.
        node_bytes_s: Rows that come into a node.
        pipelines: With a coordinator each, none of which is busy all the time.
        checkpoint_s: To store one.
        interval_s: Between checkpoints.
        goodput: Share of the time that is not lost to lost nodes.
    """

    gpus: int
    batch: int
    compute_s: float
    loss_s: float
    exchange_s: float
    rows_per_s: float
    cores: int
    node_bytes_s: float
    pipelines: int
    checkpoint_s: float
    interval_s: float
    goodput: float

    @property
    def step_s(self) -> float:
        return self.compute_s + self.loss_s + self.exchange_s


def estimate(workload: Workload, machine: Machine, gpus: int, engine: Engine = ENGINE) -> Estimate:
    """A run on so many GPUs, each with as many rows as in the preset as long as the batch is not too large."""
    config = workload.config
    rows_a_gpu = config.training.global_batch_size // config.resources.num_workers
    batch = min(rows_a_gpu * gpus, LARGEST_BATCH)
    nodes = max(1, gpus // GPUS_A_NODE)
    compute_s = batch / gpus * workload.flops_a_row / (ASSUMED_MFU * PEAK_FLOPS[machine.gpu])
    scores = batch * batch / gpus
    loss_s = scores * MODALITIES * 2 * config.model.embed_dim * 3 * 2 / (ASSUMED_MFU * machine.fp32_flops)
    features = 2 * batch * MODALITIES * config.model.embed_dim * 4
    gradients = 2 * workload.parameters * 4 * (nodes - 1) / nodes
    exchange_s = (features * (nodes - 1) / nodes + gradients) / machine.network_bytes_s
    step_s = compute_s + loss_s + exchange_s
    rows_per_s = batch / step_s
    interval_s = config.training.checkpoint_every * step_s
    coordinators = rows_per_s / config.unit_rows * engine.coordinator_s_a_unit
    lost = engine.start_s + engine.start_s_a_worker * gpus + interval_s / 2
    return Estimate(
        gpus=gpus,
        batch=batch,
        compute_s=compute_s,
        loss_s=loss_s,
        exchange_s=exchange_s,
        rows_per_s=rows_per_s,
        cores=math.ceil(rows_per_s / (workload.made_per_core_s * workload.stream_share)),
        node_bytes_s=rows_per_s * config.row_bytes / nodes,
        pipelines=next(n for n in range(1, gpus + 1) if gpus % n == 0 and n >= coordinators),
        checkpoint_s=3 * 4 * workload.parameters / engine.upload_bytes_s,
        interval_s=interval_s,
        goodput=1 / (1 + machine.lost_per_hour * nodes / 3600 * lost),
    )


def limits(workload: Workload, machine: Machine, engine: Engine = ENGINE) -> dict[str, float]:
    """What is used at 1,024 GPUs, as a share of what there is; the first to be used up has the largest."""
    last = estimate(workload, machine, SIZES[-1], engine)
    return {
        "cores where the coordinators run": last.pipelines / engine.head_cores,
        "network of a node, for rows": last.node_bytes_s / machine.network_bytes_s,
        "upload of a checkpoint, of the time between two": last.checkpoint_s / last.interval_s,
        "loss and exchange, of the step": (last.loss_s + last.exchange_s) / last.step_s,
        "lost to lost nodes, of the time": 1 - last.goodput,
    }


def coordinator_limit(workload: Workload, machine: Machine, engine: Engine = ENGINE) -> tuple[float, float]:
    """Rows a second that one coordinator hands on, and how many GPUs they feed."""
    rows_per_s = workload.config.unit_rows / engine.coordinator_s_a_unit
    return rows_per_s, rows_per_s * workload.flops_a_row / (ASSUMED_MFU * PEAK_FLOPS[machine.gpu])


def page() -> str:
    """The text of ``docs/scale.md``."""
    parts = [_HEAD]
    for name, (workload, machine) in WORKLOADS.items():
        parts += [_section(name, workload, machine)]
    return "\n".join([*parts, _TAIL])


def _section(name: str, workload: Workload, machine: Machine) -> str:
    config, rows = workload.config, [estimate(workload, machine, gpus) for gpus in SIZES]
    rows_per_s, gpus = coordinator_limit(workload, machine)
    shares = sorted(limits(workload, machine).items(), key=lambda item: -item[1])
    lines = [
        f"## Preset `{name}` on {machine.gpu}",
        "",
        f"{workload.flops_a_row / 1e9:.3g} GFLOP a row, {workload.parameters / 1e6:.0f} million parameters, "
        f"{config.row_bytes / 1e3:.0f} kB a row, units of {config.unit_rows} rows; a core makes "
        f"{workload.made_per_core_s:.0f} rows a second, of which {workload.stream_share:.0%} arrive. "
        f"Nodes of {GPUS_A_NODE} GPUs with {8 * machine.network_bytes_s / 1e9:.0f} Gb/s.",
        "",
        "| GPUs | batch | rows/s | compute | loss | exchange | cores that make rows | rows into a node | pipelines | "
        "checkpoint, every | not lost |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(e) for e in rows),
        "",
        f"At {SIZES[-1]:,} GPUs, in use of what there is: "
        + "; ".join(f"{part} {_share(share)}" for part, share in shares)
        + ".",
        "",
        f"**What breaks first**: {shares[0][0]}. "
        f"One pipeline hands on at most {rows_per_s:,.0f} rows a second, enough for {gpus:.0f} GPUs.",
        "",
    ]
    return "\n".join(lines)


def _share(share: float) -> str:
    return f"{share:.0f} times" if share >= 2 else f"{share:.0%}"


def _row(e: Estimate) -> str:
    parts = (e.compute_s, e.loss_s, e.exchange_s)
    cells = [
        *(f"{e.gpus:,}", f"{e.batch:,}", f"{e.rows_per_s:,.0f}"),
        *(f"{1000 * seconds:.1f} ms" for seconds in parts),
        *(f"{e.cores:,}", f"{e.node_bytes_s / 1e6:,.0f} MB/s", f"{e.pipelines}"),
        *(f"{e.checkpoint_s:.0f} s, {e.interval_s / 60:.1f} min", f"{e.goodput:.1%}"),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(page())
