"""The examples in the losses' docstrings run."""

from __future__ import annotations

import doctest
import inspect

import pytest

from ecgscan_ray import objective


@pytest.mark.parametrize("name", objective.__all__)
def test_the_example_runs(name: str) -> None:
    loss = getattr(objective, name)
    namespace = vars(inspect.getmodule(loss))
    (example,) = doctest.DocTestFinder(recurse=False).find(loss, name, globs=dict(namespace))
    assert example.examples, "no example"
    results = doctest.DocTestRunner().run(example)
    assert results.failed == 0
