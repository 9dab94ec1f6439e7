"""The reference of settings: complete, with units and ranges, and the file in docs in step with the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecgscan_ray.config import Config
from ecgscan_ray.config.reference import explain, markdown, settings_of

ROOT = Path(__file__).parents[2]


def test_the_documentation_is_in_step_with_the_settings() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text()
    assert written == markdown(), "run: python -m ecgscan_ray.config.reference > docs/configuration.md"


def test_every_setting_has_a_meaning() -> None:
    assert [setting.key for setting in explain() if not setting.meaning] == []


def test_every_leaf_of_the_default_settings_is_explained() -> None:
    keys = {setting.key for setting in settings_of(Config)}

    def leaves(section: object, prefix: str = "") -> set[str]:
        names = type(section).model_fields if hasattr(type(section), "model_fields") else ()
        inner = {name: getattr(section, name) for name in names}
        return {
            key
            for name, value in inner.items()
            for key in (
                leaves(value, f"{prefix}{name}.") if hasattr(value, "model_fields_set") else {f"{prefix}{name}"}
            )
        }

    assert leaves(Config()) <= keys
    assert {"teacher.encoder.dim", "objective.schedules.*.warmup"} <= keys, "optional sections and mappings, too"


@pytest.mark.parametrize(
    ("key", "facts"),
    [
        ("page.height", "(integer, px, 64 to 4096, default 160)"),
        ("page.gain_mm_per_mv", "(number, mm/mV, 0.1 to 400, default 10.0)"),
        ("objective.soft_lead_delta_mv", "(number, mV, above 0, default 0.02)"),
        ("training.beta2", "(number, above 0 to below 1, default 0.98)"),
        ("training.augment.token_dropout", "(number, 0 to below 1, default 0.1)"),
        ("stream.unit_rows", "(integer or none, at least 1, default none)"),
        ("teacher.encoder.fs", "(number, Hz, above 0, default 500.0)"),
        ("teacher.encoder.dim", "(integer, at least 1, required)"),
        ("resources.object_store_mb", "(integer, MB, at least 80, default 400)"),
        ("training.sinks", '(list of one of tensorboard, wandb, mlflow, default ["tensorboard"])'),
    ],
)
def test_kind_unit_range_and_default(key: str, facts: str) -> None:
    (setting,) = explain(key)
    assert setting.text().splitlines()[0] == f"{key}  {facts}"
