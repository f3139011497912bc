"""Names of our modules in text, which no type checker follows: each must still be what it says after modules have moved.

A name is resolved from the sources alone, nothing is imported: a module of one of our packages, or what stands in one.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from edgefleet_cli import tree as cli_tree
from edgefleet_server import migrations
from edgefleet_server.db.database import metadata
from tests.house.tree import PACKAGES, ROOT, text_of, tracked

FOLDERS = {Path(package).name: Path(package) for package in (*PACKAGES, "server/edgefleet_sdk")}
BEFORE = json.loads((ROOT / "tests" / "golden" / "house.json").read_text(encoding="utf-8"))
"""What no move changes: the tables, and the files of the wheels that are no Python, by their last name."""

_OURS = "|".join(sorted(FOLDERS))
NAME = re.compile(rf"(?<![\w/.@-])((?:{_OURS}|tests)(?:\.[A-Za-z_]\w*)+)(?::([A-Za-z_]\w*))?(?![\w-]*/)")
WILD = re.compile(rf"\"((?:{_OURS})(?:\.(?:\w+|\*{{1,2}}))*\.\*{{1,2}}(?:\.\w+)*)\"")
PATH = re.compile(rf"(?<![\w-])((?:[\w-]+/)?(?:{_OURS})/[\w./-]*\w)")
AS_PROGRAM = re.compile(rf"-m[\s\"',]+((?:{_OURS}|tests)(?:\.\w+)*)\b(?!\.)")
NOT_MODULES = {
    "edgefleet_cli.globals": "a key of click's context",
    "edgefleet_cli.core.session": "a key of click's context, and a module",
}
FILE_ENDINGS = ("py", "md", "json", "yaml", "html", "css", "js", "deb", "log", "svg", "typed")
MADE_LATER = ("tests/house/test_names.py", "docs/reference/openapi.json", "CHANGELOG.md")


def texts() -> Iterator[tuple[Path, str]]:
    """Yield the tracked text files that may name modules."""
    for path in tracked():
        if str(path) not in MADE_LATER and not str(path).startswith("tests/golden/") and path.suffix != ".svg":
            text = text_of(path)
            if text is not None and ("edgefleet_" in text or "tests." in text):
                yield path, text


@cache
def module_file(name: str) -> Path | None:
    """Return the file of a module or package, None when there is none of that name."""
    package, *rest = name.split(".")
    place = ROOT / FOLDERS.get(package, Path(package)).joinpath(*rest)
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    # a folder of modules without a file of its own is a package too
    return file if file.is_file() or (place.is_dir() and any(place.glob("*.py"))) else None


@cache
def body(file: Path) -> ast.Module:
    """Return a parsed source file; of a folder without one, nothing."""
    return ast.parse(file.read_text(encoding="utf-8") if file.is_file() else "")


def stands_in(node: ast.AST, names: list[str]) -> bool:
    """Say whether a dotted name stands in a module or class. What it is of something that was only assigned is not followed."""
    first, *rest = names
    for child in ast.walk(node) if isinstance(node, ast.Module) else ast.iter_child_nodes(node):
        match child:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() if child.name == first:
                return not rest or not isinstance(child, ast.ClassDef) or stands_in(child, rest)
            case ast.Import() | ast.ImportFrom():
                if any((alias.asname or alias.name.partition(".")[0]) == first for alias in child.names):
                    return True
            case ast.Assign() | ast.AnnAssign():
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                if any(isinstance(one, ast.Name) and one.id == first for target in targets for one in ast.walk(target)):
                    return True
            case _:
                pass
    return False


@cache
def resolves(name: str, attribute: str = "") -> bool:
    """Say whether a dotted name is a module of ours or stands in one, and has the attribute that follows a colon."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        file = module_file(".".join(parts[:end]))
        if file is not None:
            rest = parts[end:] + ([attribute] if attribute else [])
            return not rest or rest[0].startswith("__") or stands_in(body(file), rest)
    return False


@pytest.mark.parametrize(
    ("name", "attribute", "is_there"),
    [
        ("edgefleet_server.main", "", True),
        ("edgefleet_server.main", "main", True),
        ("edgefleet_server.db.database.Database.ping", "", True),
        ("edgefleet_server.migrations.versions", "", True),
        ("edgefleet_server.db.database.UtcDateTime", "", True),
        ("edgefleet_server.nowhere", "", False),
        ("edgefleet_server.main", "nothing", False),
        ("edgefleet_server.db.database.Database.nothing", "", False),
    ],
)
def test_a_name_is_resolved_from_the_sources(name: str, attribute: str, *, is_there: bool) -> None:
    assert resolves(name, attribute) == is_there


def test_every_dotted_name_of_ours_is_there() -> None:
    gone = [
        f"{path}: {match[0]}"
        for path, text in texts()
        for match in NAME.finditer(text)
        if match[1] not in NOT_MODULES
        and match[1].rpartition(".")[2] not in FILE_ENDINGS
        and not resolves(match[1], match[2] or "")
    ]
    assert gone == []


def test_names_with_stars_stand_for_at_least_one_module() -> None:
    modules = {
        ".".join([name, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__")
        for name, folder in FOLDERS.items()
        for path in tracked()
        if path.suffix == ".py" and path.is_relative_to(folder)
    }
    found = [match[1] for _, text in texts() for match in WILD.finditer(text)]
    assert found
    for pattern in found:
        shape = re.escape(pattern).replace(r"\*\*", r"[\w.]+").replace(r"\*", r"\w+")
        assert [one for one in modules if re.fullmatch(shape, one)], pattern


def test_every_path_into_a_package_is_there() -> None:
    gone = []
    for path, text in texts():
        for match in PATH.finditer(text):
            head, _, rest = match[1].rpartition("edgefleet_")
            package, _, below = rest.partition("/")
            folder = FOLDERS[f"edgefleet_{package}"]
            if head not in ("", f"{folder.parent}/"):
                continue  # of another tree: an installed one, or a made-up example
            # `render` of `dashboard/render/x` may be a file's stem in prose
            if not any((ROOT / folder / f"{below}{ending}").exists() for ending in ("", ".py")):
                gone.append(f"{path}: {match[1]}")
    assert gone == []


# ---- processes


def started() -> Iterator[tuple[Path, str]]:
    """Yield the modules of ours that our sources start as processes, with the file that does.

    Parsed is only what holds one of the words that `_modules_of` looks for: every process that collects tests does this.
    """
    for path in tracked():
        if path.suffix != ".py" or Path(*path.parts[:2]) not in FOLDERS.values():
            continue
        text = text_of(path) or ""
        if '"-m"' in text or "python_module" in text or "MODULE" in text:
            for node in ast.walk(body(ROOT / path)):
                yield from ((path, module) for module in _modules_of(node) if module.partition(".")[0] in FOLDERS)


def _modules_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.List(elts=items) | ast.Tuple(elts=items):
            words = [item.value if isinstance(item, ast.Constant) else None for item in items]
            yield from (str(after) for word, after in pairwise(words) if word == "-m" and after)
        case ast.Call(func=ast.Name(id="python_module"), args=[ast.Constant(value=str() as module), *_]):
            yield module
        case ast.Assign(targets=[ast.Name(id="MODULE")], value=ast.Constant(value=str() as module)):
            yield module
        case _:
            pass


STARTED = sorted({module for _, module in started()})
TYPED = sorted({match[1] for _, text in texts() for match in AS_PROGRAM.finditer(text)} - set(STARTED))
"""Modules that a document, a script, a test or a benchmark starts."""


def test_the_children_of_agent_server_and_cli_are_found() -> None:
    from_where = Counter(FOLDERS[module.partition(".")[0]].name for module in STARTED)
    assert from_where["edgefleet_agent"] >= 4
    assert from_where["edgefleet_server"] >= 6
    assert from_where["edgefleet_converters"] >= 4
    assert from_where["edgefleet_cli"] >= 2


@pytest.mark.parametrize("module", [*STARTED, *TYPED])
def test_what_is_started_as_a_process_can_be(module: str) -> None:
    file = module_file(module)
    assert file is not None
    if file.name == "__init__.py":
        file = file.with_name("__main__.py")
        assert file.is_file(), f"a package without __main__: {module}"
    source = body(file)
    guards = [node for node in source.body if isinstance(node, ast.If) and "__main__" in ast.dump(node.test)]
    assert guards, f"{module} does nothing when it is started"


def test_steps_of_the_sandbox_take_what_they_are_called_with() -> None:
    from edgefleet_converters import sandbox_child

    steps = [value for value in vars(sandbox_child).values() if isinstance(value, Mapping) and "find_source" in value]
    assert len(steps) == 1
    for place in steps[0].values():
        name, _, function = place.partition(":")
        assert function
        assert resolves(name, function), place


def test_commands_of_edgectl_are_where_its_tree_says() -> None:
    for module in cli_tree._GROUPS.values():
        assert resolves(f"edgefleet_cli.{module}", "app"), module
    for place in cli_tree._COMMANDS.values():
        module, _, function = place.partition(":")
        assert resolves(f"edgefleet_cli.{module}", function), place


# ---- what is installed


def project(file: str) -> dict[str, object]:
    """Return a `pyproject.toml`."""
    return tomllib.loads((ROOT / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("file", "script"), [("pyproject.toml", "edgectl"), ("agent/pyproject.toml", "edge-agent")])
def test_entry_points_are_functions(file: str, script: str) -> None:
    scripts = project(file)["project"]["scripts"]  # type: ignore[index]
    assert list(scripts) == [script]
    assert resolves(*scripts[script].split(":"))


def test_units_start_what_is_installed() -> None:
    lines = [
        line
        for path in tracked()
        if path.parts[0] == "deploy" and path.suffix == ".service"
        for line in (ROOT / path).read_text(encoding="utf-8").splitlines()
        if line.startswith("Exec")
    ]
    programs = {Path(line.partition("=")[2].split()[0]).name for line in lines}
    assert programs == {"edgectl", "edge-agent"}


def test_the_debian_package_takes_all_of_the_agents_wheel() -> None:
    wheel = project("agent/pyproject.toml")["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]  # type: ignore[index]
    script = (ROOT / "deploy" / "debian" / "build").read_text(encoding="utf-8")
    taken = re.search(r"for package in ([\w ]+); do", script)
    assert taken is not None
    assert sorted(taken[1].split()) == sorted(wheel)
    assert "-name '*.py' -o -name py.typed" in script
    assert {path.name for path in data_files("agent")} == {"py.typed"}, "the script would leave it out"


def data_files(root: str) -> list[Path]:
    """Return the files of a wheel that are no Python. root: the folder of its `pyproject.toml`, "." or "agent"."""
    wheel = project(f"{root}/pyproject.toml")["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]  # type: ignore[index]
    folders = [Path(root, package) for package in wheel]
    return [
        path for path in tracked() if path.suffix != ".py" and any(path.is_relative_to(folder) for folder in folders)
    ]


@pytest.mark.parametrize(("root", "wheel"), [(".", "edgefleet"), ("agent", "edgefleet-agent")])
def test_both_wheels_have_the_files_that_they_had(root: str, wheel: str) -> None:
    assert sorted(path.name for path in data_files(root)) == BEFORE["files"][wheel]


def test_every_package_is_in_one_wheel() -> None:
    wheels = [
        Path(root, package)
        for root in (".", "agent")
        for package in project(f"{root}/pyproject.toml")["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]  # type: ignore[index]
    ]
    assert sorted(map(str, wheels)) == sorted(map(str, FOLDERS.values()))
    target = project("pyproject.toml")["tool"]["hatch"]["build"]["targets"]["wheel"]  # type: ignore[index]
    assert target["only-include"] == [
        *target["packages"],
        "examples/digits",
        "deploy/edge-agent.service",
        "deploy/install-agent.sh",
        "docs/glossary.md",
        "docs/reference/openapi.json",
        "build/help.tar.xz",
    ]


def test_git_ignores_nothing_that_a_wheel_needs() -> None:
    command = ["git", "ls-files", "-z", "--others", "--ignored", "--exclude-standard", *map(str, FOLDERS.values())]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    assert [name for name in listed if name and "__pycache__" not in name] == []


def test_the_tables_are_the_ones_that_there_were() -> None:
    assert sorted(metadata().tables) == BEFORE["tables"]


def test_what_is_read_from_packages_is_there() -> None:
    dashboard = _folder_of("PackageLoader")
    assert (dashboard / "templates" / "base.html").is_file() or list((dashboard / "templates").rglob("*.html"))
    assert list((dashboard / "static").rglob("*.css"))
    assert {path.name for path in migrations.FOLDER.iterdir()} >= {"env.py", "script.py.mako", "versions"}


def _folder_of(function: str) -> Path:
    """Return the folder of the one package that the server's sources name in a call of a function."""
    named = {
        node.args[0].value
        for path in tracked()
        if path.suffix == ".py" and path.is_relative_to(FOLDERS["edgefleet_server"])
        for node in ast.walk(body(ROOT / path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == function
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(named) == 1
    file = module_file(str(next(iter(named))))
    assert file is not None
    return file.parent


def main() -> None:
    """Write what no move changes: `python -m tests.house.test_names`."""
    files = {
        wheel: sorted(path.name for path in data_files(root))
        for root, wheel in ((".", "edgefleet"), ("agent", "edgefleet-agent"))
    }
    text = json.dumps({"tables": sorted(metadata().tables), "files": files}, indent=1)
    (ROOT / "tests" / "golden" / "house.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
