"""A table of prices is one the user can get wrong; what a run costs is the sum over its devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgscan_ray.errors import InputError
from ecgscan_ray.tasks.prices import price, read_prices


def test_price_is_that_of_gpus_and_cores(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("H100: 3.5\ncpu: 0.04\n")
    prices = read_prices(path)
    assert price(prices, 2.0, cores=10.2, gpu="NVIDIA H100 80GB HBM3", gpus=8) == f"{2 * (8 * 3.5 + 11 * 0.04):.2f}"
    assert price(prices, 10.0, cores=2) == "0.80"
    assert price(prices, 2.0, cores=10, gpu="A100", gpus=8) is None
    assert price({"H100": 3.5}, 2.0, cores=10, gpu="H100", gpus=8) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no table of prices"),
        ("- 3", "no table of prices"),
        ("H100: dear", "no table of prices"),
        ("H100: -1", "no table of prices"),
        ("H100: .nan", "no finite number"),
        ("B300: 9", "unknown device 'B300'"),
    ],
)
def test_a_table_that_is_none_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_prices(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_prices(tmp_path / "absent.yaml")
