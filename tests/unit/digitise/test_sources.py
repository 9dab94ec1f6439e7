"""Names of records: safe, unique, and the same in a later run."""

from __future__ import annotations

import re

import pytest

from ecgscan_ray.digitise.sources import MAX_NAME, Source, record_names
from ecgscan_ray.pictures import PictureFile


def names(*files: str, taken: dict[str, str] | None = None) -> list[str]:
    sources = [Source(PictureFile("/scans", file), file) for file in files]
    found = record_names(sources, {f"/scans/{file}": name for file, name in (taken or {}).items()})
    return [found[source.uri] for source in sources]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.png", "b.v2.png"], ["a", "b-v2"]),
        (["a.png", "ward/a.png"], ["a", "ward_a"]),
        (["x/a.png", "y/a.png", "b.png"], ["x_a", "y_a", "b"]),
        (["a.png", "a.jpg"], ["a-png", "a-jpg"]),
        (["A.png", "a.png"], None),
        (["Größe, Ångström (1).png"], ["Grosse-Angstrom-1"]),
        (["scan--2.png", "-x_.png"], ["scan-2", "x"]),
        (["心電図.png", "心臓.png"], None),
        ([f"{'n' * 300}.png"], None),
        (["x_a.png", "x/a.png", "a.png", "x/a.jpg"], None),
    ],
)
def test_names_are_safe_and_unique(files: list[str], expected: list[str] | None) -> None:
    found = names(*files)
    assert expected is None or found == expected
    assert len({name.lower() for name in found}) == len(files)
    assert all(re.fullmatch(r"[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*", name) and len(name) <= MAX_NAME for name in found)


def test_a_file_keeps_the_name_that_it_has() -> None:
    assert names("x/a.png", "y/a.png", taken={"x/a.png": "a"}) == ["a", "y_a"]
    assert names("x/a.png", taken={"gone/a.png": "a"}) == ["x_a"]
    assert names("x/a.png", "y/a.png", taken={"y/a.png": "y_a"}) == ["x_a", "y_a"], "as without the other run"
