"""The ablation as the command runs it: arms trained and measured, one shared teacher, the table, and going on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ecgscan_ray.cli import app
from ecgscan_ray.config import AblationConfig, build, merge
from ecgscan_ray.errors import ConfigError
from ecgscan_ray.runtime.ablation import ablate
from tests.tiny import TINY


@pytest.mark.verify
def test_an_ablation_of_two_steps(ray_cluster: None, sample_store: str, tmp_path: Path) -> None:
    tiny = {
        "training.steps": 2,
        "training.validation_rows": 12,
        "evaluation.probe_rows": 60,
        "evaluation.bootstrap": 20,
    }
    base = merge(TINY, {**tiny, "evaluation.probe_views": 1})
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    arms = {"whole": {}, "frozen teacher": {"teacher.run": "shared"}}
    content = {"base": str(tmp_path / "base.yaml"), "arms": arms, "seeds": [0, 1]}
    (tmp_path / "ablation.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    out = tmp_path / "out"
    command = ["ablate", "--config", str(tmp_path / "ablation.yaml"), "--store", sample_store, "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "MRR page to signal" in result.stdout
    report = json.loads((out / "report.json").read_text())
    assert list(report["arms"]) == list(arms)
    assert report["lost"] == []
    cell = report["arms"]["frozen teacher"]["lead_residual_mv"]
    assert set(cell["by_seed"]) == {"0", "1"}
    assert cell["difference"]["low"] <= cell["difference"]["high"]
    assert (out / "teacher" / "finished.json").exists()
    assert len(list((out / "teacher" / "embeddings").iterdir())) == 1, "one cached teacher for all"
    assert "frozen teacher" in (out / "report.html").read_text()

    finished = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/finished.json")}
    assert len(finished) == 4
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    assert result.stdout.endswith(again.stdout)  # the first may begin with messages of Ray
    assert {path: path.stat().st_mtime_ns for path in out.glob("trials/*/finished.json")} == finished


def test_an_unknown_setting_of_an_arm_is_refused_at_once(tmp_path: Path) -> None:
    config = build(AblationConfig, {"arms": {"whole": {}, "less": {"objective.gram_wait": 0}}}, where="test")
    with pytest.raises(ConfigError, match=r"arm 'less': unknown setting 'objective\.gram_wait'"):
        ablate(config, str(tmp_path / "store"), str(tmp_path / "out"))
