"""`edgectl key`: who may sign what, and what devices trust. Keys are made and changed where they lie, on the server."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgefleet_cli.core import completion
from edgefleet_cli.core.session import Session
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Signing keys: which role signs what, by which keys, and until when.", no_args_is_help=True)

Json = dict[str, Any]
_SHOWN_KEY = 12

KEYS = Sheet(
    "roles; `edgectl server init` makes them",
    [
        Column("role", lambda r: text(r.get("name")), keep=True),
        Column("version", lambda r: text(r.get("version")), right=True),
        Column("until", lambda r: moment(r.get("expires")), keep=True),
        Column("signed anew", lambda r: moment(r.get("resign_at")) if r.get("resign_at") else "by hand", spare=2),
        Column("must sign", lambda r: f"{r.get('threshold')} of {len(r.get('keys') or [])}", spare=1),
        Column("keys", lambda r: ", ".join(text(key)[:_SHOWN_KEY] for key in r.get("keys") or []) or "-"),
        Column("signed", lambda r: moment(r.get("signed_at")), wide=True),
        Column("bundles", lambda r: text(r.get("targets")), wide=True, right=True),
        Column("says", lambda r: text(r.get("purpose")), wide=True),
    ],
    lambda r: text(r.get("name")),
)
_CERTIFICATES = [
    Column("certificates of", lambda c: text(c.get("kind")), keep=True),
    Column("valid", lambda c: text(c.get("valid")), right=True),
    Column("first ends", lambda c: moment(c.get("next_end"))),
    Column("revoked", lambda c: text(c.get("revoked")), right=True),
    Column("over", lambda c: text(c.get("ended")), right=True),
]


@app.command("list")
def list_keys(ctx: typer.Context) -> None:
    """List the roles of the trust repository: which keys may sign each, and until when it is valid."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/keys"), KEYS)


@app.command("show")
def show(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="e.g. root, m.digits.", autocompletion=completion.keys)],
) -> None:
    """Show one role, its key ids in full."""
    from edgefleet_cli.core.api_client import part

    session = Session.of(ctx)
    session.out.one(session.api.get(f"/keys/{part(role)}"), KEYS, lambda one: _show(session, one))


def _show(session: Session, role: Json) -> None:
    session.out.fields(
        [
            ("role", text(role.get("name"))),
            ("says", text(role.get("purpose"))),
            ("version", text(role.get("version"))),
            ("signed", moment(role.get("signed_at"))),
            ("until", moment(role.get("expires"))),
            ("signed anew", moment(role.get("resign_at")) if role.get("resign_at") else "by hand, with the root key"),
            ("must sign", f"{role.get('threshold')} of {len(role.get('keys') or [])}"),
            ("bundles", text(role.get("targets"))),
            *(("key", text(key)) for key in role.get("keys") or []),
        ]
    )


@app.command("trust")
def trust(ctx: typer.Context) -> None:
    """Show the CA of the devices, the certificates that it issued, and whether the root key lies on the server."""
    session = Session.of(ctx)
    found = session.api.get("/trust")
    session.out.facts(found, lambda: _show_trust(session, found))


def _show_trust(session: Session, found: Json) -> None:
    authority = found.get("authority") or {}
    session.out.fields(
        [
            ("device CA", text(authority.get("subject"))),
            ("sha256", text(authority.get("sha256"))),
            ("until", moment(authority.get("not_after"))),
            ("root key here", text(found.get("is_root_here"))),
        ]
    )
    if found.get("certificates"):
        session.out.heading("Certificates")
        session.out.table(found["certificates"], _CERTIFICATES)
    if found.get("is_root_here"):
        session.out.note(
            "the root key and its passphrase both lie on the server: copy them to offline media (keys/README.txt)"
        )
