"""`edgectl person`: people and services, to whom tokens belong."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from edgefleet_cli.admin.access.grant_options import GROUPS, MODELS, SITES, grants_text
from edgefleet_cli.core import api, completion
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Manage people and services, to whom tokens belong.", no_args_is_help=True)
Who = Annotated[str, typer.Argument(metavar="NAME", help="Name or id.", autocompletion=completion.people)]
Role = Annotated[str, typer.Argument(metavar="ROLE", help="viewer, operator, publisher, approver, auditor or admin.")]

_PASSWORD = {"none": "", "invited": "code waits", "lapsed": "code ended", "open": "yes", "closed": "ended"}


class OneTimeCode(Struct, frozen=True):
    """A one-time code of a person. url: the whole address."""

    person: str = ""
    roles: tuple[str, ...] = ()
    url: str = ""
    expires_at: str = ""


CODES: Sheet[OneTimeCode] = Sheet(
    "codes",
    [Column("url", lambda c: text(c.url), keep=True), Column("expires", lambda c: moment(c.expires_at))],
    lambda c: text(c.url),
)
SHEET: Sheet[api.access.Person] = Sheet(
    "people",
    [
        Column("name", lambda p: text(p.name), keep=True),
        Column("kind", lambda p: text(p.kind)),
        Column("tokens", lambda p: text(p.tokens)),
        Column("password", lambda p: _PASSWORD.get(p.account, text(p.account))),
        Column("grants", lambda p: "as its tokens say" if p.grants is None else grants_text(p.grants)),
        Column("created", lambda p: moment(p.created_at)),
        Column("disabled", lambda p: moment(p.disabled_at)),
        Column("id", lambda p: text(p.id), wide=True),
    ],
    lambda p: text(p.name),
)


@app.command("list")
def list_people(ctx: typer.Context) -> None:
    """List people and services with the number of their tokens in force."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/people", api.access.Person), SHEET)


@app.command("show")
def show(ctx: typer.Context, name: Who) -> None:
    """Show a person or a service, and what limits their tokens."""
    session = Session.of(ctx)
    session.out.one(session.api.get(f"/people/{part(name)}", api.access.Person), SHEET)


@app.command("add")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name that the audit trail and rollouts show.")],
    kind: Annotated[
        str, typer.Option("--kind", help="person or service; a service never approves, and its tokens may have no end.")
    ] = "person",
) -> None:
    """Add a person or a service; `edgectl token create --person NAME` then makes their token."""
    session = Session.of(ctx)
    body = api.access.PersonIn(name=name, kind=kind)
    reply = session.api.post("/people", body, api.access.Person)
    session.out.one(reply, SHEET)


@app.command("invite")
def invite(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Person; added if there is none.", autocompletion=completion.people)
    ],
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role", help="viewer, operator, publisher, approver, auditor or admin; repeatable; default: as before."
        ),
    ] = None,
    ttl: Annotated[str | None, typer.Option("--ttl", help="How long the code works, 7d at most; default: 24h.")] = None,
) -> None:
    """Print a one-time address where a person chooses a password; one of before ends now."""
    from edgefleet_cli.core.structs import UNSET

    session = Session.of(ctx)
    end = None if ttl is None else session.clock.now() + timedelta(seconds=parse_duration_s(ttl))
    body = api.access.InvitationIn(
        person=name, roles=tuple(role or ()), expires_at=UNSET if end is None else end.isoformat()
    )
    made = session.api.post("/invitations", body, api.access.Invitation)
    url = session.server + made.value.url_path
    session.out.one(Reply({"url": url, **made.raw}, OneTimeCode), CODES, lambda entry: session.out.line(entry.url))
    if session.out.is_for_eyes:
        until = moment(made.value.expires_at)
        session.out.note(
            f"give it to {text(made.value.person)} only: the first who opens it until {until} chooses the password"
        )


@app.command("disable")
def disable(ctx: typer.Context, name: Who) -> None:
    """End every token and session of a person or a service, at once and for good."""
    session = Session.of(ctx)
    session.confirm(f"Disable {name} and end all their tokens?")
    _change(session, name, is_disabled=True)


@app.command("enable")
def enable(ctx: typer.Context, name: Who) -> None:
    """Let a person or a service have tokens again; the old ones stay revoked."""
    _change(Session.of(ctx), name, is_disabled=False)


@app.command("grant")
def grant(
    ctx: typer.Context, name: Who, role: Role, model: MODELS = None, group: GROUPS = None, site: SITES = None
) -> None:
    """Grant a role for all of the fleet, or only for models, groups of devices and sites: the grant is good where all of them hold.

    With the first grant, what was granted limits all tokens of the person; what these hold is kept.
    """
    _put(Session.of(ctx), name, "grant", _grant(role, model, group, site))


@app.command("revoke-grant")
def revoke_grant(
    ctx: typer.Context, name: Who, role: Role, model: MODELS = None, group: GROUPS = None, site: SITES = None
) -> None:
    """Take a grant away, from all tokens and browsers of the person at once. Name it as `edgectl person show` does."""
    session = Session.of(ctx)
    session.confirm(f"Revoke the grant {role} of {name}?")
    _put(session, name, "revoke-grant", _grant(role, model, group, site))


def _grant(role: str, model: list[str] | None, group: list[str] | None, site: list[str] | None) -> api.access.GrantIn:
    return api.access.GrantIn(role=role, models=tuple(model or ()), groups=tuple(group or ()), sites=tuple(site or ()))


def _put(session: Session, name: str, verb: str, body: api.access.GrantIn) -> None:
    session.out.one(session.api.post(f"/people/{part(name)}:{verb}", body, api.access.Person), SHEET)


def _change(session: Session, name: str, *, is_disabled: bool) -> None:
    body = api.access.PersonChangeIn(disabled=is_disabled)
    session.out.one(session.api.patch(f"/people/{part(name)}", body, api.access.Person), SHEET)
