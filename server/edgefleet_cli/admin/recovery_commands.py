"""`edgectl server restored`: an operator says that a server runs on an older copy, after seeing what its devices say."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api
from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column

_ROLES: list[Column[api.key.RoleChange]] = [
    Column("role", lambda r: text(r.name), keep=True),
    Column("version", lambda r: text(r.version), right=True),
    Column("becomes at least", lambda r: text(r.becomes), right=True),
]
_MODELS: list[Column[api.key.RecoveryModel]] = [
    Column("model", lambda m: text(m.model), keep=True),
    Column("devices", lambda m: text(m.devices), right=True),
    Column("named by", lambda m: ", ".join(m.named_by) + (", …" if m.devices > len(m.named_by) else "")),
]
_WORDS: list[Column[api.key.RecoveryWord]] = [
    Column("device", lambda w: text(w.device), keep=True),
    Column("has seen version", lambda w: text(w.version or "-"), right=True),
    Column("unknown models", lambda w: text(w.roles), right=True),
    Column("said", lambda w: moment(w.said_at)),
    Column("asked", lambda w: moment(w.asked_at) if w.asked_at else "by itself"),
]
_SHOWN = 20

Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="MODEL", help="Also make the role of this lost model again, for good; repeatable."),
]


def restored(ctx: typer.Context, models: Models = None) -> None:
    """Show what devices have seen that this server lacks. With --yes, sign all metadata again: the server was restored."""
    session = Session.of(ctx)
    found = session.api.get("/recovery", api.key.Recovery)
    view, chosen = found.value, tuple(models or ())
    is_signed = session.options.yes and bool(view.roles or chosen)
    if session.out.is_for_eyes or not is_signed:
        session.out.facts(found.raw, lambda: _show(session, view))
    if is_signed:
        body = api.key.RecoveryIn(version=view.version, models=chosen)
        done = session.api.post("/recovery:sign", body, api.key.RecoveryDone)
        session.out.facts(done.raw, lambda: _show_done(session, done.value))
    elif not session.options.yes:
        session.out.note("nothing was signed; if this server was restored from an older copy, add --yes")


def _show(session: Session, view: api.key.Recovery) -> None:
    if not view.words:
        session.out.line("no device has seen newer metadata than this server has")
    if view.words:
        session.out.heading("Devices that have seen newer metadata")
        session.out.table(view.words[:_SHOWN], _WORDS)
        if len(view.words) > _SHOWN:
            session.out.line(f"and {len(view.words) - _SHOWN} more")
    if view.roles:
        session.out.heading(f"Roles to sign above version {view.version}")
        session.out.table(view.roles, _ROLES)
    else:
        session.out.line("this server's metadata is ahead of its clock and of all devices: there is nothing to sign")
    if view.models:
        session.out.heading("Models that devices know and this server does not")
        session.out.table(view.models, _MODELS)
        session.out.line("publish a lost model again, or name it with --model; a role that is made stays for good")
    if view.lost_models:
        session.out.line(f"to be published again: {', '.join(view.lost_models)}")


def _show_done(session: Session, done: api.key.RecoveryDone) -> None:
    if done.everything:
        session.out.line(f"signed all roles above version {done.version}")
    if done.models:
        session.out.line(f"made the roles of {', '.join(done.models)} again: publish these models")
