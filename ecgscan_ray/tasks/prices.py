"""What a run costs, by a table of prices that the user gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from ecgscan_ray import strict_yaml
from ecgscan_ray.errors import InputError
from ecgscan_ray.training.timing import PEAK_FLOPS

CPU = "cpu"
"""Key of a core's price in a table."""

_FIX = "Write one line each, e.g. 'H100: 3.5' and 'cpu: 0.04': prices an hour of one GPU, and of one core."

Prices = Mapping[str, float]
"""``cpu`` or the name of a GPU (those of ``PEAK_FLOPS``) -> price of one for an hour."""


def read_prices(path: Path) -> Prices:
    """A table of prices from a YAML file.

    Raises:
        InputError: It is not such a table.
    """
    try:
        content = strict_yaml.parse(path.read_bytes(), where=path)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=path, fix=_FIX) from None
    if not isinstance(content, dict) or not content or not all(map(_is_price, content.values())):
        raise InputError("no table of prices", where=path, fix=_FIX)
    known = {CPU, *PEAK_FLOPS}
    if unknown := [str(name) for name in content if name not in known]:
        what = f"unknown device '{unknown[0][:40]}'; known are {', '.join(sorted(known))}"
        raise InputError(what, where=path, fix=_FIX)
    return {name: float(value) for name, value in content.items()}


def price(prices: Prices, hours: float, cores: float, gpu: str = "", gpus: int = 0) -> str | None:
    """What so many cores and GPUs cost for so long; none where the table lacks one of them.

    Args:
        prices: The table.
        hours: Of the run.
        cores: In use all the time.
        gpu: Its full name, as the driver says it, or that of the table.
        gpus: How many.
    """
    listed = next((name for name in PEAK_FLOPS if name in gpu), "")
    if CPU not in prices or (gpus and listed not in prices):
        return None
    hourly = prices[CPU] * math.ceil(cores) + (prices[listed] * gpus if gpus else 0)
    return f"{hourly * hours:.2f}"


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
