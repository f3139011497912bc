"""`edgectl dashboard`: a link that signs a browser in at the server's web page."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import Struct
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import NOTHING
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet


class Link(Struct, frozen=True):
    """A link that signs a browser in. url: the whole address."""

    url: str = ""
    expires_at: str = ""


LINKS: Sheet[Link] = Sheet(
    "links",
    [Column("url", lambda link: text(link.url), keep=True), Column("expires", lambda link: moment(link.expires_at))],
    lambda link: text(link.url),
)


def dashboard(
    ctx: typer.Context,
    open_browser: Annotated[bool, typer.Option("--open", help="Open it in a browser on this machine.")] = False,
) -> None:
    """Print a one-time sign-in link to the pages."""
    session = Session.of(ctx)
    link = session.api.post("/login-links", NOTHING, api.access.LoginLink)
    # the server may know better: in a container, this program reaches it at an address that no browser has
    url = link.value.url or session.server + link.value.url_path
    made = Reply({**link.raw, "url": url}, Link)
    session.out.one(made, LINKS, lambda entry: session.out.line(entry.url))
    if session.out.is_for_eyes:
        session.out.note("it works once within 10 minutes and signs the browser in for 12 hours")
    if open_browser:
        _open(session, url)


def _open(session: Session, url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        session.out.note("no browser could be started here: open the link yourself")
