"""The reader's weights as a file: read back as they were written, and refused in one line where they are not such a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ecgscan_ray.errors import InputError
from ecgscan_ray.reading import weights
from ecgscan_ray.reading.page_reader import PageReader
from ecgscan_ray.reading.weights import FORMAT, MAX_BYTES, VERSION, load_networks, save_networks

METADATA = {"format": FORMAT, "version": str(VERSION)}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "reader.safetensors"
    torch.manual_seed(0)
    save_networks(PageReader().ema.state_dict(), path, {"commit": "abc"})
    return path


def test_networks_are_read_back_in_fp32_for_evaluation(good: Path) -> None:
    torch.manual_seed(0)
    model, networks = PageReader(), load_networks(good)
    assert good.stat().st_size <= MAX_BYTES + 50_000, "names and shapes besides"
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name in ("coarse", "page", "row"):
        network, trained = getattr(networks, name), getattr(model, name)
        assert not network.training and not any(p.requires_grad for p in network.parameters())
        assert all(value.dtype == torch.float32 for value in network.state_dict().values() if value.is_floating_point())
        stored = {
            key: value.half().float() if value.is_floating_point() else value
            for key, value in trained.state_dict().items()
        }
        trained.load_state_dict(stored)
        # norms are folded into convolutions: the same function, not the same numbers
        torch.testing.assert_close(network(picture), trained.eval()(picture), rtol=1e-3, atol=1e-4)


def changed(good: Path, to: Path, kind: str) -> Path:
    state = load_file(good)
    name = next(iter(state))
    match kind:
        case "cut":
            to.write_bytes(good.read_bytes()[:-100])
        case "garbage":
            to.write_bytes(b"\xff" * 1000)
        case "empty":
            to.write_bytes(b"")
        case "missing":
            save_file({k: v for k, v in state.items() if k != name}, to, METADATA)
        case "shape":
            save_file(state | {name: torch.zeros(3).half()}, to, METADATA)
        case "extra":
            save_file(state | {"row.more": torch.zeros(3).half()}, to, METADATA)
        case "nan":
            save_file(state | {name: torch.full_like(state[name], float("nan"))}, to, METADATA)
        case "version":
            save_file(state, to, METADATA | {"version": "99"})
        case "other":
            save_file(state, to)
    return to


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("absent", "no weights of a page reader here"),
        ("cut", "damaged weights"),
        ("garbage", "damaged weights"),
        ("empty", "damaged weights"),
        ("missing", "damaged weights .*missing"),
        ("shape", r"damaged weights .*is \(3,\), not"),
        ("extra", r"damaged weights .*row\.more"),
        ("nan", "damaged weights .*not finite"),
        ("version", "weights of version 99, not 1"),
        ("other", "no weights of a page reader"),
    ],
)
def test_another_file_is_refused_in_one_line(good: Path, tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_networks(changed(good, tmp_path / "reader.safetensors", kind))
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_values_that_fp16_cannot_hold_are_refused(tmp_path: Path) -> None:
    state = PageReader().ema.state_dict()
    name = next(iter(state))
    with pytest.raises(InputError, match="fp16 cannot hold"):
        save_networks(state | {name: torch.full_like(state[name], 1e6)}, tmp_path / "x", {})


def test_a_file_too_large_for_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"9\.0 MB of weights, at most 5 MB"):
        save_networks({"row.big": torch.zeros(4_500_000)}, tmp_path / "x", {})


def test_the_package_names_the_place_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "reader_weights", lambda: tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"none\.safetensors: no weights of a page reader here.*ecgscan rectifier"):
        load_networks()


def test_averages_follow_the_weights() -> None:
    model = PageReader()
    before = model.ema["row"].state_dict()["level0.0.0.weight"].clone()
    with torch.no_grad():
        model.row.level0[0][0].weight += 1
    model.update_average()
    moved = model.ema["row"].state_dict()["level0.0.0.weight"] - before
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - 2 / 11))
    for _ in range(300):
        model.update_average()
    torch.testing.assert_close(
        model.ema["row"].state_dict()["level0.0.0.weight"], model.row.level0[0][0].weight.detach(), rtol=0, atol=1e-3
    )
    assert not any(parameter.requires_grad for parameter in model.ema.parameters())
