"""``prepare`` beside bare wfdb and pyarrow, from disk and from a bucket; the driver's memory; and reading a store.

The recordings are those of the shipped sample, copied up to ``COUNT`` under other names. The bucket answers each request
``LATENCY_MS`` late (``benchmarks.bucket``).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import wfdb

from ecgscan_ray.data.unpack import unpack_sample
from ecgscan_ray.store.manifest import SPLITS, Manifest, read_manifest
from ecgscan_ray.store.shards import iterate_rows
from tests.ports import free_port

COUNT = 2000
LATENCY_MS = 5
SIMULATED = {"1e4": 10**4, "1e5": 10**5, "1e6": 10**6}
"""10^7 takes minutes: ``ECGSCAN_SIMULATE=1e7`` adds it."""
_ROWS = 64


def _make_archive(folder: Path) -> Path:
    """A folder of ``COUNT`` records at 100 Hz."""
    tree = unpack_sample(folder / "sample")
    headers = sorted(tree.glob("records100/**/*.hea"))
    archive = folder / "archive"
    for k in range(COUNT):
        header = headers[k % len(headers)]
        target = archive / f"{k // 100:03d}"
        target.mkdir(parents=True, exist_ok=True)
        name = f"r{k:05d}"
        text = header.read_text().replace(header.stem, name)
        (target / f"{name}.hea").write_text(text)
        shutil.copyfile(header.with_suffix(".dat"), target / f"{name}.dat")
    return archive


def bare(archive: str, out: str) -> tuple[float]:
    """Recordings a second of processor time of wfdb and pyarrow alone, in one process."""
    paths = sorted(str(path.with_suffix("")) for path in Path(archive).rglob("*.hea"))
    schema = pa.schema([("id", pa.string()), ("fs", pa.float64()), ("signal", pa.list_(pa.float32()))])
    start = time.process_time()
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for first in range(0, len(paths), _ROWS):
            rows = []
            for path in paths[first : first + _ROWS]:
                record = wfdb.rdrecord(path)
                signal = record.p_signal.astype(np.float32).ravel()
                rows.append({"id": path, "fs": float(record.fs), "signal": signal})
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return (len(paths) / (time.process_time() - start),)


def one_worker(archive: str, store: str) -> tuple[float, float]:
    """Recordings a second of processor time, and of the clock, of ``prepare``'s steps in one process."""
    from ecgscan_ray.config import ResourceConfig
    from ecgscan_ray.runtime import prepare as command
    from ecgscan_ray.runtime.stages import Stages

    class Here(Stages):
        def run(self, step, arguments, on_result, here):  # type: ignore[no-untyped-def]
            super().run(step, arguments, on_result, here=True)

    command.Stages = Here  # type: ignore[misc]
    start, start_cpu = time.perf_counter(), time.process_time()
    manifest = command.prepare("folder", archive, store, resources=ResourceConfig())
    rows = sum(manifest.rows(split) for split in SPLITS)
    return rows / (time.process_time() - start_cpu), rows / (time.perf_counter() - start)


def two_workers(archive: str, store: str) -> tuple[float]:
    """Recordings a second of the whole command with two tasks at a time, after a first one that has started them."""
    from ecgscan_ray.config import ResourceConfig
    from ecgscan_ray.runtime.cluster import start_ray
    from ecgscan_ray.runtime.prepare import prepare

    resources = ResourceConfig(local_cpus=2)
    start_ray(resources, dashboard=False)
    prepare("folder", archive, f"{store}-warm", resources=resources, limit=200)
    start = time.perf_counter()
    manifest = prepare("folder", archive, store, resources=resources)
    return (sum(manifest.rows(split) for split in SPLITS) / (time.perf_counter() - start),)


def stream(store: str) -> tuple[float]:
    """Rows a second, read and unpacked in one process; the second time, as each epoch but the first."""
    manifest: Manifest = read_manifest(store)
    for _ in range(2):
        start = time.perf_counter()
        rows = sum(1 for split in SPLITS for _ in iterate_rows(store, manifest, split))
    return (rows / (time.perf_counter() - start),)


def _alone(function: str, *arguments: str, **environment: str) -> list[float]:
    """A function of this file in a process of its own: the same start for all of them."""
    code = f"import sys; from benchmarks import bench_store; print(*bench_store.{function}(*sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


@contextmanager
def _bucket(folder: Path) -> Iterator[dict[str, str]]:
    """AWS's variables of a bucket that serves the folder."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.bucket", str(folder), str(port), str(LATENCY_MS)])
    try:
        _await(port)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.terminate()
        server.wait()


def _await(port: int, seconds: float = 30) -> None:
    """Until something listens there."""
    end = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _simulated(items: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.simulated", str(items), f"{folder}/store"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def run() -> dict[str, float]:
    """All figures. Rates a core are of processor time, so that a busy machine changes them less; the others are of the clock."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive, store = str(_make_archive(folder)), f"{folder}/store"
        (rate_bare,) = _alone("bare", archive, f"{folder}/bare.parquet")
        (rate_two,) = _alone("two_workers", archive, f"{folder}/two")
        source_bytes = sum(path.stat().st_size for path in Path(archive).rglob("*") if path.is_file())
        with _bucket(folder) as environment:
            rate, rate_clock = _alone("one_worker", archive, store)
            _, from_bucket = _alone("one_worker", "s3://bucket/archive", f"{folder}/from-bucket", **environment)
        with _bucket(folder) as environment:  # which knows the files that were there when it began
            (rows_disk,), (rows_s3,) = _alone("stream", store), _alone("stream", "s3://bucket/store", **environment)
        figures |= {
            "bare_wfdb.rows_per_s": rate_bare,
            "prepare.rows_per_s": rate,
            "prepare.vs_bare_wfdb": rate / rate_bare,
            "prepare.vs_bare_wfdb_two_workers": rate_two / rate_bare,
            "bytes_vs_source": sum(shard.bytes for shard in read_manifest(store).shards) / source_bytes,
            "prepare_s3.vs_disk": from_bucket / rate_clock,
            "stream.rows_per_s.disk": rows_disk,
            "stream.rows_per_s.s3": rows_s3,
        }
    more = os.environ.get("ECGSCAN_SIMULATE")
    for label, items in (SIMULATED | ({more: int(float(more))} if more else {})).items():
        result = _simulated(items)
        figures |= {f"driver_mb.at_{label}": result["mb"], f"driver_s.at_{label}": result["seconds"]}
    return figures
