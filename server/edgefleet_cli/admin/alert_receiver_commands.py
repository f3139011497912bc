"""`edgectl alert-receiver`: let a monitoring system pause or roll back rollouts. Its URL is shown once, when it is made."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Let Alertmanager pause or roll back rollouts.", no_args_is_help=True)

SHEET: Sheet[api.alert.Receiver] = Sheet(
    "alert receivers",
    [
        Column("id", lambda r: text(r.id), keep=True),
        Column("name", lambda r: text(r.name)),
        Column("action", lambda r: text(r.action)),
        Column("matchers", lambda r: text(", ".join(r.matchers))),
        Column("model", lambda r: text(r.model)),
        Column("last used", lambda r: moment(r.last_used_at)),
        Column("created", lambda r: moment(r.created_at), wide=True),
    ],
    lambda r: text(r.id),
)


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="Which monitoring system it is for.")
    ] = "",
    old_name: Annotated[str, typer.Option("--name", hidden=True)] = "",
    action: Annotated[str, typer.Option("--action", help="What a firing alert does: pause or rollback.")] = "pause",
    match: Annotated[
        list[str] | None,
        typer.Option(
            "--match", help="A matcher as in Alertmanager, e.g. severity=critical; all must hold. Repeatable."
        ),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Matched alerts are about this model's rollouts.")] = "",
) -> None:
    """Create a receiver and print its URL for `webhook_configs`. It is shown only once.

    Alerts with the label edgefleet_rollout (id or name) need no --match.
    """
    if bool(name) == bool(old_name):
        raise UsageError("give one NAME", next_step="`edgectl alert-receiver create prod`")
    session = Session.of(ctx)
    body = api.alert.ReceiverIn(name=name or old_name, action=action, matchers=tuple(match or ()), model=model)
    made = session.api.post("/alert-receivers", body, api.alert.NewReceiver)
    session.out.document(made.raw, lambda: session.out.line(f"{session.server}{made.value.url_path}"))
    if session.out.is_for_eyes:
        session.out.note("save this URL now and keep it secret: it can stop rollouts, and it is not shown again")


@app.command("list")
def list_receivers(ctx: typer.Context) -> None:
    """List receivers, without their URLs."""
    session = Session.of(ctx)
    session.out.items(session.api.page("/alert-receivers", api.alert.Receiver), SHEET)


@app.command("delete")
def delete(
    ctx: typer.Context, receiver_id: Annotated[str, typer.Argument(metavar="ID", autocompletion=completion.receivers)]
) -> None:
    """Delete a receiver; its URL stops working at once."""
    session = Session.of(ctx)
    session.confirm(f"Delete alert receiver {receiver_id}?")
    session.api.delete(f"/alert-receivers/{part(receiver_id)}")
    session.out.note(f"deleted {receiver_id}")
