"""How many actors a cluster has room for, each with a share of a GPU, and nodes that do not see a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgscan_ray.errors import InputError
from ecgscan_ray.runtime.actors import actors_for
from ecgscan_ray.runtime.embed import check_paths

CPUS, GPUS = {"CPU": 64.0}, {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("nodes", "use_gpus", "expected"),
    [
        ([{"CPU": 4.0}, CPUS], True, (68, 0.0)),
        ([{}], True, (1, 0.0)),
        ([{}, GPUS, GPUS], True, (16, 0.125)),
        ([CPUS, GPUS], True, (8, 0.125)),
        ([CPUS, GPUS], False, (72, 0.0)),
        ([{"CPU": 7.0, "GPU": 1.0}], True, (7, 0.1428)),
        ([{"CPU": 7.0, "GPU": 3.0}], True, (7, 0.3333)),
        ([{"CPU": 4.0, "GPU": 8.0}], True, (4, 1.0)),
    ],
)
def test_actors_and_their_share_of_a_gpu(nodes: list, use_gpus: bool, expected: tuple[int, float]) -> None:
    number, share = actors_for(nodes, use_gpus)
    assert (number, share) == pytest.approx(expected)


def test_a_node_that_does_not_see_a_path_says_so(tmp_path: Path) -> None:
    check_paths([str(tmp_path), "s3://bucket/encoder"])
    with pytest.raises(InputError, match="every node has mounted"):
        check_paths([str(tmp_path), str(tmp_path / "elsewhere")])
