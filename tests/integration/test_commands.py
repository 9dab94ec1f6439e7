"""Commands on a real store, as a user gives them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ecgscan_ray.cli import app
from ecgscan_ray.filesystem import join, list_files, read_bytes


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_inspect(sample_store: str) -> None:
    found = json.loads(run("inspect", sample_store, "--json"))
    assert found["damaged"] == []
    assert found["splits"]["train"]["rows"] > 800
    lines = run("inspect", sample_store).splitlines()
    assert any(line.startswith("splits.train.superclass ") and "NORM" in line for line in lines)
    assert not any(line.startswith("histograms") for line in lines), "numbers for programs and for the page"


def test_the_page_of_a_store(sample_store: str, tmp_path: Path) -> None:
    run("inspect", sample_store, "--html", tmp_path / "store.html")
    page = (tmp_path / "store.html").read_text()
    for title in ("Splits", "Rates, lengths, ages, amplitudes, labels", "Put aside", "Examples"):
        assert f"<h2>{title}</h2>" in page
    assert page.count("data:image/png") == 6 + 1, "two recordings of each split, and one put aside"
    assert "implausible_gain" in page
    assert "http://" not in page.replace("http://www.w3.org", ""), "no other file is needed"


def test_render(sample_store: str, tmp_path: Path) -> None:
    printed = run("render", "--store", sample_store, "--out", tmp_path / "pages", "--preset", "laptop", "--count", 2)
    pages = [Path(line) for line in printed.splitlines()]
    assert len(pages) == 2
    assert all(page.stat().st_size > 2000 and page.with_suffix(".json").exists() for page in pages)


def test_render_into_a_bucket(
    sample_store: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = join(s3_server, "rendered pages")
    printed = run("render", "--store", sample_store, "--out", place, "--preset", "laptop", "--count", 2)
    pages = [line for line in printed.splitlines() if line.startswith(place)]
    assert len(pages) == 2 and len(list_files(place)) == 4
    assert read_bytes(pages[0]).startswith(b"\x89PNG")
    assert not list(tmp_path.iterdir())


def test_dry_run_says_the_cost_and_writes_nothing(
    sample_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("A100: 2\ncpu: 0.05\n")
    monkeypatch.setattr("ecgscan_ray.tasks.dry_run.TIMING_S", 0.1)
    small = ["--set", "training.global_batch_size=24", "--set", "stream.unit_rows=24", "--set", "training.steps=50"]
    printed = run("pretrain", "--preset", "laptop", "--store", sample_store, "--dry-run", "--prices", prices, *small)
    figures = {line[:28].strip(): line[28:].strip() for line in printed.splitlines()}
    assert figures["steps"] == "50"
    assert figures["pages"] == "1200"
    assert int(figures["parameters"].replace(",", "")) > 100_000
    assert "pages/s" in figures["rendering"]
    assert figures["time"].endswith("validation not counted")
    least, most = (float(word) for word in figures["time"].split()[:3:2])
    assert least <= most
    assert figures["uncertainty"].startswith("least time: fastest timings")
    assert float(figures["price"].split()[0]) >= 0
    assert 0 < float(figures["operations"].split()[0]) < 100
    assert float(figures["memory a worker"].split()[0]) > float(figures["without activations"].split()[0]) > 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with_gpu = ["--prices", prices, "--set", "resources.use_gpu=true"]
    gpu = run("pretrain", "--preset", "laptop", "--store", sample_store, "--dry-run", *with_gpu)
    assert "not measured: no GPU here; computed at 40% MFU" in gpu
    assert re.search(r"on 1 x A100 .* cores to draw them, .* GPU hours, price [0-9.]+", gpu) and "H100" not in gpu


def test_doctor_finds_this_machine_in_order(sample_store: str) -> None:
    found = json.loads(run("doctor", "--store", sample_store, "--json"))
    assert found["complaints"] == "none"
    assert found["ray"].startswith("works")
    assert "training recordings" in found["store"]


def test_doctor_complains_of_a_store_that_is_not_there(ray_cluster: None, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--store", str(tmp_path)])
    assert result.exit_code == 1
    assert "not a store" in result.stderr
    assert result.stderr.count("\n") == 1
