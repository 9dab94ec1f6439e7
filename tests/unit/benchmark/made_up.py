"""Facts of made-up recordings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ecgscan_ray.benchmark.facts import Facts


def made_up_facts(count: int = 120, **changes: object) -> Facts:
    """Every third recording is validation or test; every second has NORM and SR, the others IMI and AFIB."""
    rng = np.random.default_rng(0)
    facts = Facts(
        ids=[f"{number}" for number in range(count)],
        key=np.arange(count) * 7 + 1,
        patient_key=np.arange(count) + 1000,
        split=np.array([("train", "train", "validation", "test")[number % 4] for number in range(count)]),
        labels=[frozenset(("NORM", "SR") if number % 8 < 4 else ("IMI", "AFIB")) for number in range(count)],
        reports=["sinusrhythmus normales ekg" if number % 8 < 4 else "vorhofflimmern" for number in range(count)],
        age=rng.uniform(20, 90, count),
        sex=np.array([("male", "female")[number % 3 == 0] for number in range(count)]),
    )
    return replace(facts, **changes)  # type: ignore[arg-type]
