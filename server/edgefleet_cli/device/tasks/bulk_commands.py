"""`edgectl device ask`: the same task for many devices, chosen by a selector."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.selection import no_match
from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import counted, named, text
from edgefleet_cli.render.output import Column, Sheet


class Kind(StrEnum):
    """What many devices can be asked."""

    DIAG = "diag"
    LOGS = "logs"
    RESTART = "restart"


SHEET: Sheet[api.task.TasksAsked] = Sheet(
    "asked devices",
    [
        Column("task", lambda one: text(one.kind), keep=True),
        Column("matched", lambda one: text(one.matched), right=True),
        Column("asked", lambda one: text(one.asked), right=True),
        Column("skipped", lambda one: text(len(one.skipped)), right=True),
    ],
    lambda one: text(one.kind),
)


def add_many_command(app: typer.Typer) -> None:
    """Put the command into `edgectl device`."""
    app.command("ask")(ask)


def ask(
    ctx: typer.Context,
    kind: Annotated[Kind, typer.Argument(metavar="TASK", help="diag, logs or restart.")],
    selector: Annotated[str, completion.selector_option("Devices to ask")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show how many devices would be asked.")] = False,
) -> None:
    """Ask many devices for their logs or a diagnosis, or to restart; at most 1,000 at once."""
    from msgspec.structs import replace

    from edgefleet_cli.core.structs import UNSET

    session = Session.of(ctx)
    what = "agent" if kind is Kind.RESTART else UNSET
    body = api.task.TasksIn(kind=kind.value, selector=selector, what=what, dry_run=True)
    found = session.api.post("/devices:task", body, api.task.TasksAsked)
    if not found.value.matched and session.out.is_for_eyes:
        session.out.note(no_match(session.api, selector))
        return
    if not dry_run:
        session.confirm(f"Ask {counted(found.value.matched, 'device')}: {kind.value}?")
        found = session.api.post("/devices:task", replace(body, dry_run=False), api.task.TasksAsked)

    def show(done: api.task.TasksAsked) -> None:
        session.out.fields((column.header, column.cell(done)) for column in SHEET.columns)
        for one in done.skipped:
            session.out.note(f"{named(one.device, one.display_name)}: {one.reason}")

    session.out.one(found, SHEET, show)
