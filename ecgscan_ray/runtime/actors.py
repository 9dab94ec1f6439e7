"""Pieces of work in actors of Ray Data: one on each core, with a share of a GPU where the cluster has any."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy

from ecgscan_ray.cores import usable_cores

TRIM_ABOVE_BYTES = 128 * 2**20
_M_TRIM_THRESHOLD = -1  # malloc.h


def map_in_actors(
    work: type,
    arguments: Sequence[Any],
    items: Sequence[Mapping[str, Any]],
    *,
    cpus: float = 1.0,
    workers: int | None = None,
    use_gpus: bool = True,
) -> ray.data.Dataset:
    """What an object of ``work`` in some actor returns for each item. An item whose actor or node is lost is done again.

    Args:
        work: A class; its objects are called with one item.
        arguments: Of the class.
        items: Small; the longest work first.
        cpus: Logical CPUs of each actor.
        workers: Actors; ``None`` = as many as there are cores.
        use_gpus: Whether each has a share of a GPU, where the cluster has any.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most, gpu_share = actors_for(nodes, use_gpus)
    if os.environ.get("RAY_ADDRESS", "") in ("", "local"):  # a cluster started here has more logical CPUs than cores
        most = usable_cores()
    return ray.data.from_items([dict(item) for item in items], override_num_blocks=len(items)).map(
        work,
        fn_constructor_args=tuple(arguments),
        num_cpus=cpus,
        num_gpus=gpu_share or None,
        compute=ActorPoolStrategy(size=min(len(items), workers or most), max_tasks_in_flight_per_actor=2),
    )


def trim_freed_memory() -> None:
    """Have this process return freed memory to the system, which trainers keep (``cluster``).

    What drawing and reading a page needs differs from page to page: what is kept of it adds up to 4 GB a process.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL("libc.so.6").mallopt(_M_TRIM_THRESHOLD, TRIM_ABOVE_BYTES)


def actors_for(nodes: Iterable[Mapping[str, float]], use_gpus: bool) -> tuple[int, float]:
    """How many actors of one CPU there is room for, and the share of a GPU that each gets.

    With GPUs, actors are on their nodes alone: one elsewhere would wait for a GPU for ever.

    Args:
        nodes: Resources of each.
        use_gpus: Whether GPUs are used, where there are any.

    Returns:
        Number, at least 1, and share; 0 without GPUs.
    """
    nodes = list(nodes)
    with_gpus = [node for node in nodes if use_gpus and node.get("GPU") and node.get("CPU")]
    cpus = sum(int(node.get("CPU", 0)) for node in with_gpus or nodes)
    if not with_gpus:
        return max(1, cpus), 0.0
    on_a_gpu = max(math.ceil(node["CPU"] / node["GPU"]) for node in with_gpus)
    return max(1, cpus), math.floor(1e4 / on_a_gpu) / 1e4  # Ray rounds to so many digits, up as well
