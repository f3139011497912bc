"""Nothing of a rollout is made by implementation inheritance: no class takes over the methods of another one of ours."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.house.tree import ROOT, python_sources

ROLLOUT = "server/edgefleet_server/rollout/"
BASES = {"BaseModel", "Enum", "Generic", "NamedTuple", "Protocol", "SQLModel", "StrEnum", "StrictBody", "Struct"}
"""Shapes of values, interfaces and rows: what a class takes over from these is how it is stored, compared or read."""
PARTS = {"Part", "Checked"}
"""Models of the parts of a written spec: pydantic reads them by their fields, and these two say how fields and flaws are read."""
ERRORS = {"EdgefleetError", "RuntimeError", "RolloutError", "ValueError"}


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path in python_sources():
        if str(path).startswith(ROLLOUT):
            for node in ast.walk(ast.parse((ROOT / path).read_text())):
                if isinstance(node, ast.ClassDef):
                    yield str(path), node


def name_of(base: ast.expr) -> str:
    inner = base.value if isinstance(base, ast.Subscript) else base
    return inner.attr if isinstance(inner, ast.Attribute) else ast.unparse(inner)


def is_record(node: ast.ClassDef) -> bool:
    """A frozen dataclass with fields and nothing else: another view may have the same fields first."""
    decorators = {ast.unparse(one) for one in node.decorator_list}
    has_methods = any(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body)
    return any("frozen=True" in one for one in decorators) and not node.bases and not has_methods


def test_no_class_of_a_rollout_inherits_an_implementation() -> None:
    found = list(classes())
    assert len(found) > 50
    records = {node.name for _, node in found if is_record(node)}
    allowed = BASES | PARTS | ERRORS | records
    assert [
        f"{path}: {node.name}" for path, node in found if not {name_of(base) for base in node.bases} <= allowed
    ] == []


def test_nothing_of_a_rollout_calls_what_it_overrides() -> None:
    calling = [
        f"{path}: {node.name}"
        for path, node in classes()
        for one in ast.walk(node)
        if isinstance(one, ast.Call) and ast.unparse(one.func) == "super" and not set(map(name_of, node.bases)) & ERRORS
    ]
    assert calling == []
