"""`edgectl login`, `whoami`, `logout`: who this user is, at which server."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from edgefleet_cli.admin.access.grant_options import grants_text
from edgefleet_cli.core.contexts import Context
from edgefleet_cli.core.errors import NotLoggedInError, UsageError
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

if TYPE_CHECKING:
    from edgefleet_cli.core.api.access import WhoAmI

WHOAMI: Sheet[WhoAmI] = Sheet(
    "identities",
    [
        Column("name", lambda who: text(who.name)),
        Column("id", lambda who: text(who.id)),
        Column("roles", lambda who: grants_text(who.scoped, who.roles)),
        Column("limits", lambda who: text("" if who.limits is None else grants_text(who.limits))),
        Column("tenant", lambda who: text(who.tenant)),
        Column("kind", lambda who: text(who.kind)),
        Column("expires", lambda who: moment(who.expires_at) if who.expires_at else "never"),
    ],
    lambda who: text(who.name),
)


def login(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the server, e.g. http://127.0.0.1:8080.")],
    token_stdin: Annotated[bool, typer.Option("--token-stdin", help="Read the token from standard input.")] = False,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Read it from a file.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the saved context; default: the host.")] = None,
    ca: Annotated[Path | None, typer.Option("--ca", help="CA certificate of the server's TLS.")] = None,
) -> None:
    """Log in to a server and make it the current context. Jobs of GitHub Actions and GitLab CI need no token."""
    from edgefleet_cli.core.api.access import WhoAmI
    from edgefleet_cli.core.transport.api_client import ApiClient

    session = Session.of(ctx)
    server = server_url(url)
    source = None if token_stdin or token_file or session.options.token else session.job_token()
    token = None if source is not None else _read_token(session, token_file, token_stdin=token_stdin)
    ca_file = None if ca is None else str(ca.resolve())
    with ApiClient(server, token, ca_file=ca_file, request_timeout_s=session.options.timeout_s, source=source) as api:
        who = api.get("/whoami", WhoAmI)
    if source is not None and not source.is_renewable:
        token = source.token  # its ID token works once, so the commands after this one use what it got
    saved = Context(name or urlsplit(server).netloc, server, token, ca_file)
    session.contexts.put(saved, make_current=True)
    session.out.note(f"saved as context {saved.name} in {session.contexts.path}")
    _show(session, who, server)


def whoami(ctx: typer.Context) -> None:
    """Show the name and the roles of the current token."""
    from edgefleet_cli.core.api.access import WhoAmI

    session = Session.of(ctx)
    _show(session, session.api.get("/whoami", WhoAmI), session.server)


def logout(ctx: typer.Context) -> None:
    """Remove the token of the current context; it stays valid at the server until it is revoked."""
    session = Session.of(ctx)
    context = session.context
    if context is None:
        raise UsageError(
            "there is no context to log out of", why="none is saved", next_step="run `edgectl context list`"
        )
    session.contexts.put(Context(context.name, context.server, None, context.ca_file), make_current=False)
    session.out.note(f"removed the token of {context.name}; `edgectl token revoke ID` revokes it at the server")


def server_url(given: str) -> str:
    """Return a base URL; `host:port` alone means http on loopback and https elsewhere. Raises UsageError."""
    if "://" not in given:
        host = given.split("/", 1)[0].rsplit(":", 1)[0]
        given = f"{'http' if host in {'localhost', '127.0.0.1', '[::1]'} else 'https'}://{given}"
    parts = urlsplit(given)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise UsageError(
            f"{given!r} is not the address of a server",
            why="expected http:// or https:// and a host",
            next_step="e.g. `edgectl login http://127.0.0.1:8080`",
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _read_token(session: Session, token_file: Path | None, *, token_stdin: bool) -> str:
    if token_file is not None:
        token = _token_in(token_file)
    elif token_stdin:
        token = sys.stdin.readline().strip()
    elif session.options.token:
        token = session.options.token
    elif session.may_ask:
        token = getpass.getpass("Token: ").strip()
    else:
        token = ""
    if not token:
        raise NotLoggedInError(
            "no token was given",
            why="standard input held none" if token_stdin else "there is no --token and no terminal to ask on",
            next_step="name its file: `edgectl login URL --token-file admin.token` (the server's first one is in its data folder)",
        )
    return token


def _token_in(file: Path) -> str:
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = str(error)
    else:
        if token:
            return token
        why = "it is empty"
    raise UsageError(f"no token can be read from {file}", why=why, next_step="name the file that holds one")


def _show(session: Session, who: Reply[WhoAmI], server: str) -> None:
    def for_eyes(me: WhoAmI) -> None:
        pairs = [(column.header, column.cell(me)) for column in WHOAMI.columns]
        session.out.fields([*pairs, ("server", server)])

    session.out.one(who, WHOAMI, for_eyes)
