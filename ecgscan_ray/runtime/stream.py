"""From the store to each trainer's batches, by Ray Data: plan, spans, units.

The plan is Ray Data's input. Stage 1 (tasks) reads a span of the plan and yields packed rows cut into units; stage 2 (an
actor pool, which keeps the renderer's caches) turns a unit into arrays. A unit is one row and one block throughout, so that
order is kept, unit j goes to rank j mod W, and nothing is copied together on the way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionOptions

from ecgscan_ray import text
from ecgscan_ray.batch import Batch, BatchMaker, concatenate
from ecgscan_ray.config import Config
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.runtime.demand import Need, await_room
from ecgscan_ray.runtime.spans import read_spans
from ecgscan_ray.store.embeddings import COLUMNS, EmbeddingReader, vectors
from ecgscan_ray.store.manifest import Manifest
from ecgscan_ray.store.plan import EpochPlan
from ecgscan_ray.store.schema import unpack
from ecgscan_ray.store.shards import read_row_groups

logger = logging.getLogger(__name__)

ROW_BLOCKS = 1
"""``target_max_block_size`` in bytes: below any row, so that each row (a unit) leaves a stage as a block of its own."""

TASKS_IN_FLIGHT = 8
"""Units handed to each actor ahead of its work: with Ray's own 2, actors stood idle half the time."""

UNITS_AHEAD = 16
"""Units that a reading task may have ready before the next is fetched; Ray's own 2 makes the actors wait for it."""

MAX_UNIT_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Source:
    """Everything a stream needs; small, and the same on every worker."""

    config: Config
    store: str
    manifest: Manifest
    tokenizer_json: str
    split: str = "train"
    said: str | None = None
    """Folder of what the run's frozen teacher says of the store's rows."""

    def plan(self) -> EpochPlan:
        return EpochPlan(self.manifest, self.split, self.config.seed, self.config.stream.window_row_groups)


class Read:
    """Stage 1: spans of the plan to packed units."""

    def __init__(self, source: Source) -> None:
        self._source, self._plan = source, source.plan()
        self._vectors = EmbeddingReader(source.said) if source.said else None

    def __call__(self, spans: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        unit = self._source.config.stream.unit_rows
        for start, stop in zip(spans["start"].tolist(), spans["stop"].tolist(), strict=True):
            rows = read_span(self._source.store, self._plan, start, stop, self._vectors)
            for first in range(0, stop - start, unit):
                yield {"unit": np.array([serialise(rows.slice(first, unit))], dtype=object)}


def read_span(
    store: str, plan: EpochPlan, start: int, stop: int, vectors_of: EmbeddingReader | None = None
) -> pa.Table:
    """Packed rows of positions [start, stop) in their order, with columns ``position`` and ``epoch``.

    With ``vectors_of``, a teacher's vectors come along as its columns.

    Raises:
        StoreError: A file is missing, damaged, or another one than the manifest says.
    """
    tables, positions = [], []
    for piece in plan.pieces(start, stop):
        shard, chosen = plan.shards[piece.shard], pa.array(piece.rows)
        rows = read_row_groups(store, shard, [piece.row_group]).take(chosen)
        if vectors_of is not None:
            embedded = vectors_of.read(shard, [piece.row_group]).take(chosen)
            for name in COLUMNS:
                rows = rows.append_column(name, embedded[name])
        epoch = pa.array(np.full(len(rows), piece.epoch, np.int64))
        tables.append(rows.append_column("epoch", epoch).append_column("position", pa.array(piece.positions)))
        positions.append(piece.positions)
    order = np.argsort(np.concatenate(positions), kind="stable")
    return pa.concat_tables(tables).take(pa.array(order)).combine_chunks()


def serialise(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def make_unit(maker: BatchMaker, rows: pa.Table) -> Batch:
    """Packed rows with ``position`` and ``epoch`` to arrays."""
    positions, epochs = rows["position"].to_pylist(), rows["epoch"].to_pylist()
    said = {name: rows[name] for name in COLUMNS if name in rows.column_names}
    batch = maker.make(unpack(rows.drop_columns(["position", "epoch", *said])), positions, epochs)
    dims = (maker.config.model.embed_dim, maker.config.model.content_dim)
    return batch | {name: vectors(said[name], dim) for name, dim in zip(COLUMNS, dims, strict=True) if said}


class Render:
    """Stage 2: one packed unit to one row of arrays."""

    def __init__(self, source: Source) -> None:
        self._maker = BatchMaker(source.config, text.parse_tokenizer(source.tokenizer_json))

    def __call__(self, block: dict[str, np.ndarray]) -> Batch:
        with pa.ipc.open_stream(block["unit"][0]) as reader:
            return {name: array[None] for name, array in make_unit(self._maker, reader.read_all()).items()}


class SchedulerThrottle:
    """Keeps Ray Data's scheduling loop from turning without a pause while finished units wait for the trainers.

    Seen in Ray 2.60: with outputs held back, its wait returns at once, and the loop takes 0.6 of a core from the trainer.
    """

    def before_execution_starts(self, executor: object) -> None:
        """Nothing to prepare."""

    def on_execution_step(self, executor: object) -> None:
        """Pause for a moment: less than a unit takes to draw, and the actors have units ahead."""
        time.sleep(0.02)

    def after_execution_succeeds(self, executor: object) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: object, error: Exception) -> None:
        """Nothing to do."""


def build(source: Source, start: int, stop: int) -> ray.data.Dataset:
    """The units of plan positions [start, stop) as a lazy dataset, one row each."""
    resources = source.config.resources
    context = DataContext.get_current()  # of the controller, which builds the dataset: the driver's does not reach it
    context.target_max_block_size = ROW_BLOCKS
    context._max_num_blocks_in_streaming_gen_buffer = UNITS_AHEAD  # no public name (Ray 2.60)
    context.custom_execution_callback_classes = [SchedulerThrottle]
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    return (
        read_spans(source.plan(), start, stop, source.config.stream.unit_rows)
        .map_batches(
            Read,
            fn_constructor_args=(source,),
            batch_size=1,
            num_cpus=resources.cpus_per_read,
            compute=_actors(resources.read_actors),
        )
        .map_batches(
            Render,
            fn_constructor_args=(source,),
            batch_size=1,
            num_cpus=resources.cpus_per_render_actor,
            compute=_actors(resources.render_actors),
        )
    )


def _actors(count: int) -> ActorPoolStrategy:
    return ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT)


def execution_options(config: Config) -> ExecutionOptions:
    """Order kept; stages placed on nodes with the render label, where there is one."""
    options = ExecutionOptions(preserve_order=True)
    if config.resources.render_label:
        options.label_selector = dict(config.resources.render_label)
    return options


def batches(
    shard: ray.data.DataIterator, config: Config, num_workers: int, say: Callable[[str], None] = logger.warning
) -> Iterator[Batch]:
    """This rank's part of each global batch, from its shard of units.

    Args:
        shard: This rank's units.
        config: Settings.
        num_workers: W.
        say: Told in one line when no unit comes for ``stream.stall_timeout_s``.
    """
    units_per_batch = config.training.global_batch_size // (config.stream.unit_rows * num_workers)
    held: list[Batch] = []
    with StallWatch(config.stream.stall_timeout_s, say) as watch:
        for row in shard.iter_batches(
            batch_size=1, batch_format="numpy", prefetch_batches=config.stream.prefetch_units, drop_last=False
        ):
            watch.seen()
            held.append({name: array[0] for name, array in row.items()})
            if len(held) == units_per_batch:
                watch.pause()
                yield concatenate(held)
                held = []
                watch.seen()


class StallWatch:
    """Says in one line which stage waits for what when no unit has come for ``timeout_s``."""

    def __init__(self, timeout_s: float, say: Callable[[str], None]) -> None:
        self._timeout, self._say = timeout_s, say
        self._beat, self._stop = threading.Event(), threading.Event()
        self._paused = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> StallWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._beat.set()

    def seen(self) -> None:
        self._paused = False
        self._beat.set()

    def pause(self) -> None:
        """The consumer is at work: silence is not the stream's fault."""
        self._paused = True

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._beat.clear()
            if not self._beat.wait(self._timeout) and not self._paused and not self._stop.is_set():
                self._say(diagnosis(self._timeout))


def diagnosis(seconds: float) -> str:
    """One line on a stream that stands still: free and total CPUs, and how far each stage is."""
    free, total = ray.available_resources(), ray.cluster_resources()
    return (
        f"no page has come for {seconds:.0f} s; free CPUs {free.get('CPU', 0):g} of {total.get('CPU', 0):g}, "
        f"object store free {free.get('object_store_memory', 0) / 2**20:.0f} MB; {stage_states()}"
    )


def stage_states() -> str:
    """What Ray Data itself knows of its running stages; empty where it keeps that to itself."""
    try:
        from ray.data._internal.stats import get_or_create_stats_actor  # no public way to ask (Ray 2.60)

        datasets = ray.get(get_or_create_stats_actor().get_datasets.remote(None), timeout=5)
    except Exception as error:
        return f"stages unknown ({type(error).__name__})"
    lines = []
    for dataset in datasets.values():
        if dataset.get("state") == "RUNNING":
            for name, stage in dataset.get("operators", {}).items():
                lines.append(
                    f"{name}: {stage.get('state')}, {stage.get('progress')} of {stage.get('total')} done, "
                    f"{stage.get('queued_blocks', '?')} queued"
                )
    return "; ".join(lines) or "no stage is running"


def needs(config: Config) -> list[Need]:
    """The processes that train, render and read, all at the same time."""
    resources = config.resources
    worker = {"CPU": resources.cpus_per_worker, "GPU": float(resources.use_gpu)}
    return [
        *[Need("trainer", worker, resources.train_label)] * resources.num_workers,
        *[Need("renderer", {"CPU": resources.cpus_per_render_actor}, resources.render_label)] * resources.render_actors,
        *[Need("reader", {"CPU": resources.cpus_per_read}, resources.render_label)] * resources.read_actors,
    ]


def preflight(config: Config) -> None:
    """Refuse to start what would stand still, and wait for nodes that can come.

    Raises:
        ConfigError: A unit is too big, or the cluster cannot have the CPUs, GPUs or labels.
        WorkError: Nodes that could come did not.
    """
    page, rows = config.page, config.stream.unit_rows
    unit_bytes = rows * (page.height * page.width * page.channels + 24 * config.model.sig_len + 2048)
    if unit_bytes > MAX_UNIT_BYTES:
        raise ConfigError(
            f"a unit would be {unit_bytes / 2**20:.0f} MB, at most {MAX_UNIT_BYTES // 2**20} MB",
            where="stream.unit_rows",
            fix=f"Use at most {MAX_UNIT_BYTES * rows // unit_bytes} rows.",
        )
    await_room(needs(config))
