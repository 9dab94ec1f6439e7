"""The names of a run's files are written once."""

from __future__ import annotations

import ast
from pathlib import Path

import ecgscan_ray
from ecgscan_ray.runs import names

PACKAGE = Path(ecgscan_ray.__file__).parent

SHARED = {names.CONFIG, names.TOKENIZER, names.WEIGHTS}
"""Also names of files of other folders: an exported encoder's, a tokenizer's of transformers."""


def literals(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_no_other_room_spells_them() -> None:
    files = {value for key, value in vars(names).items() if key.isupper() and "." in value} - SHARED
    assert {names.STATE, names.PROGRESS, names.REPORT_HTML} <= files
    spelled = {
        str(path.relative_to(PACKAGE)): sorted(literals(path) & files)
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "runs"
    }
    assert {path: literal for path, literal in spelled.items() if literal} == {}
