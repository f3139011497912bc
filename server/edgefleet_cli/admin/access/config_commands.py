"""`edgectl config view`: what holds for this command line, and where each of it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import typer

from edgefleet_cli.core.options import META_KEY
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.reply import reply_of
from edgefleet_cli.render.format import text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Show the settings of edgectl.", no_args_is_help=True)


class Setting(Struct, frozen=True, rename={"source": "from"}):
    """One setting and where its value comes from."""

    setting: str
    value: str | bool | None
    source: str


SHEET: Sheet[Setting] = Sheet(
    "settings",
    [
        Column("setting", lambda s: text(s.setting), keep=True),
        Column("value", lambda s: text(s.value)),
        Column("from", lambda s: text(s.source)),
    ],
    lambda s: text(s.setting),
)
_IN_CONTEXT = ("server", "token")


@app.command("view")
def view(ctx: typer.Context) -> None:
    """Show every setting, its value and its source: flag, then environment, then context, then default. No secret is shown."""
    session = Session.of(ctx)
    given = ctx.meta.get(META_KEY, {})
    options, context = session.options, session.context
    values: dict[str, str | bool | None] = {
        "context": context.name if context else None,
        "server": options.server or (context.server if context else None),
        "token": "set" if options.token or (context and context.token) else None,
        "output": options.output.value,
        "color": options.color.value,
        "no_input": options.no_input,
        "debug": options.debug,
        "timeout": f"{options.timeout_s:g} s" if options.timeout_s else None,
    }
    rows = [
        Setting(name, value, _source(name, given, has_context=context is not None and bool(value)))
        for name, value in values.items()
    ]
    rows.append(Setting("file", str(session.contexts.path), _where("EDGECTL_CONFIG")))
    session.out.rows({"items": [reply_of(row).raw for row in rows]}, rows, SHEET)


def _source(name: str, given: Mapping[str, Any], *, has_context: bool) -> str:
    if given.get(name):
        return f"--{name.replace('_', '-')}"
    if os.environ.get(f"EDGECTL_{name.upper()}"):
        return f"EDGECTL_{name.upper()}"
    if has_context and name in _IN_CONTEXT:
        return "context"
    return "the current context" if has_context and name == "context" else "default"


def _where(variable: str) -> str:
    return variable if os.environ.get(variable) else "default"
