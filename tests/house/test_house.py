"""Rules of the house that a person would otherwise have to remember."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.house.figures import shared_base_names
from tests.house.test_layout import MAX_SHARED_NAMES
from tests.house.tree import PACKAGES, ROOT, python_sources, text_of, tracked

TOP_LEVEL = {
    ".ci", ".dockerignore", ".git-blame-ignore-revs", ".github", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE",
    "README.md", "SECURITY.md", "agent", "bench", "constraints.txt",
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


def test_no_tracked_file_cites_a_paper_that_is_not_in_the_repository() -> None:
    # Written in pieces, so that this file does not match itself. Pages of docs/ are cited with their folder or as links.
    names = "fleet|agent|mqtt|amqtt|security|converters|ecosystem|aesthetics|house"
    papers = re.compile(
        rf"(?<![\w/(-])(?:{names})\.md\b|[Dd]esign README|\bdesign (?:§|decision)|README(?:\.md)? (?:§|decision)"
    )
    found = []
    for path in tracked():
        text = text_of(path)
        if text is None or path == Path("tests/house/test_house.py"):
            continue
        found += [f"{path}: {match.group()}" for match in papers.finditer(text)]
    assert found == []


def test_every_page_and_decision_that_code_cites_is_there() -> None:
    records = {path.name[:4] for path in tracked() if path.parts[:2] in {("docs", "adr"), ("docs", "notes")}}
    dead = []
    for path in tracked():
        text = text_of(path)
        if text is None or path.suffix not in {".py", ".yaml", ".toml"}:
            continue
        dead += [f"{path}: {page}" for page in re.findall(r"\bdocs/[\w/-]+\.md\b", text) if not (ROOT / page).is_file()]
        for list_of_numbers in re.findall(r"\bADR (\d{4}(?:(?:, | and )\d{4})*)", text):
            dead += [f"{path}: ADR {n}" for n in re.findall(r"\d{4}", list_of_numbers) if n not in records]
    assert dead == []


def test_every_decision_and_note_is_listed_once_and_no_number_is_used_twice() -> None:
    index, notes = ((ROOT / "docs" / folder / "README.md").read_text() for folder in ("adr", "notes"))
    files = [
        path for path in tracked() if path.parts[:2] in {("docs", "adr"), ("docs", "notes")} and path.name[0] in "01"
    ]
    numbers = [path.name[:4] for path in files]
    assert sorted(numbers) == [f"{n:04}" for n in range(1, len(numbers) + 1)]
    for path in files:
        number, here = path.name[:4], path.name if path.parts[1] == "adr" else f"../notes/{path.name}"
        title = (ROOT / path).read_text().splitlines()[0].removeprefix(f"# {number} ")
        mark = "" if path.parts[1] == "adr" else " (note)"
        assert index.count(f"| [{number}]({here}){mark} | {title} |") == 1, path
        assert path.parts[1] == "adr" or notes.count(f"| [{number}]({path.name}) | {title} |") == 1, path


GENERATED = ("docs/reference/cli.md", "docs/reference/errors.md", "docs/reference/roles.md", "docs/reference/profiles/")
"""Pages that are made from texts of the product."""


def test_pages_keep_to_the_usual_words() -> None:
    words = re.compile(r"\b(?:anew|[Ww]hoever|ways? back|wish|wishes)\b")
    found = []
    for path in tracked():
        if path.suffix != ".md" or path.name == "CONTRIBUTING.md" or str(path).startswith(GENERATED):
            continue
        prose = re.sub(r"`[^`]*`", "", text_of(path) or "")
        found += [f"{path}: {match.group()}" for match in words.finditer(prose)]
    assert found == []


@pytest.mark.parametrize(
    ("root", "heading"),
    [
        ("server/edgefleet_server", "Server"),
        ("server/edgefleet_server/rollout", "Server"),
        ("server/edgefleet_server/fleet", "Server"),
        ("agent/edgefleet_agent", "Agent"),
        ("agent/edgefleet_runtime", "Agent"),
        ("server/edgefleet_cli", "CLI"),
        *((f"server/edgefleet_cli/{name}", "CLI") for name in ("admin", "core", "device", "release")),
        ("converters/edgefleet_converters", "Converters"),
        ("converters/edgefleet_converters/onnx", "Converters"),
        ("converters/edgefleet_converters/tflite", "Converters"),
    ],
)
def test_every_package_is_in_the_table_of_its_part(root: str, heading: str) -> None:
    """A sub-package is named in the row of its package. A part without packages of its own has none to name."""
    depth = len(Path(root).parts)
    packages = {
        path.parts[depth]
        for path in python_sources()
        if path.is_relative_to(root) and path.name == "__init__.py" and len(path.parts) == depth + 2
    }
    table = (ROOT / "docs" / "glossary.md").read_text().partition(f"\n### {heading}\n")[2].partition("\n### ")[0]
    row = (
        table if depth == 2 else next(row for row in table.splitlines() if row.startswith(f"| **{Path(root).name}** |"))
    )
    assert [name for name in sorted(packages) if f"**{name}**" not in row] == []


def test_what_contributing_names_is_there() -> None:
    named = re.findall(r"`([^`\n]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    paths = {name for name in named if "/" in name and " " not in name and not name.startswith(("./", "bench/NAME"))}
    assert [path for path in sorted(paths) if not [*ROOT.glob(path), *ROOT.glob(f"*/*/{path}")]] == []
    modules = {word for name in named for word in name.split() if word.startswith("tests.")}
    assert [name for name in sorted(modules) if not (ROOT / f"{name.replace('.', '/')}.py").is_file()] == []
    verbs = {name.split()[1] for name in named if name.startswith("./dev ")}
    usage = (ROOT / "dev").read_text().partition("usage: ./dev")[2].partition("TEXT")[0]
    assert [verb for verb in sorted(verbs) if f"\n  {verb} " not in usage] == []


def test_every_package_that_several_parts_use_is_in_the_glossary() -> None:
    table = (ROOT / "docs" / "glossary.md").read_text().partition("\n### What several of them use\n")[2]
    parts = {"edgefleet_server", "edgefleet_agent", "edgefleet_cli", "edgefleet_converters"}
    shared = {path.parts[1] for path in python_sources() if path.name == "__init__.py" and len(path.parts) == 3} - parts
    assert [name for name in sorted(shared) if f"**{name}**" not in table] == []


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


def test_packages_of_one_distribution_share_few_base_names() -> None:
    assert len(shared_base_names()) <= MAX_SHARED_NAMES, shared_base_names()


def test_every_package_is_typed() -> None:
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").is_file()] == []


def test_readme_is_short_and_begins_with_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 100
    head = "\n".join(lines[:20])
    assert head.index("./dev demo") < head.index("./dev test")


def test_changelog_tells_the_present_version_in_eighty_lines() -> None:
    parts = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    parts = parts[parts[0].startswith("Unreleased") :]
    newest = parts[0].splitlines()
    assert newest[0].split()[0] == project("pyproject.toml")["version"]
    assert len(newest) <= 80
