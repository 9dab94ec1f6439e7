"""Cores by the container's quota, in both versions of cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ecgscan_ray.cores import usable_cores

MANY = set(range(64))
V2, V1 = "0::/kubepods/pod/box\n", "4:memory:/docker/box\n3:cpu,cpuacct:/docker/box\n"


@pytest.fixture(autouse=True)
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: MANY, raising=False)


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, content in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        (V2, {"kubepods/pod/box/cpu.max": "300000 100000\n"}, 3),
        (V2, {"kubepods/pod/box/cpu.max": "max 100000\n", "kubepods/pod/cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 50000\n"}, 3),
        (V2, {"cpu.max": "200000 100000\n"}, 2),
        (V2, {"kubepods/pod/box/cpu.max": "30000 100000\n"}, 1),
        (V2, {"kubepods/pod/box/cpu.max": "max 100000\n"}, 64),
        (V1, {"cpu/docker/box/cpu.cfs_quota_us": "400000\n", "cpu/docker/box/cpu.cfs_period_us": "100000\n"}, 4),
        (V1, {"cpu/cpu.cfs_quota_us": "500000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 5),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        (V1, {}, 64),
    ],
)
def test_the_quota_counts(tmp_path: Path, groups: str, files: dict[str, str], cores: int) -> None:
    assert usable_cores(machine(tmp_path, groups, files)) == cores


def test_affinity_counts_and_a_system_without_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores(tmp_path) == 64
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert usable_cores(machine(tmp_path, V2, {"cpu.max": "800000 100000\n"})) == 2
