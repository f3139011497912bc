"""What is taken without pydantic is what typer would have made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from edgefleet_cli.core import fast_params
from edgefleet_cli.core.options import Color, Format
from edgefleet_cli.tree import build

VALUES = (None, "", "x", "json", "JSON", "auto", "5", 5, 50, True, Format.YAML, Color.NEVER, ["a"], ("a", "b"))


def _params(command: Any) -> Iterator[Any]:
    yield from command.params
    for child in getattr(command, "commands", {}).values():
        yield from _params(child)


def _outcome(take: Any, value: Any, param: Any, ctx: Any) -> tuple[str, Any]:
    try:
        made = take.coerce(value, param=param, ctx=ctx)
    except Exception as error:  # noqa: BLE001 - any refusal is compared
        return type(error).__name__, str(error)
    return type(made).__name__, made


def test_every_parameter_takes_what_typer_takes_and_refuses_what_it_refuses() -> None:
    command = build()
    ctx = command.make_context("edgectl", ["version"], resilient_parsing=True)
    compared = 0
    for param in _params(command):
        light = param.get_runtime_param()
        assert isinstance(light, fast_params.FastParam), param.name
        whole = type(param).get_runtime_param(param)
        for value in (*VALUES, param.default):
            assert _outcome(light, value, param, ctx) == _outcome(whole, value, param, ctx), (param.name, value)
            compared += 1
    assert compared > 1000


def test_a_parameter_with_a_parser_of_its_own_is_left_to_it() -> None:
    app = typer.Typer()

    def run(number: str = typer.Option("a", parser=lambda text: text.upper())) -> None:
        typer.echo(number)

    app.command()(run)
    command: Any = typer.main.get_command(app)
    fast_params.use_fast_params(command)
    own = next(one for one in command.params if one.name == "number")
    assert not isinstance(own.get_runtime_param(), fast_params.FastParam)


def test_a_typer_without_such_adapters_is_left_alone() -> None:
    class Plain:
        name = "word"

    class Command:
        params = (Plain(),)

    fast_params.use_fast_params(Command())
    assert not hasattr(Command.params[0], "get_runtime_param")


@pytest.mark.parametrize("words", [("device", "list"), ("rollout", "list"), ("whoami",)])
def test_a_command_line_makes_its_own_command_alone(words: tuple[str, ...]) -> None:
    command = build(*words)
    for word in words:
        assert list(command.commands) == [word]
        command = command.commands[word]


@pytest.mark.parametrize(("words", "told"), [(("device", "lst"), "list"), (("devise", "list"), "device")])
def test_a_word_that_there_is_none_of_makes_all_of_its_place(words: tuple[str, ...], told: str) -> None:
    command = build(*words)
    if words[0] in command.commands and words[0] == "device":
        command = command.commands["device"]
    assert told in command.commands
    assert len(command.commands) > 10
