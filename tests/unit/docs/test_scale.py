"""``docs/scale.md`` is what its script says, and the model behind it obeys what any such model must."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.make_scale import ENGINE, LARGEST_BATCH, SIZES, WORKLOADS, coordinator_limit, estimate, page

ROOT = Path(__file__).parents[3]


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "scale.md").read_text() == page(), "run: python -m tools.make_scale > docs/scale.md"


@pytest.mark.parametrize("name", WORKLOADS)
def test_more_gpus_do_more_and_each_of_them_less(name: str) -> None:
    sizes = [estimate(*WORKLOADS[name], gpus) for gpus in SIZES]
    rates = [size.rows_per_s for size in sizes]
    assert rates == sorted(rates)
    each = [rate / gpus for rate, gpus in zip(rates, SIZES, strict=True)]
    assert each == sorted(each, reverse=True)
    assert all(size.batch <= LARGEST_BATCH and 0 < size.goodput <= 1 for size in sizes)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_coordinator_is_busy_all_the_time_at_its_limit(name: str) -> None:
    rows_per_s, _ = coordinator_limit(*WORKLOADS[name])
    assert rows_per_s / WORKLOADS[name][0].config.unit_rows * ENGINE.coordinator_s_a_unit == pytest.approx(1)
