"""What both sides of the wire must know alike is written once, in `edgefleet_protocol`."""

from __future__ import annotations

import ast
import re
from enum import Enum
from functools import cache
from importlib import import_module
from pathlib import Path

from edgefleet_protocol.rollout_states import ROLLOUT_FINAL
from tests.house.tree import ROOT, python_sources

PROTOCOL = Path("agent/edgefleet_protocol")
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


def strings(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def constants() -> dict[str, Path]:
    """Return the text constants of the protocol that could not be an ordinary word: those with a dot or a slash."""
    found = {}
    for path, tree in product():
        if not path.is_relative_to(PROTOCOL):
            continue
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                found.update({text: path for text in strings(node.value) if re.fullmatch(r"[a-z_]+[./][a-z_]+", text)})
    return found


def test_a_constant_of_the_protocol_is_written_nowhere_else() -> None:
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


def test_no_other_module_has_an_enumeration_of_the_protocol() -> None:
    ours = {
        frozenset(str(one.value) for one in kind): kind.__qualname__
        for path in (ROOT / PROTOCOL).glob("*.py")
        for kind in vars(import_module(f"edgefleet_protocol.{path.stem}")).values()
        if isinstance(kind, type) and issubclass(kind, Enum) and len(kind) > 1
    }
    assert "RolloutState" in ours.values()
    assert "ErrorClass" in ours.values()
    twice = []
    for path, tree in product():
        if path.is_relative_to(PROTOCOL):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                values = frozenset(
                    text for part in node.body if isinstance(part, ast.Assign) for text in strings(part.value)
                )
                if values in ours:
                    twice.append(f"{path}: {node.name} repeats {ours[values]}")
    assert twice == []
