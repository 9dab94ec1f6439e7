"""What this machine has and what it lacks: for ``ecgscan doctor``."""

from __future__ import annotations

import importlib
import platform
from importlib import metadata
from typing import Any

import ray
import torch

from ecgscan_ray.config import ResourceConfig
from ecgscan_ray.cores import usable_cores
from ecgscan_ray.errors import EcgscanError
from ecgscan_ray.precision import choose_precision
from ecgscan_ray.runtime.cluster import start_ray
from ecgscan_ray.store.manifest import read_manifest

PACKAGES = ("ecgscan_ray", "ray", "torch", "torchvision", "timm", "transformers", "pyarrow", "numpy", "wfdb", "optuna")
IMPORTED = ("cv2", "timm", "transformers", "wfdb", "numba")
"""Imported, not only looked up: each can fail for want of a system library or of a matching partner."""


def examine(store: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """Look at versions, cores, GPU, arithmetic, imports, Ray, and a store.

    Returns:
        Findings by name, and complaints: one line each on what would keep a pretraining from running.
    """
    complaints: list[str] = []
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] if cuda else []
    findings: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in PACKAGES},
        "cores": usable_cores(),
        "gpus": gpus or "none",
        "arithmetic": f"{choose_precision('auto', device)} on {device.type}, by a probe",
    }
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # an OSError of the loader, a RuntimeError of torchvision, ...
            hint = "; install opencv-python-headless instead of opencv-python" if name == "cv2" else ""
            complaints.append(f"{name} cannot be imported ({str(error).splitlines()[0]}){hint}")
    findings["imports"] = "good" if not complaints else "see complaints"
    findings["ray"], complaint = _ray()
    complaints += complaint
    if store is not None:
        try:
            manifest = read_manifest(store)
            findings["store"] = f"{manifest.rows('train')} training recordings, digest {manifest.digest()[:12]}"
        except EcgscanError as error:
            findings["store"] = "not reached"
            complaints.append(str(error))
    return findings, complaints


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _ray() -> tuple[str, list[str]]:
    """Start (or join) Ray and let it add two numbers."""
    ours = not ray.is_initialized()
    try:
        start_ray(ResourceConfig(), dashboard=False)
        total = ray.cluster_resources()
        assert ray.get(ray.remote(num_cpus=0)(lambda: 1 + 1).remote(), timeout=120) == 2
    except Exception as error:  # whatever keeps Ray from working is what is asked for
        lines = str(error).splitlines() or [type(error).__name__]
        return "does not work", [f"Ray does not work ({lines[0]})"]
    finally:
        if ours and ray.is_initialized():
            ray.shutdown()
    return f"works: {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs", []
