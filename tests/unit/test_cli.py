"""The command line: help, one line for each error, exit statuses, and what a job may be given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.core
import yaml
from typer.testing import CliRunner

from ecgscan_ray import __version__
from ecgscan_ray.cli import app
from ecgscan_ray.config import AblationConfig, Config, PageConfig, SweepConfig, build, load
from ecgscan_ray.paper.effects import PRESETS, enabled_effects

VERBS = (
    "prepare",
    "inspect",
    "render",
    "teach",
    "rectifier",
    "pretrain",
    "finetune",
    "evaluate",
    "benchmark",
    "sweep",
    "ablate",
    "embed",
    "digitise",
    "find",
    "export",
    "config",
    "doctor",
)
ROOT = Path(__file__).parents[2]


def run(*arguments: object, exit_status: int = 0) -> str:
    """Standard output of a good command, or the one line of a bad one."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == exit_status, result.output
    return result.stdout if exit_status == 0 else result.stderr


def test_help_names_every_verb_without_heavy_imports() -> None:
    code = (
        "import sys\nfrom ecgscan_ray.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'torch', 'ray', 'numpy', 'pyarrow', 'pydantic', 'cv2'}), file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert all(f"\n  {verb} " in found.stdout for verb in VERBS)
    assert {command.name for command in typer.main.get_group(app).commands.values()} == set(VERBS)
    assert found.stderr.strip() == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_an_example(verb: str) -> None:
    assert f"Example: ecgscan {verb} " in " ".join(run(verb, "--help").split())


def test_the_module_is_the_command_and_says_its_version() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "ecgscan_ray", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout == f"ecgscan {__version__}\n"


def test_short_help_and_completion() -> None:
    assert run("-h") == run("--help")
    assert run("embed", "-h") == run("embed", "--help")
    assert "--install-completion" in run("-h")


@pytest.mark.parametrize("module", ["ray", "sklearn"])
def test_a_verb_whose_package_is_not_installed_says_what_to_install(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError(f"No module named '{module}.data'", name=f"{module}.data")

    monkeypatch.setattr("ecgscan_ray.store.inspect.inspect", import_missing)
    line = run("inspect", "store", exit_status=2)
    assert line == (
        f"error: ecgscan inspect: needs the package '{module}', which is not installed. "
        f"Run: pip install 'ecgscan_ray[train]'\n"
    )


def test_config_prints_what_config_takes(tmp_path: Path) -> None:
    assert run("config") == run("config", "--preset", "laptop")
    assert json.loads(run("config", "--json"))["training"]["global_batch_size"] == 72
    first = run("config", "--preset", "laptop", "--set", "training.steps=7", "--set", "seed=3")
    resolved = build(Config, yaml.safe_load(first), where="test")
    assert (resolved.training.steps, resolved.seed) == (7, 3)
    (tmp_path / "mine.yaml").write_text(first)
    assert run("config", "--config", tmp_path / "mine.yaml") == first
    assert json.loads(run("config", "--config", tmp_path / "mine.yaml", "--json"))["seed"] == 3
    build(SweepConfig, yaml.safe_load(run("config", "--preset", "sweep-laptop")), where="test")
    build(AblationConfig, yaml.safe_load(run("config", "--preset", "ablation-laptop")), where="test")


def test_laptop_is_the_preset_where_none_is_given_and_a_line_says_so() -> None:
    result = CliRunner().invoke(app, ["config", "--set", "seed=3"])
    line = "settings: preset laptop (--preset NAME or --config FILE for others: ablation-extras, ablation-laptop, gpu,"
    assert result.stderr.startswith(line) and result.stderr.count("\n") == 1
    assert yaml.safe_load(result.stdout) == load(Config, "laptop", ["seed=3"]).model_dump(mode="json")
    given = CliRunner().invoke(app, ["config", "--preset", "gpu"])
    assert given.stderr == ""


def test_config_explains_one_setting_a_section_or_all() -> None:
    height = run("config", "--explain", "page.height")
    assert height == "page.height  (integer, px, 64 to 4096, default 160)\n  Page height in pixels.\n"
    assert run("config", "--explain", "page").count("\npage.") > 10
    assert "prune_quantile" in run("config", "--explain") and "arms" in run("config", "--explain")
    assert "Did you mean 'page.height'" in run("config", "--explain", "page.heigth", exit_status=2)
    assert "page.chances is now page.effect" in run("config", "--explain", "page.chances", exit_status=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "--preset", "labtop"], "Did you mean 'laptop'?"),
        (["config", "--config", "absent.yaml"], "absent.yaml: no such file"),
        (["config", "--preset", "laptop", "--config", "x.yaml"], "exclude each other"),
        (["config", "--preset", "laptop", "--set", "training.step=3"], "Did you mean 'steps'?"),
        (["config", "--preset", "laptop", "--set", "training.steps"], "not of the form"),
        (["config", "--set", "foo"], "not of the form"),
        (["config", "page.height"], "config --explain page.height"),
        (["config", "--preset", "laptop", "--set", "training.steps=-1"], "training.steps"),
        (["sweep", "--store", "store", "--out", "run"], "no settings"),
        (["ablate", "--store", "store", "--out", "run"], "no settings"),
        (["pretrain", "--store", "store", "--preset", "laptop"], "no --out"),
        (["pretrain", "--store", "absent", "--preset", "laptop", "--out", "run"], "absent: not a store"),
        (["pretrain", "--store", "absent", "--preset", "laptop", "--dry-run"], "absent: not a store"),
        (["sweep", "--store", "absent", "--preset", "sweep-laptop", "--out", "run"], "not a store"),
        (["sweep", "--store", "absent", "--preset", "laptop", "--out", "run"], "unknown setting"),
        (["ablate", "--store", "absent", "--preset", "ablation-laptop", "--out", "run"], "not a store"),
        (["inspect", "absent"], "absent: not a store"),
        (["render", "--store", "absent", "--out", "pages", "--preset", "laptop"], "absent: not a store"),
        (["evaluate", "absent"], "absent: not a run folder"),
        (["evaluate", "absent", "--set", "training.steps=3"], "only evaluation.*"),
        (["embed", "absent", "images", "out.parquet"], "images"),
        (["prepare", "--source", "ptbxl", "--from", "absent", "--to", "store"], "absent"),
        (["prepare", "--source", "ptb-xl", "--from", ".", "--to", "store"], "Did you mean 'ptbxl'?"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = run(*arguments, exit_status=2)
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert message in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing is left behind"


@pytest.mark.parametrize(
    "arguments",
    [
        ["pretrain", "--preset", "laptop", "--store", "s3://bucket/store", "--out", "runs/1"],
        ["pretrain", "--preset", "laptop", "--store", "store", "--out", "s3://bucket/runs/1"],
        ["sweep", "--preset", "sweep-laptop", "--store", "/store", "--out", "sweeps/1"],
        ["prepare", "--source", "ptbxl", "--from", "/archive", "--to", "store"],
        ["evaluate", "runs/1"],
    ],
)
def test_a_job_refuses_relative_paths(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    line = run(*arguments, exit_status=2)
    assert "relative path inside a Ray job" in line
    assert "s3://bucket/prefix" in line


def test_a_job_is_the_command_of_its_name(tmp_path: Path) -> None:
    for job in sorted((ROOT / "jobs").glob("*.py")):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        found = subprocess.run(
            [sys.executable, job, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
        )
        assert f"Usage: ecgscan {job.stem} " in found.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_an_interrupt_is_said_in_one_line_in_every_verb(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object, ctx: Any) -> None:
        ctx.invoked_subcommand = verb
        raise KeyboardInterrupt

    monkeypatch.setattr(typer.core.TyperGroup, "invoke", interrupt)
    line = run(verb, exit_status=130)
    assert line.startswith("interrupted: ") and line.count("\n") == 1
    assert ("goes on" in line) == (
        verb
        in (
            "prepare",
            "pretrain",
            "teach",
            "rectifier",
            "sweep",
            "ablate",
            "digitise",
            "benchmark",
            "embed",
            "finetune",
        )
    )


def test_the_placeholder_of_the_examples_is_no_bucket() -> None:
    line = run("inspect", "s3://BUCKET/store", exit_status=2)
    assert line == "error: s3://BUCKET/store: is the placeholder of the examples. Put the name of your bucket there.\n"


def effect_probabilities(*settings: str, preset: str = "laptop") -> dict[str, float]:
    arguments = [word for setting in settings for word in ("--set", setting)]
    page = json.loads(run("config", "--preset", preset, "--json", *arguments))["page"]
    return {name: effect.chance for name, effect in enabled_effects(PageConfig(**page)).items()}


def test_a_fax_is_a_fax_whatever_the_preset_has_switched_off() -> None:
    fax = {name: effect.chance for name, effect in PRESETS["fax"].items()}
    assert "threshold" not in effect_probabilities()
    assert effect_probabilities("page.effects=fax") == fax
    assert effect_probabilities("page.effects=fax", "page.effect_probabilities.threshold=0.1") == fax | {
        "threshold": 0.1
    }
    assert effect_probabilities("page.effects=fax", "page.effect_probabilities={threshold: 0.1}") == fax | {
        "threshold": 0.1
    }
    assert effect_probabilities("page.effects=mixed") == effect_probabilities(), (
        "what the preset has already changes nothing"
    )


@pytest.mark.parametrize("value", [".inf", ".nan", "-.inf"])
@pytest.mark.parametrize("key", ["training.learning_rate", "training.weight_decay", "objective.gram_weight"])
def test_numbers_are_finite(key: str, value: str) -> None:
    assert key in run("config", "--preset", "laptop", "--set", f"{key}={value}", exit_status=2)
