"""Whether the cluster has room for a run, now or after it has grown."""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import yaml
from ray.autoscaler.sdk import request_resources

from ecgscan_ray.errors import ConfigError, WorkError
from ecgscan_ray.runs.needs import Need
from ecgscan_ray.runtime.ray_quirks import has_autoscaler

logger = logging.getLogger(__name__)

PATIENCE_S = 3600.0
"""Seconds that a growing cluster gets; clouds short of machines take minutes, or never have any."""

MESSAGE_EVERY_S = 60.0

BOOTSTRAP = Path(os.path.expanduser("~/ray_bootstrap_config.yaml"))
"""Where ``ray up`` leaves the cluster's file on the head, where jobs run."""


@dataclass
class Node:
    """Labels of a machine, and what is free on it."""

    labels: dict[str, str]
    free: dict[str, float]

    def takes(self, need: Need) -> bool:
        """Reserve the need's resources, if they are there."""
        fits = _selected(self.labels, need.labels)
        fits = fits and all(self.free.get(name, 0) >= amount - 1e-6 for name, amount in need.resources.items())
        if fits:
            self.free = self.free | {name: self.free.get(name, 0) - amount for name, amount in need.resources.items()}
        return fits


def await_room(needs: Sequence[Need], what: str = "this run") -> None:
    """Return when the cluster has nodes for all the needs at once; let it grow where it can.

    The request to the autoscaler is withdrawn at the end: from then on the run's processes hold the nodes.

    Args:
        needs: The run's processes. Those of other jobs are ignored.
        what: Who needs it, for the message.

    Raises:
        ConfigError: The cluster cannot have them.
        WorkError: They did not come within ``PATIENCE_S``.
    """
    if not (missing := unplaced(needs, _present())):
        return
    if not has_autoscaler() or (unplaced(needs, largest := _largest()) and largest):
        raise ConfigError(
            f"{_summary(needs, missing, what)}; the cluster has {_nodes()}", where="resources", fix=_fix(missing)
        )
    asked = [{name: amount for name, amount in need.resources.items() if amount} for need in needs]
    try:
        request_resources(bundles=asked, bundle_label_selectors=[dict(need.labels) for need in needs])
        _wait(needs, what)
    finally:
        request_resources(bundles=[])


def _wait(needs: Sequence[Need], what: str) -> None:
    start, last_message = time.monotonic(), -MESSAGE_EVERY_S
    while missing := unplaced(needs, _present()):
        waited = time.monotonic() - start
        if waited > PATIENCE_S:
            fix = f"{_fix(missing)} 'ray status' says what the autoscaler does."
            raise WorkError(
                f"{_summary(needs, missing, what)}, and no node for it came in {waited / 60:.0f} min", fix=fix
            )
        if waited - last_message >= MESSAGE_EVERY_S:
            last_message = waited
            logger.info("%s; the cluster was asked for it %.0f min ago", _summary(needs, missing, what), waited / 60)
        time.sleep(1)


def fitting_workers(needs: Mapping[int, Sequence[Need]], most: int) -> int:
    """The largest number of training workers for which the cluster has room; 0 where it has none.

    Args:
        needs: Number of workers -> the processes of a run with so many.
        most: No more than these.
    """
    return max(
        (workers for workers in needs if workers <= most and not unplaced(needs[workers], _present())), default=0
    )


def unplaced(needs: Sequence[Need], nodes: list[Node]) -> list[Need]:
    """Needs for which no node has room; the most demanding are placed first."""
    order = sorted(
        needs, key=lambda need: (-len(need.labels), -need.resources.get("GPU", 0), -sum(need.resources.values()))
    )
    return [need for need in order if not any(node.takes(need) for node in nodes)]


def _present() -> list[Node]:
    return [Node(node.get("Labels") or {}, dict(node["Resources"])) for node in ray.nodes() if node["Alive"]]


def _largest() -> list[Node]:
    """All nodes that the cluster may ever have, by its file; empty if there is none."""
    try:
        content = yaml.safe_load(BOOTSTRAP.read_text())
        kinds = content["available_node_types"].items()
        return [
            Node(kind.get("labels", {}), dict(kind.get("resources", {})))
            for name, kind in kinds
            for _ in range(
                1 if name == content.get("head_node_type") else kind.get("max_workers", content["max_workers"])
            )
        ]
    except (OSError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return []


def _selected(labels: dict[str, str], selector: dict[str, str]) -> bool:
    return all(_matches(labels.get(key), wanted) for key, wanted in selector.items())


def _matches(value: str | None, wanted: str) -> bool:
    wanted, refused = wanted.removeprefix("!"), wanted.startswith("!")
    listed = re.fullmatch(r"in\((.*)\)", wanted)
    values = [part.strip() for part in listed.group(1).split(",")] if listed else [wanted]
    return (value in values) != refused


def _summary(needs: Sequence[Need], missing: Sequence[Need], what: str) -> str:
    """The total, and what there is no room for, in one line."""
    total = {name: sum(need.resources.get(name, 0) for need in needs) for name in ("CPU", "GPU")}
    counts = Counter((need.part, _amounts(need.resources), _labels(need.labels)) for need in missing)
    parts = [f"{count} x {part} ({amounts}{labels})" for (part, amounts, labels), count in counts.items()]
    return f"{what} needs {_amounts(total)}; there is no room for {', '.join(parts)}"


def _amounts(resources: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}s" for name, amount in resources.items() if amount or name == "CPU")


def _labels(labels: dict[str, str]) -> str:
    return f" with {', '.join(f'{key}={value}' for key, value in labels.items())}" if labels else ""


def _nodes() -> str:
    """The cluster's nodes, equal ones counted."""
    kinds = Counter(
        (_amounts({name: node.free.get(name, 0) for name in ("CPU", "GPU")}), _labels(_custom(node.labels)))
        for node in _present()
    )
    return ", ".join(f"{count} x {amounts}{labels}" for (amounts, labels), count in kinds.items())


def _custom(labels: dict[str, str]) -> dict[str, str]:
    """Labels that are not Ray's."""
    return {key: value for key, value in labels.items() if not key.startswith("ray.io/")}


def _fix(missing: Sequence[Need]) -> str:
    if any(need.labels for need in missing):
        return "Check resources.train_label and render_label, lower the number of processes, or add nodes."
    return "Lower num_workers, render_actors or the cpus_per_* settings, or add nodes."
