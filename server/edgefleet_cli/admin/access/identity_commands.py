"""`edgectl identity`: who signed in by an identity provider, and which person that is."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import NOTHING, part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Say which person an identity at an identity provider is.", no_args_is_help=True)
Own = Annotated[
    str, typer.Argument(metavar="ID", help="Id of the identity (`i-…`).", autocompletion=completion.identities)
]

SHEET: Sheet[api.access.Identity] = Sheet(
    "identities; they come when somebody signs in by an identity provider of server.toml",
    [
        Column("id", lambda i: text(i.id), keep=True),
        Column("provider", lambda i: text(i.provider)),
        Column("called there", lambda i: text(i.name)),
        Column("person", lambda i: text(i.person or "waits")),
        Column("last seen", lambda i: moment(i.last_seen_at)),
        Column("email", lambda i: text(i.email), wide=True),
        Column("subject", lambda i: text(i.subject), wide=True),
        Column("issuer", lambda i: text(i.issuer), wide=True),
        Column("first seen", lambda i: moment(i.first_seen_at), wide=True),
    ],
    lambda i: text(i.id),
)


@app.command("list")
def list_identities(ctx: typer.Context) -> None:
    """List who signed in by an identity provider, or waits to."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/identities", api.access.Identity), SHEET)


@app.command("show")
def show(ctx: typer.Context, identity: Own) -> None:
    """Show an identity."""
    session = Session.of(ctx)
    session.out.one(session.api.get(f"/identities/{part(identity)}", api.access.Identity), SHEET)


@app.command("link")
def link(
    ctx: typer.Context,
    identity: Own,
    person: Annotated[
        str,
        typer.Option(
            "--person", metavar="NAME", help="Name or id; default: a new person.", autocompletion=completion.people
        ),
    ] = "",
) -> None:
    """Say which person an identity is: it signs in as that person. Compare issuer and subject first; anybody may choose the name."""
    session = Session.of(ctx)
    body = api.access.IdentityLinkIn(person=person)
    session.out.one(session.api.post(f"/identities/{part(identity)}:link", body, api.access.Identity), SHEET)


@app.command("unlink")
def unlink(ctx: typer.Context, identity: Own) -> None:
    """Sign an identity out at once; it waits until it is linked again."""
    session = Session.of(ctx)
    session.confirm(f"Sign out {identity} and let it wait?")
    session.out.one(session.api.post(f"/identities/{part(identity)}:unlink", NOTHING, api.access.Identity), SHEET)
