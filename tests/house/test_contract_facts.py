"""Facts that several parts must know alike are written once: in `edgefleet_protocol`, or in `edgefleet_terms` if no device reads them."""

from __future__ import annotations

import ast
import re
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path

from edgefleet_terms.rollout_states import ROLLOUT_FINAL
from tests.house.tree import ROOT, python_sources

SHARED = (Path("agent/edgefleet_protocol"), Path("server/edgefleet_terms"))
_DEVICE_CODE = re.compile(r"(install|trial|candidate|verify)\.(?!sh$)[a-z_]+")
"""What a device reports as the reason for a phase."""


@cache
def product() -> list[tuple[Path, ast.Module]]:
    """Return every module of the product but the migrations, which are history."""
    return [
        (path, ast.parse((ROOT / path).read_text()))
        for path in python_sources()
        if path.parts[0] in {"agent", "server", "converters", "firmware-profiles"} and "migrations" not in path.parts
    ]


def is_shared(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in SHARED)


def strings(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def constants() -> dict[str, Path]:
    """Return the text constants of the shared packages that could not be an ordinary word: those with a dot or a slash."""
    found = {}
    for path, tree in product():
        if not is_shared(path):
            continue
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                found.update({text: path for text in strings(node.value) if re.fullmatch(r"[a-z_]+[./][a-z_]+", text)})
    return found


def test_a_constant_of_a_shared_package_is_written_nowhere_else() -> None:
    known = constants()
    assert {"install.held", "install.spread", "install.child_died", "trial.over_declared", "edgefleet/pinned"} <= set(
        known
    )
    twice = [
        f"{path}: {text} stands in {known[text]}"
        for path, tree in product()
        for text in sorted(strings(tree) & set(known))
        if path != known[text]
    ]
    assert twice == []


def test_the_server_and_its_tools_spell_no_code_of_a_device() -> None:
    spelled = [
        f"{path}: {text}"
        for path, tree in product()
        if path.parts[0] == "server"
        for text in sorted(strings(tree))
        if _DEVICE_CODE.fullmatch(text)
    ]
    assert spelled == []


def test_no_other_module_lists_the_final_states_of_a_rollout() -> None:
    final = {state.value for state in ROLLOUT_FINAL}
    lists = [
        f"{path}:{node.lineno}"
        for path, tree in product()
        for node in ast.walk(tree)
        if isinstance(node, ast.Set | ast.Tuple | ast.List) and final <= strings(node)
    ]
    assert lists == []


def test_no_other_module_has_an_enumeration_of_a_shared_package() -> None:
    ours = {
        frozenset(str(one.value) for one in kind): kind.__qualname__
        for folder in SHARED
        for path in (ROOT / folder).glob("*.py")
        for kind in vars(import_module(f"{folder.name}.{path.stem}")).values()
        if isinstance(kind, type) and issubclass(kind, Enum) and len(kind) > 1
    }
    assert "RolloutState" in ours.values()
    assert "ErrorClass" in ours.values()
    twice = []
    for path, tree in product():
        if is_shared(path):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                values = frozenset(
                    text for part in node.body if isinstance(part, ast.Assign) for text in strings(part.value)
                )
                if values in ours:
                    twice.append(f"{path}: {node.name} repeats {ours[values]}")
    assert twice == []
