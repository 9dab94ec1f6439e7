"""The run folder: who it belongs to, and whether the same command may go on in it."""

from __future__ import annotations

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ecgscan_ray import strict_yaml
from ecgscan_ray.config import Config, build, dump_yaml
from ecgscan_ray.errors import RunError
from ecgscan_ray.store.filesystem import exists, join, list_files, open_filesystem, read_bytes, write_bytes_atomic
from ecgscan_ray.store.manifest import Manifest

Standing = Literal["new", "unfinished", "finished"]

_PACKAGES = (
    "ecgscan_ray",
    "ray",
    "torch",
    "timm",
    "transformers",
    "numpy",
    "pyarrow",
    "opencv-python",
    "opencv-python-headless",
)


def claim(out: str, config: Config, manifest: Manifest, store: str, fresh: bool) -> Standing:
    """Take an empty folder for a new run, or recognise an earlier run of the same config and store.

    Args:
        out: URI of the run folder.
        config: Resolved settings.
        manifest: Of the store.
        store: URI of the store; kept for ``evaluate``.
        fresh: Refuse a folder that holds anything.

    Raises:
        RunError: The folder holds another run (the keys that differ are named), or is not empty with ``fresh``.
        StoreError: It cannot be written.
    """
    open_filesystem(out, create=True)
    if not exists(join(out, "config.yaml")):
        others = [name for name in list_files(out) if not name.startswith(".")]
        if others:
            raise RunError(
                f"the folder holds other things ({others[0]}, ...)", where=out, fix="Give --out an empty folder."
            )
        write_bytes_atomic(join(out, "environment.json"), json.dumps(environment(manifest, store), indent=1).encode())
        write_bytes_atomic(join(out, "config.yaml"), dump_yaml(config).encode())
        return "new"
    if fresh:
        raise RunError("--fresh wants an empty folder, this one holds a run", where=out)
    different = differences(read_config(out), config)
    if different:
        raise RunError(f"holds a run with other settings: {'; '.join(different)}", where=out, fix="Give another --out.")
    if read_environment(out)["manifest_digest"] != manifest.digest():
        raise RunError("holds a run on another store", where=out, fix="Give another --out.")
    return "finished" if exists(join(out, "finished.json")) else "unfinished"


def read_config(out: str) -> Config:
    """The resolved settings of a run."""
    uri = join(out, "config.yaml")
    return build(Config, strict_yaml.parse(read_bytes(uri), where=uri), where=uri)


def read_environment(out: str) -> dict[str, Any]:
    return json.loads(read_bytes(join(out, "environment.json")))


def differences(old: Config, new: Config) -> list[str]:
    """``key: old -> new`` of each setting that decides the outcome and differs."""
    before, after = _flat(old.decisive()), _flat(new.decisive())
    keys = sorted(before.keys() | after.keys())
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def environment(manifest: Manifest, store: str) -> dict[str, Any]:
    """Versions, machine, git revision, store."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "git_revision": _git_revision(),
        "store": store,
        "manifest_digest": manifest.digest(),
    }


def _git_revision() -> str | None:
    try:
        here = Path(__file__).parent
        found = subprocess.run(
            ["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
