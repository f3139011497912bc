"""Rules of where code is and how it is named: folders, packages, module names, purity, what is overridden of libraries."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from tests.house.tree import PACKAGES, ROOT, python_sources

MAX_MODULES = 15
"""Of a folder, `__init__.py` not counted."""
LARGE_ON_PURPOSE = {
    "agent/edgefleet_protocol": "what devices and server share: a family of messages or documents a file",
    "converters/edgefleet_converters": "a step of the pipeline a file",
    "converters/edgefleet_converters/onnx": "a pass a file",
    "converters/edgefleet_converters/tflite": "a step of the lowering a file",
    "converters/edgefleet_converters/tflite/lower": "a group of operators a file",
    "server/edgefleet_server/migrations/versions": "a step of the database a file",
}
MIN_MODULES = 3
SMALL_ON_PURPOSE = {
    "server/edgefleet_server/dashboard/alerts": "each area of the pages is a folder",
    "server/edgefleet_server/dashboard/enrolment": "each area of the pages is a folder",
    "server/edgefleet_server/dashboard/costs": "each area of the pages is a folder",
    "server/edgefleet_server/dashboard/objectives": "each area of the pages is a folder",
    "server/edgefleet_server/outbound": "below every feature that calls others",
}
MAX_DEPTH = 4
"""Of a dotted name: `edgefleet_server.rollout.planner.tick` has four."""
ROLES = {
    "__init__", "__main__", "client", "commands", "engine", "errors", "model", "pages", "ports", "reader", "render", "routes", "rules",
    "schemas", "service", "store", "tables", "views",
}  # fmt: skip
"""Names that mean the same in every package."""
SHARED_NAMES = {
    "edgefleet_converters": {"load", "ranges", "sensitivity", "weights"},
}
"""Other base names that two modules of a package share: the same thing seen from two layers."""
MAX_SHARED_NAMES = 15
"""Base names, no role names, that modules of several packages of one distribution may share."""
GERUNDS = {"pending_devices", "precision_ranking", "setting_check", "setting_sources"}
"""Words of the field, or adjectives."""
NOT_A_CLAIM = {
    "edgefleet_agent.connection.metered": "says that the rest of it is pure",
    "edgefleet_agent.install.probation": "says which of its modules are pure",
    "edgefleet_converters.c_array": "reads the model file",
    "edgefleet_server.telemetry.release_comparison": "says that one function of it is pure",
}
HEAVY_AGENT = {
    "cli", "client", "datatypes", "diagnostics", "enrolment", "inputs", "links", "verifier", "worker", "__main__",
}  # fmt: skip
"""Parts of the agent that agentd does not hold in its own process; of `worker` it holds `control`."""
OVERRIDING = {
    "server/edgefleet_server/gateway/broker": "amqtt",
    "server/edgefleet_server/gateway/quick_client.py": "paho",
}
"""Where private names of a library are overridden, and of which library."""
TYPER_HOOK = "get_runtime_param"
"""What `edgefleet_cli.core.fast_params`, and nothing else, replaces in parameters that typer made."""


def dotted(path: Path) -> str:
    """Return the name of a module by its path below one of PACKAGES."""
    parts = path.with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def folders() -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in python_sources():
        if path.name != "__init__.py":
            found[str(path.parent)].append(path.stem)
    return dict(found)


@cache
def contracts() -> dict[str, dict[str, Any]]:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return {contract["id"]: contract for contract in table}


def test_a_folder_holds_no_more_modules_than_a_reader_takes_in() -> None:
    large = {name for name, modules in folders().items() if len(modules) > MAX_MODULES}
    assert large - LARGE_ON_PURPOSE.keys() == set()
    assert LARGE_ON_PURPOSE.keys() - large == set(), "this one is small enough by now: take it off the list"


def test_a_package_holds_enough_to_be_one() -> None:
    below = Counter(str(Path(name).parent) for name in folders())
    small = {name for name, modules in folders().items() if len(modules) + below[name] < MIN_MODULES}
    assert small == set(SMALL_ON_PURPOSE)


def test_packages_are_not_nested_deeper_than_can_be_said() -> None:
    assert [name for path in python_sources() if (name := dotted(path)).count(".") >= MAX_DEPTH] == []


def test_modules_of_one_package_share_role_names_only() -> None:
    for package in PACKAGES:
        root = package.partition("/")[2]
        names = Counter(path.stem for path in python_sources() if str(path).startswith(f"{package}/"))
        shared = {name for name, count in names.items() if count > 1} - ROLES
        assert shared == SHARED_NAMES.get(root, set()), root


def test_modules_are_named_by_nouns() -> None:
    found = {
        path.stem
        for path in python_sources()
        if "migrations" not in path.parts
        and any(word.endswith("ing") and len(word) > 5 for word in path.stem.split("_"))
    }
    assert found == GERUNDS
    assert len(GERUNDS) <= 10


def test_no_docstring_excuses_its_file() -> None:
    excuse = re.compile(r"\b[Ii]ts own (file|module)\b")
    found = [str(path) for path in python_sources() if excuse.search((ROOT / path).read_text())]
    assert found == []


def _is_named(module: str, pattern: str) -> bool:
    """Return whether a pattern of a contract names a module or a package above it; `*` stands for one name."""
    words, wanted = module.split("."), pattern.split(".")
    return len(words) >= len(wanted) and all(map(fnmatchcase, words, wanted))


def test_what_says_that_it_is_pure_is_held_to_it() -> None:
    held = [module for one in ("pure", "protocol-pure", "terms-pure") for module in contracts()[one]["source_modules"]]
    loose, claims = [], 0
    for path in python_sources():
        said = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
        module = dotted(path)
        if not re.search(r"\b[Pp]ure\b", said) or module in NOT_A_CLAIM:
            continue
        claims += 1
        if not any(_is_named(module, pattern) for pattern in held):
            loose.append(module)
    assert loose == []
    assert claims > 100


def test_terms_imports_only_the_protocol_and_what_python_has() -> None:
    known = sys.stdlib_module_names | {"edgefleet_terms", "edgefleet_protocol"}
    for path in (path for path in python_sources() if path.parts[1] == "edgefleet_terms"):
        used = {module.partition(".")[0] for module, _ in _imported(ast.parse((ROOT / path).read_text())).values()}
        assert used <= known, path


def test_a_new_module_falls_under_a_contract_by_being_where_it_is() -> None:
    for name in ("features", "rollout", "fleet"):
        assert contracts()[name]["exhaustive"], name
    light = {module.split(".")[1] for module in contracts()["agentd-light"]["source_modules"]}
    parts = {path.with_suffix("").parts[2] for path in python_sources() if path.parts[1] == "edgefleet_agent"}
    assert parts - {"__init__"} == light | HEAVY_AGENT
    features = set(" | ".join(contracts()["features"]["layers"]).split(" | "))
    without_services = {"main", "process", "composition", "clock", "telemetry_views", "setting_sources"}
    located = {module.partition(".")[2] for module in contracts()["no-locator"]["source_modules"]}
    assert located == features - without_services
    owners = {name.removeprefix("tables-") for name in contracts() if name.startswith("tables-")}
    stores = {path for path in python_sources() if path.stem in ("store", "tables") or path.parent.name == "store"}
    assert {path.parts[2] for path in stores if path.parts[1] == "edgefleet_server"} <= owners
    for path in (path for path in stores if path.parts[1] == "edgefleet_server"):
        for owner in owners - {path.parts[2]}:
            forbidden = contracts()[f"tables-{owner}"]["forbidden_modules"]
            assert any(_is_named(dotted(path), pattern) for pattern in forbidden), (owner, path)


def test_private_names_of_libraries_are_replaced_in_known_places_only() -> None:
    found = {str(path): libraries for path in python_sources() if (libraries := set(_overridden(path)))}
    for path, libraries in found.items():
        known = {library for place, library in OVERRIDING.items() if path.startswith(place)}
        assert libraries <= known, (path, libraries)
    for place in OVERRIDING:
        assert any(path.startswith(place) for path in found), f"nothing is overridden in {place} any more"
    replaced = [path.stem for path in python_sources() if TYPER_HOOK in (ROOT / path).read_text()]
    assert replaced == ["fast_params"]


def _overridden(path: Path) -> Iterator[str]:
    """Yield the libraries of which a module overrides private methods, or sets private names from outside."""
    tree = ast.parse((ROOT / path).read_text())
    imported = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            own = {one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
            private = {name for name in own if _is_private(name)}
            for base in node.bases if private else ():
                library, kind = _resolved(base, imported)
                theirs = [found for name in private if (found := getattr(kind, name, None)) is not None]
                if any(not getattr(one, "__isabstractmethod__", False) for one in theirs):
                    yield library
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Attribute) and _is_private(target.attr):
                    library, holder = _resolved(target.value, imported)
                    if holder is not None:
                        yield library


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _imported(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Return what the names of a module stand for: a module, and a name in it or ""."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {one.asname or one.name: (node.module, one.name) for one in node.names}
        elif isinstance(node, ast.Import):
            for one in node.names:
                first = one.name.partition(".")[0]
                found[one.asname or first] = (one.name if one.asname else first, "")
    return found


def _resolved(node: ast.expr, imported: dict[str, tuple[str, str]]) -> tuple[str, Any]:
    """Return the library and what an expression names in it, None when that is ours, Python's or no name."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in imported:
        return "", None
    module, name = imported[node.id]
    library = module.partition(".")[0]
    if library.startswith("edgefleet_") or library in sys.stdlib_module_names:
        return "", None
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return "", None
    for one in ([name] if name else []) + names[::-1]:
        if not hasattr(found, one):
            try:
                found = importlib.import_module(f"{found.__name__}.{one}")
                continue
            except (ImportError, AttributeError):
                return "", None
        found = getattr(found, one)
    return library, found
