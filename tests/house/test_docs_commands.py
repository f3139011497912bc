"""Every command of ours that a page names exists, with every option that the page gives it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edgefleet_agent.__main__ import _parser, _run_parser
from edgefleet_cli.tree import build
from tests.house.pages import blocks, pages
from tests.house.tree import ROOT

COMMAND = re.compile(r"(?:^|(?<=[\s`(\"'|/]))(edgectl|edge-agent)((?: +[^\s`|;&)<>\"]+| +\"[^\"]*\"| +'[^']*')*)")
OPTION = re.compile(r"^(--[a-z][a-z0-9-]*|-[a-z])(=.*)?$")
QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
INLINE = re.compile(r"`([^`]+)`")
FENCED = re.compile(r"(?ms)^```.*?^```[ \t]*$")
WORD = re.compile(r"^[a-z][a-z-]*$")
OLD = ("CHANGELOG.md", "docs/adr/", "docs/notes/")
"""What was true on its day."""


def named(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each command that a page names in code: the program and what stands behind it."""
    text = FENCED.sub("", (ROOT / page).read_text())
    spans = [span for span in INLINE.findall(text) if span.startswith(("edgectl ", "edge-agent "))]
    spans += [block.text.replace("\\\n", " ") for block in blocks(page) if block.language in ("sh", "yaml", "text", "")]
    for span in spans:
        yield from commands(span)


def commands(span: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a line of code, also those inside `"$(…)"`: their options are their own."""
    for program, rest in COMMAND.findall(span):
        yield program, QUOTED.sub("TEXT", rest).split()
        for inner in QUOTED.findall(rest):
            yield from commands(inner[1:])


@cache
def tree() -> Any:
    """Return the commands of `edgectl`."""
    return build()


@cache
def agent() -> tuple[argparse.ArgumentParser, ...]:
    """Return the parsers of `edge-agent`."""
    return _parser(), _run_parser()


def wrong(program: str, words: list[str]) -> str:
    """Return what is wrong with a command, "" when nothing is."""
    return _wrong_edgectl(words) if program == "edgectl" else _wrong_agent(words)


def _wrong_edgectl(words: list[str]) -> str:
    command, known, left = tree(), _options(tree()), list(words)
    while left and getattr(command, "commands", None):
        if left[0].startswith("-"):
            return _unknown(known, left)
        if left[0] not in command.commands:
            return f"no command {left[0]}" if WORD.match(left[0]) else ""
        command = command.commands[left.pop(0)]
        known |= _options(command)
    return _unknown(known, left)


def _wrong_agent(words: list[str]) -> str:
    known, below, left = _options_of(agent()), _below(agent()), list(words)
    while left and left[0] in below:
        parser = below[left.pop(0)]
        known |= _options_of([parser])
        below = _below([parser])
    if left and below and WORD.match(left[0]):
        return f"no command {left[0]}"
    return _unknown(known, left)


def _options_of(parsers: Sequence[argparse.ArgumentParser]) -> set[str]:
    return {option for parser in parsers for action in parser._actions for option in action.option_strings}


def _below(parsers: Sequence[argparse.ArgumentParser]) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands that are named next."""
    return {
        name: below
        for parser in parsers
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, below in action.choices.items()
    }


def _options(command: Any) -> set[str]:
    return {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help", "-h"}


def _unknown(known: set[str], words: list[str]) -> str:
    given = [match[1] for word in words if (match := OPTION.match(word.strip("[]…")))]
    return ", ".join(f"no option {one}" for one in given if one not in known)


@pytest.mark.parametrize(
    ("program", "rest", "says"),
    [
        ("edgectl", "device list -l site=a --watch", ""),
        ("edgectl", "device lost", "no command lost"),
        ("edgectl", "device list --site a", "no option --site"),
        ("edge-agent", "bundle inspect FILE -o json", ""),
        ("edge-agent", "enroll TOKEN --fast", "no option --fast"),
        ("edge-agent", "update", "no command update"),
    ],
)
def test_a_wrong_command_is_found(program: str, rest: str, says: str) -> None:
    assert wrong(program, rest.split()) == says


def test_a_command_inside_of_another_has_options_of_its_own() -> None:
    found = list(commands('edge-agent enroll "$(edgectl device enroll --label a=b)" --run'))
    assert found == [
        ("edge-agent", ["enroll", "TEXT", "--run"]),
        ("edgectl", ["device", "enroll", "--label", "a=b"]),
    ]


def test_commands_on_pages_exist_with_their_options() -> None:
    checked, faults = 0, []
    for page in pages():
        if str(page).startswith(OLD):
            continue
        for program, words in named(page):
            checked += 1
            if fault := wrong(program, words):
                faults.append(f"{page}: {program} {' '.join(words)}: {fault}")
    assert faults == []
    assert checked > 600
