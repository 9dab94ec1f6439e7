"""Whether a run's processes find room on the cluster's nodes, and what is said and asked where they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecgscan_ray.errors import ConfigError, WorkError
from ecgscan_ray.runs.needs import Need
from ecgscan_ray.runtime import demand
from ecgscan_ray.runtime.demand import Node, await_room, fitting_workers, unplaced

TRAIN = Need("trainer", {"CPU": 4, "GPU": 1}, {"role": "train"})
RENDER = Need("renderer", {"CPU": 1}, {"role": "render"})
ANYWHERE = Need("renderer", {"CPU": 1, "GPU": 0})


def node(cpus: float, gpus: float = 0, **labels: str) -> dict[str, Any]:
    return {"Alive": True, "Labels": labels, "Resources": {"CPU": cpus} | ({"GPU": gpus} if gpus else {})}


def nodes(*of: dict[str, Any]) -> list[Node]:
    return [Node(one["Labels"], one["Resources"]) for one in of]


@pytest.mark.parametrize(
    ("needs", "present", "left"),
    [
        ([RENDER] * 3, [node(3, role="render")], 0),
        ([RENDER] * 4, [node(3, role="render")], 1),
        ([RENDER], [node(8), node(8, role="train")], 1),  # no node has the label
        ([TRAIN], [node(8, role="train")], 1),  # no GPU
        ([TRAIN] * 2, [node(8, 1, role="train")], 1),  # one GPU for two
        ([Need("trainer", {"CPU": 6})], [node(4), node(4)], 1),  # enough in all, but on no node
        ([ANYWHERE] * 4 + [TRAIN], [node(4, 1, role="train"), node(4)], 0),  # those who may go anywhere come last
        ([Need("reader", {"CPU": 0.1})] * 10, [node(1)], 0),  # tenths add up
    ],
)
def test_room_is_counted_node_by_node(needs: list[Need], present: list[dict[str, Any]], left: int) -> None:
    assert len(unplaced(needs, nodes(*present))) == left


@pytest.mark.parametrize(
    ("value", "wanted", "matches"),
    [
        ("train", "train", True),
        ("train", "!train", False),
        (None, "train", False),
        (None, "!train", True),
        ("b", "in(a, b)", True),
        ("c", "in(a,b)", False),
        ("c", "!in(a,b)", True),
    ],
)
def test_rays_label_selectors(value: str | None, wanted: str, matches: bool) -> None:
    node = Node({} if value is None else {"role": value}, {"CPU": 1})
    need = Need("trainer", {"CPU": 1}, {"role": wanted})
    assert unplaced([need], [node]) == ([] if matches else [need])


class Cluster:
    """A cluster that has ``present`` and, once asked, what comes."""

    def __init__(self, *present: dict[str, Any]) -> None:
        self.present, self.asked, self.grows = list(present), [], False
        self.passed: Callable[[], None] = lambda: None

    def request(self, bundles: list[dict[str, float]], bundle_label_selectors: list[dict] | None = None) -> None:
        self.asked.append(bundles)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cluster:
    cluster = Cluster(node(0))
    monkeypatch.setattr(demand.ray, "nodes", lambda: cluster.present)
    monkeypatch.setattr(demand, "request_resources", cluster.request)
    monkeypatch.setattr(demand, "has_autoscaler", lambda: cluster.grows)
    monkeypatch.setattr(demand, "BOOTSTRAP", tmp_path / "bootstrap.yaml")
    monkeypatch.setattr(demand.time, "sleep", lambda _: cluster.passed())
    return cluster


def test_a_cluster_that_cannot_grow_is_refused_at_once(cluster: Cluster) -> None:
    cluster.present = [node(4)]
    with pytest.raises(ConfigError) as raised:
        await_room([RENDER, RENDER, Need("reader", {"CPU": 0.5})])
    assert str(raised.value) == (
        "resources: this run needs 2.5 CPUs; there is no room for 2 x renderer (1 CPUs with role=render); the cluster "
        "has 1 x 4 CPUs. Check resources.train_label and render_label, lower the number of processes, or add nodes."
    )
    assert cluster.asked == []


def test_a_cluster_that_grows_is_asked_and_the_request_withdrawn(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.grows = True
    cluster.passed = lambda: cluster.present.append(node(8, role="render"))
    with caplog.at_level("INFO"):
        await_room([RENDER] * 2)
    assert cluster.asked == [[{"CPU": 1}, {"CPU": 1}], []]
    assert "no room for 2 x renderer (1 CPUs with role=render); the cluster was asked for it 0 min ago" in caplog.text


def test_where_room_is_there_nothing_is_asked(cluster: Cluster) -> None:
    cluster.present, cluster.grows = [node(8, role="render")], True
    await_room([RENDER] * 2)
    assert cluster.asked == []


def test_ctrl_c_ends_the_wait_and_withdraws(cluster: Cluster) -> None:
    cluster.grows = True

    def interrupt() -> None:
        raise KeyboardInterrupt

    cluster.passed = interrupt
    with pytest.raises(KeyboardInterrupt):
        await_room([RENDER])
    assert cluster.asked[-1] == []


def test_patience_ends(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.grows = True
    monkeypatch.setattr(demand, "PATIENCE_S", -1)
    with pytest.raises(WorkError, match="no node for it came"):
        await_room([RENDER])
    assert cluster.asked[-1] == []


def test_workers_fit_where_rendering_still_has_room(cluster: Cluster) -> None:
    needs = {workers: [TRAIN] * workers + [ANYWHERE] * 2 for workers in (1, 2, 4)}
    cluster.present = [node(64, role="render")]
    assert fitting_workers(needs, 4) == 0
    cluster.present += [node(4, 1, role="train")] * 3
    assert fitting_workers(needs, 4) == 2 and fitting_workers(needs, 1) == 1
    cluster.present.append(node(4, 1, role="train"))
    assert fitting_workers(needs, 4) == 4
    del cluster.present[0]
    assert fitting_workers(needs, 4) == 2, "two more would take the renderers' CPUs"


def test_what_the_clusters_file_never_gives_is_refused_at_once(cluster: Cluster) -> None:
    cluster.grows = True
    demand.BOOTSTRAP.write_text((Path(__file__).parents[3] / "cluster" / "cluster.yaml").read_text())
    head = yaml.safe_load(demand.BOOTSTRAP.read_text())["head_node_type"]
    assert head == "head"
    cluster.passed = lambda: cluster.present.append(node(32, role="render"))
    await_room([RENDER] * 32)
    for needs in ([RENDER] * 385, [TRAIN] * 9, [Need("renderer", {"CPU": 1}, {"role": "rendering"})]):
        with pytest.raises(ConfigError, match="no room for"):
            await_room(needs)
