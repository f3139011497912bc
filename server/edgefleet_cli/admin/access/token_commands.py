"""`edgectl token`: operator tokens. A secret is shown once, when it is made."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from edgefleet_cli.admin.access.grant_options import GROUPS, MODELS, SITES, grants_text
from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Manage operator tokens.", no_args_is_help=True)

SHEET: Sheet[api.access.Token] = Sheet(
    "tokens",
    [
        Column("id", lambda t: text(t.id), keep=True),
        Column("name", lambda t: text(t.name)),
        Column("owner", lambda t: text(t.person)),
        Column("role", lambda t: grants_text(t.scoped, t.roles)),
        Column("created", lambda t: moment(t.created_at)),
        Column("expires", lambda t: moment(t.expires_at) if t.expires_at else "never"),
        Column("last used", lambda t: moment(t.last_used_at)),
        Column("revoked", lambda t: moment(t.revoked_at)),
    ],
    lambda t: text(t.id),
)


Mine = Annotated[
    bool, typer.Option("--mine", help="Of your own: at most what you have; it ends with the token that made it.")
]


@app.command("list")
def list_tokens(ctx: typer.Context, mine: Mine = False) -> None:
    """List tokens, without their secrets; with --mine your own in force."""
    session = Session.of(ctx)
    if mine:
        session.out.items(session.api.pages("/own-tokens", api.access.Token), SHEET)
        return
    session.out.items(session.api.pages("/tokens", api.access.Token), SHEET)


@app.command("create")
def create(  # noqa: PLR0913, PLR0917 - the flags of the command
    ctx: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Who or what it is for.")],
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role", help="viewer, operator, publisher, approver or admin; repeatable. With --mine: all that you have."
        ),
    ] = None,
    ttl: Annotated[str | None, typer.Option("--ttl", help="How long it is valid, e.g. 30d; default: 90d.")] = None,
    person: Annotated[
        str,
        typer.Option(
            "--person",
            help="Person or service it belongs to; default: the one with its name.",
            autocompletion=completion.people,
        ),
    ] = "",
    never: Annotated[bool, typer.Option("--never", help="It does not expire; for services only.")] = False,
    model: MODELS = None,
    group: GROUPS = None,
    site: SITES = None,
    mine: Mine = False,
) -> None:
    """Create a token and print it. It is shown only once. With --model, --group or --site its roles are good only there."""
    from edgefleet_cli.core.structs import UNSET

    _check_options(mine=mine, is_for_others=bool(person or never), has_role=bool(role))
    session = Session.of(ctx)
    end = None if ttl is None else session.clock.now() + timedelta(seconds=parse_duration_s(ttl))
    expires_at = UNSET if end is None else end.isoformat()
    roles, models, groups, sites = (tuple(one or ()) for one in (role, model, group, site))
    if mine:
        own = api.access.OwnTokenIn(
            name=name, roles=roles, models=models, groups=groups, sites=sites, expires_at=expires_at
        )
        reply = session.api.post("/own-tokens", own, api.access.NewToken)
    else:
        body = api.access.TokenIn(
            name=name,
            roles=roles,
            models=models,
            groups=groups,
            sites=sites,
            expires_at=expires_at,
            person=person,
            never_expires=never,
        )
        reply = session.api.post("/tokens", body, api.access.NewToken)
    made = reply.value
    session.out.one(Reply(reply.raw, api.access.Token), SHEET, lambda _: session.out.line(made.token))
    if session.out.is_for_eyes:
        until = f"until {moment(made.expires_at)}" if made.expires_at else "without an end"
        granted = grants_text(made.scoped, made.roles)
        note = (
            f"token {made.id} of {text(made.person)}, role {granted}, valid {until}: save it now, it is not shown again"
        )
        session.out.note(note)


def _check_options(*, mine: bool, is_for_others: bool, has_role: bool) -> None:
    """Raise UsageError for options that do not go together."""
    if mine and is_for_others:
        raise UsageError(
            "--mine goes with neither --person nor --never",
            why="a token of your own is yours, and ends",
            next_step="leave them out, or ask an admin",
        )
    if not has_role and not mine:
        raise UsageError("which role?", why="a token needs at least one", next_step="give --role, or --mine")


@app.command("revoke")
def revoke(
    ctx: typer.Context,
    token_id: Annotated[str, typer.Argument(metavar="ID", autocompletion=completion.tokens)],
    mine: Mine = False,
) -> None:
    """Revoke a token at once, and those that its person made with it."""
    session = Session.of(ctx)
    session.confirm(f"Revoke token {token_id}?")
    session.api.delete(f"/{'own-' if mine else ''}tokens/{part(token_id)}")
    session.out.note(f"revoked {token_id}")
