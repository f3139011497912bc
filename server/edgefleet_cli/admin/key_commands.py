"""`edgectl key`: who may sign what, and what devices trust. Keys are made and changed where they lie, on the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.files import write_whole
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.keys.ceremony_commands import add_ceremony_commands
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Show which keys sign what, and until when.", no_args_is_help=True)
_SHOWN_KEY = 12

_ACTIVE = "active"
_ALGORITHMS = {"ecdsa-sha2-nistp256": "ecdsa-p256"}


def _each(role: api.key.Role, told: Callable[[api.key.Key], str]) -> str:
    """Return a word for each key that may sign, once when all are the same."""
    return ", ".join(dict.fromkeys(told(one) for one in role.key_details if one.state == _ACTIVE)) or "-"


def _states(role: api.key.Role) -> str:
    """Return how many keys are in each state; just the state where one key is all there is."""
    found = Counter(one.state for one in role.key_details)
    return ", ".join(text(state) if n == 1 else f"{n} {text(state)}" for state, n in found.items()) or "-"


KEYS: Sheet[api.key.Role] = Sheet(
    "roles; `edgectl server init` makes them",
    [
        Column("role", lambda r: text(r.name), keep=True),
        Column("keys", lambda r: ", ".join(text(key)[:_SHOWN_KEY] for key in r.keys) or "-"),
        Column("where", lambda r: _each(r, lambda k: text(k.uri).removeprefix("file2:") or "elsewhere")),
        Column("state", _states),
        Column("until", lambda r: moment(r.expires), keep=True),
        Column("algorithm", lambda r: _each(r, lambda k: _ALGORITHMS.get(k.algorithm, text(k.algorithm))), spare=2),
        Column("made", lambda r: _each(r, lambda k: moment(k.made)), spare=3),
        Column("must sign", lambda r: f"{r.threshold} of {len(r.keys)}", spare=1),
        Column("renewed", lambda r: moment(r.resign_at) if r.resign_at else "by hand", spare=4),
        Column("version", lambda r: text(r.version), right=True, spare=5),
        Column("signed", lambda r: moment(r.signed_at), wide=True),
        Column("bundles", lambda r: text(r.targets), wide=True, right=True),
        Column("says", lambda r: text(r.purpose), wide=True),
    ],
    lambda r: text(r.name),
)
_KEYS_OF_ROLE: list[Column[api.key.Key]] = [
    Column("key", lambda k: text(k.keyid)[:_SHOWN_KEY], keep=True),
    Column("state", lambda k: text(k.state), keep=True),
    Column("algorithm", lambda k: text(k.algorithm)),
    Column("where", lambda k: text(k.uri) or "elsewhere"),
    Column("made", lambda k: moment(k.made)),
]
_CERTIFICATES: list[Column[api.key.Certificates]] = [
    Column("certificates of", lambda c: text(c.kind), keep=True),
    Column("valid", lambda c: text(c.valid), right=True),
    Column("first ends", lambda c: moment(c.next_end)),
    Column("revoked", lambda c: text(c.revoked), right=True),
    Column("over", lambda c: text(c.ended), right=True),
]


@app.command("list")
def list_keys(ctx: typer.Context) -> None:
    """List the roles of the trust repository with their keys and expiry."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/keys", api.key.Role), KEYS)


@app.command("show")
def show(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="e.g. root, m.digits.", autocompletion=completion.keys)],
) -> None:
    """Show one role, its key ids in full."""
    session = Session.of(ctx)
    session.out.one(session.api.get(f"/keys/{part(role)}", api.key.Role), KEYS, lambda one: _show(session, one))


def _show(session: Session, role: api.key.Role) -> None:
    session.out.fields(
        [
            ("role", text(role.name)),
            ("says", text(role.purpose)),
            ("version", text(role.version)),
            ("signed", moment(role.signed_at)),
            ("until", moment(role.expires)),
            ("renewed", moment(role.resign_at) if role.resign_at else "by hand, with the root key"),
            ("must sign", f"{role.threshold} of {len(role.keys)}"),
            ("bundles", text(role.targets)),
            *(("key", text(key)) for key in role.keys),
        ]
    )
    if role.key_details:
        session.out.heading("Keys")
        session.out.table(role.key_details, _KEYS_OF_ROLE)


@app.command("export-public")
def export_public(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="e.g. director.", autocompletion=completion.keys)],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the keys there; default: print them.")
    ] = None,
) -> None:
    """Print the public keys of a role that may sign today, PEM."""
    session = Session.of(ctx)
    found = session.api.get(f"/keys/{part(role)}", api.key.Role)
    pem = "".join(one.public for one in found.value.key_details if one.state == _ACTIVE)
    if out is not None:
        write_whole(out, pem.encode())
        session.out.note(f"written to {out}")
        return
    session.out.document(found.raw, lambda: session.out.line(pem.rstrip("\n")))


@app.command("trust")
def trust(ctx: typer.Context) -> None:
    """Show the device CA, the certificates it issued, and whether the root key is on the server."""
    session = Session.of(ctx)
    found = session.api.get("/trust", api.key.Trust)
    session.out.facts(found.raw, lambda: _show_trust(session, found.value))


def _show_trust(session: Session, found: api.key.Trust) -> None:
    authority = found.authority
    session.out.fields(
        [
            ("device CA", text(authority.subject)),
            ("sha256", text(authority.sha256)),
            ("until", moment(authority.not_after)),
            ("root key here", text(found.is_root_here)),
        ]
    )
    if found.certificates:
        session.out.heading("Certificates")
        session.out.table(found.certificates, _CERTIFICATES)
    if found.is_root_here:
        session.out.note(
            "the root key and its passphrase both lie on the server: copy them to offline media (keys/README.txt)"
        )


add_ceremony_commands(app)
