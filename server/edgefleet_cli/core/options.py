"""Global options: every command and group takes them, at any place on the command line.

The values land in `ctx.meta`, which click shares along the whole chain of contexts, so `edgectl -o json device list`
and `edgectl device list -o json` are the same. Order of precedence: flag, environment, context, default.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer

from edgefleet_cli.core.errors import UsageError

E = TypeVar("E", bound=StrEnum)
META_KEY = "edgefleet_cli.globals"
GLOBAL_HINT = "Use `edgectl options` for global options."
_VALUE_WORDS = {int: "N", float: "X", Path: "FILE"}
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}


class Format(StrEnum):
    """How data is written to stdout."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    CSV = "csv"


class Color(StrEnum):
    """When to use colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class GlobalOptions:
    """The resolved global options; `timeout_s` is None where the command's own default holds."""

    context: str | None = None
    server: str | None = None
    token: str | None = None
    output: Format = Format.TABLE
    color: Color = Color.AUTO
    no_input: bool = False
    yes: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    timeout_s: float | None = None


def parse_duration_s(text: str) -> float:
    """Return seconds for `90`, `90s`, `1.5m`, `2h`, `1d`. Raises UsageError."""
    match = _DURATION.match(text.strip())
    if match is None:
        raise UsageError(
            f"{text!r} is not a duration",
            why="expected a number with an optional unit",
            next_step="write 30s, 10m or 2h",
        )
    return float(match.group(1)) * _SECONDS[match.group(2)]


def time_of(given: str, now: datetime) -> datetime:
    """Return the time that `24h` (ago) or an RFC 3339 time says. Raises UsageError."""
    try:
        then = datetime.fromisoformat(given)
    except ValueError:
        try:
            return now - timedelta(seconds=parse_duration_s(given))
        except UsageError as error:
            raise UsageError(
                f"{given!r} is neither a time nor a span of time",
                why="expected RFC 3339, or how long ago",
                next_step="e.g. --since 24h, --since 2026-01-03T12:00:00Z",
            ) from error
    return then if then.tzinfo else then.replace(tzinfo=UTC)


def _carrier(  # noqa: PLR0913, PLR0917 - one parameter for each global option; typer reads this signature
    context: Annotated[str | None, typer.Option("--context", metavar="NAME", help="Saved context to use.")] = None,
    server: Annotated[str | None, typer.Option("--server", metavar="URL", help="Server to talk to.")] = None,
    token: Annotated[
        str | None, typer.Option("--token", metavar="TOKEN", help="Operator token to authenticate with.")
    ] = None,
    output: Annotated[
        Format | None,
        typer.Option("--output", "-o", help="Output format; -o wide shows more columns and cuts nothing."),
    ] = None,
    color: Annotated[Color | None, typer.Option("--color", help="When to use colour; NO_COLOR turns it off.")] = None,
    no_input: Annotated[bool, typer.Option("--no-input", help="Never ask; what needs an answer fails.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Answer yes to all confirmations.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no hints.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show how long each step of `edgectl demo` takes.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show requests, request ids and stack traces.")] = False,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="Give up after this time, e.g. 30s, 10m.")
    ] = None,
) -> None:
    """Carry the global options; never called."""


def global_params() -> list[Any]:
    """Return fresh option objects, one a global option, that store into `ctx.meta` and are not passed to commands."""
    carrier = typer.Typer(add_completion=False)
    carrier.command()(_carrier)
    params: list[Any] = [p for p in typer.main.get_command(carrier).params if p.name != "help"]
    for param in params:
        param.expose_value = False
        param.callback = _store
        param.hidden = True
    return params


def _store(ctx: Any, param: Any, value: Any) -> Any:
    if value is not None and value is not False:
        ctx.meta.setdefault(META_KEY, {})[param.name] = value
    return value


def attach_global_options(command: Any) -> None:
    """Give `command` and everything below it the global options (changes the command tree in place).

    No help lists them but that of `edgectl options`; each says so at its end.
    """
    _attach(command, global_params())


def _attach(command: Any, params: list[Any]) -> None:
    taken = {name for param in command.params for name in param.opts}
    for param in command.params:
        if param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: None  # the name says it
        elif param.metavar is None:
            param.metavar = value_word(param)
    # making an option again for each command costs a fifth of the start
    command.params += [copy.copy(param) for param in params if not taken & set(param.opts)]
    command.epilog = GLOBAL_HINT
    for child in getattr(command, "commands", {}).values():
        _attach(child, params)


def value_word(param: Any) -> str:
    """Return what stands in help for the value of an option: its choices or a word; "" for a flag."""
    if param.is_flag:
        return ""
    kind = param.type_descriptor.annotation
    while get_args(kind):  # what is inside `list[str]` and `str | None`
        kind = next(one for one in get_args(kind) if one is not type(None))
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "|".join(kind)
    return _VALUE_WORDS.get(kind, str(param.opts[0]).lstrip("-").upper().replace("-", "_"))


def resolve(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> GlobalOptions:
    """Return the options from flags, then `EDGECTL_*`. Raises UsageError for a bad value in the environment."""
    env = os.environ if environ is None else environ

    def setting(name: str) -> Any:
        return given.get(name) or env.get(f"EDGECTL_{name.upper()}") or None

    options = GlobalOptions(
        context=setting("context"),
        server=setting("server"),
        token=setting("token"),
        output=_choice(Format, setting("output"), "EDGECTL_OUTPUT", Format.TABLE),
        color=_choice(Color, setting("color"), "EDGECTL_COLOR", Color.AUTO),
        no_input=bool(setting("no_input")),
        yes=bool(given.get("yes")),
        quiet=bool(given.get("quiet")),
        verbose=bool(given.get("verbose")),
        debug=bool(setting("debug")),
    )
    timeout = setting("timeout")
    return replace(options, timeout_s=parse_duration_s(timeout)) if timeout else options


def _choice(kind: type[E], value: str | None, source: str, default: E) -> E:
    if not value:
        return default
    try:
        return kind(value)
    except ValueError as error:
        choices = ", ".join(kind)
        raise UsageError(
            f"{source} is {value!r}", why=f"expected one of {choices}", next_step=f"unset {source}"
        ) from error
