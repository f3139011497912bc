"""Every `edgectl` command that a page of the dashboard or a message names is one that its parser takes as it is written."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer._click import Context
from typer._click.exceptions import UsageError

from edgefleet_cli.tree import build
from tests.house.tree import ROOT

TEMPLATES = ROOT / "server" / "edgefleet_server" / "dashboard" / "templates"
CODE = (
    "server/edgefleet_cli",
    "server/edgefleet_server",
    "server/edgefleet_terms",
    "server/edgefleet_ceremony",
    "agent/edgefleet_agent",
    "agent/edgefleet_protocol",
    "converters/edgefleet_converters",
)
CODE_ELEMENT = re.compile(r"<code>(edgectl [^<]+)</code>")
SPAN = re.compile(r"`(edgectl [^`]+)`")
EXPRESSION = re.compile(r"\{\{.*?\}\}", re.DOTALL)
STATEMENT = re.compile(r"\{%.*?%\}", re.DOTALL)
VALUE = "VALUE"
"""Stands for what a template or a message fills in."""
SEVERAL = re.compile(r" [|] |…|\.\.\.")
"""Several commands in one span, or the beginning of one: no command as it is written."""


def hints() -> Iterator[tuple[str, str]]:
    """Yield where a command is named, and the command."""
    for template in sorted(TEMPLATES.rglob("*.html")):
        text = EXPRESSION.sub(VALUE, STATEMENT.sub("", template.read_text()))
        for command in CODE_ELEMENT.findall(text):
            yield template.name, command.replace("&lt;", "<").replace("&amp;", "&")
    for folder in CODE:
        for module in sorted((ROOT / folder).rglob("*.py")):
            yield from ((module.name, command) for text in _texts(module) for command in SPAN.findall(text))


def _texts(module: Path) -> Iterator[str]:
    """Yield the texts of a module but its docstrings, which name commands and need not be run."""
    source = module.read_text()
    if "edgectl" not in source:
        return
    tree = ast.parse(source)
    left_out = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.value


@cache
def _root() -> Any:
    return build()


def fault(command: str) -> str:
    """Return why the parser would not take a command, "" where it does."""
    words = shlex.split(command.partition(" < ")[0].partition(" > ")[0])[1:]
    group = _root()
    context = Context(group, info_name="edgectl")
    try:
        while words and hasattr(group, "commands"):
            if words[0].startswith("-") or words[0].isupper():
                return ""
            name = words[0].removesuffix(VALUE)
            found = group.get_command(context, name)
            if found is None:
                return f"no command {name}"
            group, words = found, words[1:]
            context = Context(group, parent=context)
        return "" if hasattr(group, "commands") or "--help" in words else _missing(group, context, words)
    except UsageError as error:
        return error.format_message()


def _missing(command: Any, context: Any, words: list[str]) -> str:
    """Return which arguments or options a command still needs, or which words it does not take."""
    values, left, _ = command.make_parser(context).parse_args(args=_without_global(command, words))
    if left:
        return f"no argument {left[0]}"
    needed = [str(one.name) for one in command.params if one.required and not values.get(one.name)]
    return f"needs {', '.join(needed)}" if needed else ""


def _without_global(command: Any, words: list[str]) -> list[str]:
    """Return words without the options that every command takes, and their values."""
    own = {option for one in command.params for option in one.opts}
    known = {option: one for one in _root().params for option in one.opts if option not in own}
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word not in known:
            kept.append(word)
        elif not getattr(known[word], "is_flag", False) and rest:
            rest.pop(0)
    return kept


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("edgectl device show d-1", ""),
        ("edgectl alert-receiver create NAME", ""),
        ("edgectl group create NAME", "needs"),
        ("edgectl device show", "needs"),
        ("edgectl device show a b", "no argument b"),
        ("edgectl rollout promote r-1 --why x", "No such option"),
        ("edgectl rollout stop r-1", "no command stop"),
    ],
)
def test_a_command_that_would_exit_2_is_found(command: str, says: str) -> None:
    found = fault(command)
    assert found.startswith(says)
    assert bool(found) is bool(says)


def test_each_hint_is_a_command_that_the_parser_takes() -> None:
    faults, checked = set(), 0
    for where, command in hints():
        if SEVERAL.search(command):
            continue
        checked += 1
        if found := fault(command):
            faults.add(f"{where}: {command}: {found}")
    assert sorted(faults) == []
    assert checked > 220
