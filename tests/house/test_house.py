"""Rules of the house that a person would otherwise have to remember."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.house.tree import PACKAGES, ROOT, python_sources, text_of, tracked

TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "agent", "bench", "constraints.txt",
    "converters", "deploy", "dev", "docs", "examples", "firmware-profiles", "pyproject.toml", "server", "tests",
}  # fmt: skip
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
BANNED_MODULE_NAMES = {"utils", "util", "helpers", "common", "misc", "manager"}


def project(path: str) -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / path).read_text())["project"]
    return table


def test_both_distributions_have_one_version_and_the_server_pins_the_agent() -> None:
    server, agent = project("pyproject.toml"), project("agent/pyproject.toml")
    assert server["version"] == agent["version"]
    assert server["requires-python"] == agent["requires-python"]
    dependencies = server["dependencies"]
    assert isinstance(dependencies, list)
    assert f"edgefleet-agent=={agent['version']}" in dependencies


def test_a_new_top_level_entry_needs_a_decision_record() -> None:
    assert {path.parts[0] for path in tracked()} <= TOP_LEVEL


def test_constraints_are_exact_and_name_no_host() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert "--" not in text
    for line in text.splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r'[A-Za-z0-9._-]+==[A-Za-z0-9.+!_-]+(; python_version [<>]=? "3\.\d+")?', line), line


@pytest.mark.parametrize("path", ["pyproject.toml", "agent/pyproject.toml"])
def test_every_dependency_has_an_exact_version(path: str) -> None:
    table = project(path)
    pinned = {
        re.split(r"[=;]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    extras = table.get("optional-dependencies", {})
    assert isinstance(extras, dict)
    wanted = [*table["dependencies"], *(item for extra in extras.values() for item in extra)]  # type: ignore[misc]
    names = {re.split(r"[\[<>=;~! ]", str(item))[0].lower().replace("_", "-") for item in wanted}
    assert names - pinned - {"edgefleet", "edgefleet-agent"} == set()


def test_no_tracked_file_names_a_machine_or_a_package_index() -> None:
    # Written in pieces, so that this file does not match itself.
    patterns = [
        "/" + "work/", "/" + "root/", "/home/" + "[a-z]+/", "files.python" + "hosted", "pypi" + r"\.org/simple",
        "index" + "-url", r"\.pyenv" + "/",
    ]  # fmt: skip
    found = []
    for path in tracked():
        text = text_of(path)
        if text is None or path == Path("tests/house/test_house.py"):
            continue
        found += [f"{path}: {match.group()}" for p in patterns for match in re.finditer(p, text)]
    assert found == []


def test_no_tracked_file_holds_a_private_key() -> None:
    marker = "PRIVATE " + "KEY-----"
    assert [str(p) for p in tracked() if marker in (text_of(p) or "")] == []


def test_files_stay_short() -> None:
    long = {str(p): n for p in python_sources() if (n := len((ROOT / p).read_text().splitlines())) > MAX_FILE_LINES}
    assert long == {}


def test_functions_stay_short() -> None:
    long = {}
    for path in (p for p in python_sources() if "migrations" not in p.parts):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long[f"{path}:{node.name}"] = length
    assert long == {}


def test_modules_are_named_after_what_they_hold() -> None:
    assert [str(p) for p in python_sources() if p.stem in BANNED_MODULE_NAMES or p.stem.startswith("base_")] == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path)
        for path in python_sources()
        if (text := (ROOT / path).read_text()).strip() and ast.get_docstring(ast.parse(text)) is None
    ]
    assert silent == []


def test_every_package_is_typed() -> None:
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").is_file()] == []


def test_readme_is_short_and_begins_with_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    head = "\n".join(lines[:20])
    assert head.index("./dev demo") < head.index("./dev test")


def test_changelog_has_an_unreleased_part() -> None:
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
