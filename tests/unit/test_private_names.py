"""Tests use what rooms offer: a name that begins with an underscore may change without any test noticing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
OF_OTHERS = {"os._exit", "manager._checkpoint_results"}
"""Of the standard library, and of Ray's manager of checkpoints, which has no public list."""

PRIVATE = re.compile(r"_(?!_)\w+")


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, expression) of private names of the package: imported, used as attributes, or given to monkeypatch."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "ecgscan_ray":
                yield from ((node.lineno, f"{module}.{n.name}") for n in names if PRIVATE.fullmatch(n.name))
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name) if PRIVATE.fullmatch(name):
                if ast.unparse(node) not in OF_OTHERS:
                    yield node.lineno, ast.unparse(node)
            case ast.Constant(value=str(text)) if re.fullmatch(r"ecgscan_ray(\.\w+)*\._(?!_)\w+", text):
                yield node.lineno, text
            case ast.Call(func=ast.Attribute(attr="setattr" | "delattr"), args=[_, ast.Constant(value=str(name)), *_]):
                if PRIVATE.fullmatch(name):
                    yield node.lineno, ast.unparse(node)


def test_no_test_uses_a_private_name() -> None:
    uses = [
        f"{path.relative_to(TESTS.parent)}:{line}: {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for line, name in private_names(ast.parse(path.read_text()))
    ]
    assert not uses, "test these through public functions, or make them public:\n" + "\n".join(uses)


@pytest.mark.parametrize(
    "code",
    [
        "from ecgscan_ray.runtime.demand import _Node",
        "cluster._join('head:6379')",
        "monkeypatch.setattr(lease, '_held', {})",
        "monkeypatch.setattr('ecgscan_ray.model.external._trusted', set())",
    ],
)
def test_private_names_are_recognised(code: str) -> None:
    assert len(list(private_names(ast.parse(code)))) == 1


@pytest.mark.parametrize("code", ["self._bound()", "from tests.tiny import _x", "a.__class__", "x = {'_id': 1}"])
def test_other_names_are_not(code: str) -> None:
    assert not list(private_names(ast.parse(code)))
