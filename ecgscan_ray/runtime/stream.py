"""From the store to each trainer's batches, by Ray Data: plan, spans, units. Several streams may share the work, by parts.

The plan is Ray Data's input. Stage 1 (tasks) reads a span of the plan and yields packed rows cut into units; stage 2 (an
actor pool, which keeps the renderer's caches) turns a unit into arrays by the task's maker. A unit is one row and one block
throughout, so that order is kept, unit j of a part goes to the j mod n-th of its n ranks, and nothing is concatenated on the way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, ExecutionOptions

from ecgscan_ray import text
from ecgscan_ray.batch import RowMaker, Rows, concatenate
from ecgscan_ray.config import MAX_UNIT_BYTES, Config
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.filesystem.retry import be_patient
from ecgscan_ray.runs.needs import num_readers, shares
from ecgscan_ray.runs.spec import RunSpec
from ecgscan_ray.runtime import ray_quirks
from ecgscan_ray.runtime.spans import read_spans
from ecgscan_ray.store.embeddings import COLUMNS, EmbeddingReader, vectors
from ecgscan_ray.store.plan import WHOLE, EpochPlan, Part
from ecgscan_ray.store.schema import unpack
from ecgscan_ray.store.shards import read_row_groups
from ecgscan_ray.tasks.makers import build_maker

logger = logging.getLogger(__name__)

ROW_BLOCKS = 1
"""``target_max_block_size`` in bytes: below any row, so that each row (a unit) leaves a stage as its own block."""

TASKS_IN_FLIGHT = 8
"""Units handed to each actor ahead of its work: with Ray's own 2, actors stood idle half the time."""

UNITS_AHEAD = 16
"""Units that a reading task may have ready before the next is fetched; Ray's own 2 makes the actors wait for it."""

Columns = dict[str, np.ndarray]


class Read:
    """Stage 1: spans of the plan to packed units of a part."""

    def __init__(self, spec: RunSpec, part: Part = WHOLE) -> None:
        be_patient()
        self._spec, self._plan, self._part = spec, spec.plan(), part
        embeddings = spec.teacher_embeddings
        self._embeddings = EmbeddingReader(embeddings.folder) if embeddings else None

    def __call__(self, spans: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        unit = self._spec.config.unit_rows
        for start, stop in zip(spans["start"].tolist(), spans["stop"].tolist(), strict=True):
            rows = read_span(self._spec.store, self._plan, start, stop, self._embeddings, self._part)
            for first in range(0, len(rows), unit):
                yield {"unit": np.array([serialise(rows.slice(first, unit))], dtype=object)}


def read_span(
    store: str,
    plan: EpochPlan,
    start: int,
    stop: int,
    embeddings: EmbeddingReader | None = None,
    part: Part = WHOLE,
) -> pa.Table:
    """Packed rows of a part's positions in [start, stop) in their order, with columns ``position`` and ``epoch``.

    With ``embeddings``, a teacher's vectors are added as columns.

    Raises:
        StoreError: A file is missing, damaged, or another one than the manifest says.
    """
    tables, positions = [], []
    for piece in plan.pieces(start, stop, part):
        shard, indices = plan.shards[piece.shard], pa.array(piece.rows)
        rows = read_row_groups(store, shard, [piece.row_group]).take(indices)
        if embeddings is not None:
            columns = embeddings.read(shard, [piece.row_group]).take(indices)
            for name in COLUMNS:
                rows = rows.append_column(name, columns[name])
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


def make_unit(maker: RowMaker, rows: pa.Table) -> Any:
    """Packed rows with ``position`` and ``epoch`` to arrays."""
    positions, epochs = rows["position"].to_pylist(), rows["epoch"].to_pylist()
    embeddings = {name: rows[name] for name in COLUMNS if name in rows.column_names}
    batch = maker.make(unpack(rows.drop_columns(["position", "epoch", *embeddings])), positions, epochs)
    dims = (maker.config.model.embed_dim, maker.config.model.content_dim)
    teacher = {name: vectors(embeddings[name], dim) for name, dim in zip(COLUMNS, dims, strict=True) if embeddings}
    return {**batch, **teacher}


class Render:
    """Stage 2: one packed unit to one row of arrays."""

    def __init__(self, spec: RunSpec) -> None:
        tokenizer = text.parse_tokenizer(spec.tokenizer_json)
        self._maker = build_maker(spec.task, spec.config, tokenizer)

    def __call__(self, block: Columns) -> Columns:
        with pa.ipc.open_stream(block["unit"][0]) as reader:
            unit: Columns = make_unit(self._maker, reader.read_all())
        return {name: array[None] for name, array in unit.items()}


def build(spec: RunSpec, start: int, stop: int, part: Part = WHOLE) -> ray.data.Dataset:
    """The units of a part's plan positions in [start, stop) as a lazy dataset, one row each."""
    resources = spec.config.resources
    readers, renderers = num_readers(spec.config), resources.render_actors
    context = DataContext.get_current()  # of the controller, which builds the dataset: the driver's does not reach it
    context.target_max_block_size = ROW_BLOCKS
    ray_quirks.set_generator_buffer(context, UNITS_AHEAD)
    context.custom_execution_callback_classes = [ray_quirks.SchedulerThrottle]
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    return (
        read_spans(spec.plan(), start, stop, spec.config.unit_rows, part)
        .map_batches(
            Read,
            fn_constructor_args=(spec, part),
            batch_size=1,
            num_cpus=resources.cpus_per_read,
            compute=_actors(shares(readers, part.count)[part.index]),
        )
        .map_batches(
            Render,
            fn_constructor_args=(spec,),
            batch_size=1,
            num_cpus=resources.cpus_per_render_actor,
            compute=_actors(shares(renderers, part.count)[part.index]),
        )
    )


def _actors(count: int) -> ActorPoolStrategy:
    return ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT)


def execution_options(config: Config) -> ExecutionOptions:
    """Keep the order; place stages on nodes with the render label, if it is set."""
    options = ExecutionOptions(preserve_order=True)
    if config.resources.render_label:
        options.label_selector = dict(config.resources.render_label)
    return options


def batches(
    shard: ray.data.DataIterator, config: Config, num_workers: int, warn: Callable[[str], None] = logger.warning
) -> Iterator[Rows]:
    """This rank's part of each global batch, from its shard of units.

    Args:
        shard: This rank's units.
        config: Settings.
        num_workers: W.
        warn: Gets one line when no unit comes for ``stream.stall_timeout_s``.
    """
    units_per_batch = config.training.global_batch_size // (config.unit_rows * num_workers)
    units: list[Rows] = []
    with StallWatch(config.stream.stall_timeout_s, warn) as watch:
        for row in shard.iter_batches(
            batch_size=1, batch_format="numpy", prefetch_batches=config.stream.prefetch_units, drop_last=False
        ):
            watch.seen()
            units.append(cast(Rows, {name: array[0] for name, array in row.items()}))
            if len(units) == units_per_batch:
                watch.pause()
                yield concatenate(units)
                units = []
                watch.seen()


class StallWatch:
    """Warns in one line how far each stage is when no unit has come for ``timeout_s``."""

    def __init__(self, timeout_s: float, warn: Callable[[str], None]) -> None:
        self._timeout, self._warn = timeout_s, warn
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
        """The consumer is working and asks for no unit."""
        self._paused = True

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._beat.clear()
            if not self._beat.wait(self._timeout) and not self._paused and not self._stop.is_set():
                self._warn(diagnosis(self._timeout))


def diagnosis(seconds: float) -> str:
    """One line on a stream that stalls: free and total CPUs, and how far each stage is."""
    free, total = ray.available_resources(), ray.cluster_resources()
    return (
        f"no page has come for {seconds:.0f} s; free CPUs {free.get('CPU', 0):g} of {total.get('CPU', 0):g}, "
        f"object store free {free.get('object_store_memory', 0) / 2**20:.0f} MB; {stage_states()}"
    )


def stage_states() -> str:
    """How far each stage is, as Ray Data reports it."""
    try:
        stages = ray_quirks.running_stages()
    except Exception as error:
        return f"stages unknown ({type(error).__name__})"
    lines = [
        f"{name}: {stage.get('state')}, {stage.get('progress')} of {stage.get('total')} done, "
        f"{stage.get('queued_blocks', '?')} queued"
        for name, stage in stages
    ]
    return "; ".join(lines) or "no stage is running"


def check_unit_size(config: Config) -> None:
    """Refuse units that are larger than the stream's memory is planned for.

    Raises:
        ConfigError: A unit is larger than ``MAX_UNIT_BYTES``.
    """
    unit_bytes = config.unit_rows * config.row_bytes
    if unit_bytes > MAX_UNIT_BYTES:
        raise ConfigError(
            f"a unit would be {unit_bytes / 2**20:.0f} MB, at most {MAX_UNIT_BYTES // 2**20} MB",
            where="stream.unit_rows",
            fix=f"Use at most {MAX_UNIT_BYTES // config.row_bytes} rows.",
        )
