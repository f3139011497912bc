"""`edgectl key`: who may sign what, what devices trust, and new keys. Private keys stay where they lie, on the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import UsageError
from edgefleet_cli.core.files import read_text, write_whole
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.request import part
from edgefleet_cli.keys import device_ca_commands
from edgefleet_cli.keys.ceremony_commands import add_ceremony_commands
from edgefleet_cli.keys.team_commands import team
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Show which keys sign what, and until when.", no_args_is_help=True)
_SHOWN_KEY = 12

RoleName = Annotated[
    str, typer.Argument(metavar="ROLE", help="e.g. director, m.digits.", autocompletion=completion.keys)
]
Algorithm = Annotated[
    str,
    typer.Option("--algorithm", metavar="NAME", help="ed25519 or ecdsa-p256; default: ed25519.", show_default=False),
]
Uri = Annotated[str, typer.Option("--uri", metavar="URI", help="A key that is elsewhere: hsm:…, hv:…, awskms:…, …")]
PublicKey = Annotated[
    Path | None, typer.Option("--public-key", metavar="FILE", help="Public key of the key at --uri, PEM.")
]
_ACTIVE = "active"
_FOLLOW_S = 600.0
_LOOK_S = 1.0
_MAX_PEM = 4000
_LONG = {"ed25519": "ed25519", "ecdsa-p256": "ecdsa-sha2-nistp256"}
_SHORT = {"ecdsa-sha2-nistp256": "ecdsa-p256"}


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
        Column("algorithm", lambda r: _each(r, lambda k: _SHORT.get(k.algorithm, text(k.algorithm))), spare=2),
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


@app.command("rotate")
def rotate(
    ctx: typer.Context,
    role: RoleName,
    algorithm: Algorithm = "",
    uri: Uri = "",
    public_key: PublicKey = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until all documents are signed by a new director key.")
    ] = True,
) -> None:
    """Give a role a new key; what the old ones sign from now on is refused. Devices follow by themselves."""
    session = Session.of(ctx)
    body = api.key.RotateKeyIn(**_key_wanted(algorithm, uri, public_key))
    done = session.api.post(f"/keys/{part(role)}:rotate", body, api.key.KeysRotated)
    session.out.document(done.raw, lambda: _show_rotated(session, done.value))
    if wait and _has_director(done.value):
        _follow(session)


@app.command("revoke")
def revoke(
    ctx: typer.Context,
    role: RoleName,
    key: Annotated[
        str, typer.Option("--key", metavar="KEY", help="Only this key, e.g. a retired one; its id in full.")
    ] = "",
    algorithm: Algorithm = "",
    uri: Uri = "",
    public_key: PublicKey = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until all documents are signed by a new director key.")
    ] = True,
) -> None:
    """Replace keys of a role that may be stolen, for good: nothing is signed with them again, and their files are deleted."""
    session = Session.of(ctx)
    session.confirm(f"Revoke {'the key ' + key[:_SHOWN_KEY] if key else 'the keys that sign'} of {role} for good?")
    wanted = _key_wanted(algorithm, uri, public_key) | ({"keyid": key} if key else {})
    body = api.key.RevokeKeyIn(**wanted)
    done = session.api.post(f"/keys/{part(role)}:revoke", body, api.key.KeysRotated)
    session.out.document(done.raw, lambda: _show_rotated(session, done.value))
    if wait and _has_director(done.value):
        _follow(session)


@app.command("progress")
def progress(ctx: typer.Context) -> None:
    """Show how many documents of devices the director's newest key has signed."""
    session = Session.of(ctx)
    found = session.api.get("/signing-progress", api.key.SigningProgress)
    session.out.facts(found.raw, lambda: session.out.line(_progress(found.value)))


def _key_wanted(algorithm: str, uri: str, public_key: Path | None) -> dict[str, Any]:
    """Return the fields of the new key. Raises UsageError."""
    if bool(uri) != (public_key is not None):
        raise UsageError(
            "--uri and --public-key belong together",
            why="the server verifies with the public key that the place signs with the right private one",
            next_step="give both, or neither: then the server makes a key",
        )
    algorithm = _SHORT.get(algorithm, algorithm)
    if algorithm and algorithm not in _LONG:
        raise UsageError(
            f"there is no algorithm {algorithm!r}", why="devices verify two", next_step=f"give {' or '.join(_LONG)}"
        )
    found: dict[str, Any] = {"algorithm": _LONG[algorithm]} if algorithm else {}
    if public_key is not None:
        found |= {"uri": uri, "public_key": read_text(public_key, _MAX_PEM)}
    return found


def _has_director(done: api.key.KeysRotated) -> bool:
    return any(one.role == "director" for one in done.roles)


def _show_rotated(session: Session, done: api.key.KeysRotated) -> None:
    for one in done.roles:
        before = ", ".join(key[:_SHOWN_KEY] for key in one.before)
        session.out.line(f"{text(one.role)}: {one.keyid[:_SHOWN_KEY]} signs from now on, {before} no longer")
    if done.root_version is not None:
        session.out.line(f"root version {done.root_version} says so; keep the new copy of the database with the keys")
    for key in done.revoked:
        session.out.line(f"revoked: {key[:_SHOWN_KEY]}")


def _progress(found: api.key.SigningProgress) -> str:
    done = found.documents - found.waiting
    return f"{done:,} of {found.documents:,} documents are signed with {found.keyid[:_SHOWN_KEY]}"


def _follow(session: Session) -> None:
    """Show how the documents of devices are signed again. The server goes on when this ends."""
    if not session.out.is_for_eyes:
        return
    end_s = session.clock.monotonic_s() + (session.options.timeout_s or _FOLLOW_S)
    shown = -1
    while True:
        found = session.api.get("/signing-progress", api.key.SigningProgress).value
        if found.waiting != shown:
            session.out.note(_progress(found))
            shown = found.waiting
        if not shown or session.clock.monotonic_s() >= end_s:
            break
        session.clock.sleep(_LOOK_S)
    if shown:
        session.out.note("the server goes on by itself: `edgectl key progress`")


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
            ("first root", text(found.first_root_sha256)),
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
app.command("team")(team)
app.add_typer(device_ca_commands.app, name="device-ca")
