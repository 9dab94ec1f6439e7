"""What cannot work is refused before the run folder is taken: the corrected command starts in the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ecgscan_ray.errors import ConfigError
from ecgscan_ray.runs.sinks import PACKAGES
from ecgscan_ray.runtime.pretrain import pretrain
from ecgscan_ray.store.manifest import Manifest, write_manifest
from ecgscan_ray.store.shards import ShardWriter
from tests.records import recording
from tests.tiny import tiny_config


@pytest.fixture
def store(tmp_path: Path) -> str:
    uri = str(tmp_path / "store")
    writer = ShardWriter(uri, "train", 0)
    writer.add([recording(str(n), seed=n) for n in range(24)])
    shard = writer.close()
    assert shard is not None
    write_manifest(uri, Manifest(source="test", shards=[shard]))
    return uri


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stream__unit_rows": 600, "training__global_batch_size": 600, "page__height": 512, "page__width": 512},
            "a unit would be",
        ),
        ({"model__image": {"name": "resnet18"}, "resources__num_workers": 2}, "has batch norm"),
        ({"training__sinks": ["mlflow"]}, "not installed"),
    ],
)
def test_a_refused_setting_leaves_the_folder_free(
    store: str, tmp_path: Path, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGES, "mlflow", "no_such_module")
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=message):
        pretrain(tiny_config(**changes), store, str(out))
    assert [path.name for path in out.glob("*")] == []
