"""`./dev house`: figures of the layout as one JSON object. The tests of the house hold the ones that are rules.

- *Edges* are imports at the top of a module, between packages of the same root. Upward edges are the business of the import contracts.
- The figures of a tick are traced: eight simulated devices, one rollout, SQLite, the tick that opens a stage and makes its offers.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Final

from tests.house.test_layout import MAX_MODULES, ROLES, contracts, dotted
from tests.house.tree import PACKAGES, ROOT, python_sources, tracked

_FROM_OUTSIDE: Final = re.compile(r"(fleet|agent|security|converters|ecosystem|aesthetics)\.md §|[Dd]esign README")
_DISTRIBUTIONS: Final = {"agent": ("agent/",), "server": ("server/", "converters/", "firmware-profiles/")}


@cache
def modules() -> Mapping[str, Path]:
    """Return every module of the packages without `__init__` and migrations, by its dotted name."""
    return {
        dotted(path): path for path in python_sources() if path.name != "__init__.py" and "migrations" not in path.parts
    }


@cache
def syntax(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse((ROOT / path).read_text())


def docstring(path: Path) -> str:
    """Return a module's docstring, empty when it has none."""
    return ast.get_docstring(syntax(path)) or ""


def modules_by_folder() -> Counter[str]:
    """Count the modules of each folder."""
    return Counter(str(path.parent) for path in modules().values())


def shared_base_names() -> dict[str, list[str]]:
    """Return base names that two modules of one distribution have and that are no role names, with their modules."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, path in modules().items():
        part = next(one for one, prefixes in _DISTRIBUTIONS.items() if str(path).startswith(prefixes))
        if path.stem not in ROLES and path.stem != "__main__":
            found[part, path.stem].append(name)
    return {f"{part}: {stem}": sorted(names) for (part, stem), names in sorted(found.items()) if len(names) > 1}


def gerunds() -> list[str]:
    """Return modules whose last word is a gerund."""
    return sorted(name for name in modules() if re.search(r"(^|_|\.)[a-z]{3,}ing$", name))


def imports_of(name: str) -> set[str]:
    """Return the modules of ours that a module imports at its top."""
    known = modules()
    found: set[str] = set()
    for node in syntax(known[name]).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return {one for one in found if one in known and one != name}


def package_of(name: str, root: str) -> str:
    """Return the room of a module below a root: the package or the lone module directly in it."""
    return name.removeprefix(f"{root}.").split(".")[0]


def package_edges(root: str) -> set[tuple[str, str]]:
    """Return the imports between rooms of a package."""
    inside = [name for name in modules() if name.startswith(f"{root}.")]
    pairs = {
        (package_of(name, root), package_of(other, root))
        for name in inside
        for other in imports_of(name)
        if other.startswith(f"{root}.")
    }
    return {(one, other) for one, other in pairs if one != other}


def circles(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Return the strongly connected parts of a graph that have more than one node (Tarjan)."""
    following: dict[str, set[str]] = defaultdict(set)
    for one, other in edges:
        following[one].add(other)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for after in following.get(node, ()):
            if after not in index:
                visit(after)
                low[node] = min(low[node], low[after])
            elif after in stack:
                low[node] = min(low[node], index[after])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in list(following):
        if node not in index:
            visit(node)
    return found


def module_circles() -> list[list[str]]:
    """Return circles of imports between modules."""
    return circles((name, other) for name in modules() for other in imports_of(name))


def own_inheritance(root: str) -> list[str]:
    """Return the classes below a package that inherit from another class of the same package, exceptions aside."""
    classes: dict[str, list[str]] = {}
    for name, path in modules().items():
        if name.startswith(f"{root}."):
            for node in ast.walk(syntax(path)):
                if isinstance(node, ast.ClassDef):
                    classes[node.name] = [ast.unparse(base).split("[")[0] for base in node.bases]
    return sorted(
        f"{name}({', '.join(bases)})"
        for name, bases in classes.items()
        if not name.endswith("Error") and not name.endswith("In") and any(base in classes for base in bases)
    )


def lines_of(*prefixes: str) -> int:
    """Count the lines of tracked Python files below these folders."""
    return sum(
        len((ROOT / path).read_text().splitlines())
        for path in tracked()
        if path.suffix == ".py" and str(path).startswith(prefixes)
    )


def importers_of(name: str, attribute: str) -> list[str]:
    """Return the modules that import one name of a module."""
    return sorted(
        other
        for other, path in modules().items()
        if any(
            isinstance(node, ast.ImportFrom)
            and node.module == name
            and any(one.name == attribute for one in node.names)
            for node in ast.walk(syntax(path))
        )
    )


def _traced_tick() -> dict[str, int]:
    from tests.server.rollout.fleet_sim import make_world

    entered: list[str] = []

    def look(frame: FrameType, event: str, argument: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(ROOT)) and any(f"/{package}/" in file for package in PACKAGES):
            name = dotted(Path(file).relative_to(ROOT))
            if not entered or entered[-1] != name:
                entered.append(name)

    with tempfile.TemporaryDirectory() as folder:
        world = make_world(f"sqlite:///{folder}/a.db", Path(folder) / "a")
        try:
            world.enrol(8)
            world.settle("1.0.0")
            world.release("1.1.0")
            world.create()
            sys.setprofile(look)
            world.tick()
        finally:
            sys.setprofile(None)
            world.house.db.dispose()
    rooms = [name.rpartition(".")[0] for name in entered]
    changes = [(one, other) for one, other in pairwise(rooms) if one != other]
    return {
        "files": len(set(entered)),
        "files_of_rollout": len({name for name in entered if name.startswith("edgefleet_server.rollout.")}),
        "package_edges": len(set(changes)),
        "package_changes": len(changes),
    }


def figures() -> dict[str, Any]:
    """Return all figures of the layout."""
    folders = modules_by_folder()
    source = {name: (ROOT / path).read_text() for name, path in modules().items()}
    cli = {name: text for name, text in source.items() if name.startswith("edgefleet_cli.")}
    rollout = package_edges("edgefleet_server.rollout")
    return {
        "largest_folder": dict(folders.most_common(1)),
        "folders_above_15": {folder: count for folder, count in folders.items() if count > MAX_MODULES},
        "because": sum(bool(re.search(r"[Ii]ts own (file|module) because", text)) for text in source.values()),
        "gerund_modules": gerunds(),
        "shared_base_names": shared_base_names(),
        "rollout_arrows": len(rollout),
        "rollout_rooms": len({room for edge in rollout for room in edge}),
        "rollout_circles": circles(rollout),
        "module_circles": module_circles(),
        "tick": _traced_tick(),
        "rollout_inheritance": own_inheritance("edgefleet_server.rollout"),
        "contracts": len(contracts()),
        "importers_of_parts": importers_of("edgefleet_server.composition.container", "Parts"),
        "cli_json_modules": sum("Json = dict[str, Any]" in text for text in cli.values()),
        "cli_get_calls": sum(text.count('.get("') for text in cli.values()),
        "product_lines": lines_of(*PACKAGES, "server/edgefleet_sdk"),
        "test_lines": lines_of("tests"),
        "references_to_papers": sum(len(_FROM_OUTSIDE.findall(text)) for text in source.values()),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(figures(), indent=2) + "\n")
