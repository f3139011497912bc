"""`edgectl alert contact`: where messages about alerts go. A URL is never shown again."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import CliError, UsageError
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.structs import UNSET
from edgefleet_cli.core.transport.request import NOTHING, part
from edgefleet_cli.render.format import duration, moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Manage contact points: mail, Slack, Teams, PagerDuty, ntfy and others.", no_args_is_help=True)
ContactId = Annotated[str, typer.Argument(metavar="ID", autocompletion=completion.contacts)]

SHEET: Sheet[api.alert.Contact] = Sheet(
    "contact points",
    [
        Column("id", lambda c: text(c.id), keep=True),
        Column("name", lambda c: text(c.name)),
        Column("service", lambda c: text(c.service)),
        Column("address", lambda c: text(c.shown)),
        Column("from", lambda c: text(c.severity)),
        Column("devices", lambda c: text(c.selector or "all")),
        Column("again", lambda c: duration(c.repeat_s) if c.repeat_s else "never", wide=True),
        Column("pending", lambda c: text(c.pending), right=True),
        Column("dead", lambda c: text(c.dead), right=True),
        Column("created", lambda c: moment(c.created_at), wide=True),
        Column("by", lambda c: text(c.created_by), wide=True),
    ],
    lambda c: text(c.id),
)
DELIVERIES: Sheet[api.alert.ContactDelivery] = Sheet(
    "messages",
    [
        Column("id", lambda d: text(d.id), right=True, keep=True),
        Column("created", lambda d: moment(d.created_at)),
        Column("state", lambda d: text(d.state)),
        Column("tries", lambda d: text(d.attempts_made), right=True),
        Column("subject", lambda d: text(d.subject)),
        Column("error", lambda d: text(d.error)),
        Column("next", lambda d: moment(d.next_at), wide=True),
    ],
    lambda d: text(d.id),
)
_REPEAT = "Send a critical alert that nobody acknowledged again after so long, e.g. 4h; 0: never."
_LOOK_S = 0.3
_TEST_S = 30.0


@app.command("create")
def create(  # a contact point is all of these
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who or what it is.")],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="URL of Apprise, e.g. mailtos://USER:PASSWORD@HOST?to=ops@example.org; `-`: read it from stdin.",
        ),
    ],
    severity: Annotated[
        str, typer.Option("--severity", help="The least that is sent: critical, warning or info.")
    ] = "warning",
    selector: Annotated[str, completion.selector_option("Only alerts about devices that match")] = "",
    resolved: Annotated[bool, typer.Option("--resolved/--no-resolved", help="Also when alerts end.")] = True,
    repeat: Annotated[str | None, typer.Option("--repeat", help=_REPEAT)] = None,
) -> None:
    """Send messages about alerts from now on. The URL is never shown again."""
    session = Session.of(ctx)
    body = api.alert.ContactIn(
        name=name, url=sys.stdin.read().strip() if url == "-" else url, severity=severity, selector=selector,
        sends_resolved=resolved, repeat_s=UNSET if repeat is None else int(parse_duration_s(repeat)),
    )  # fmt: skip
    session.out.one(session.api.post("/contact-points", body, api.alert.Contact), SHEET)


@app.command("set")
def set_contact(  # noqa: PLR0913, PLR0917  # one option for each thing that can be changed
    ctx: typer.Context,
    contact_id: ContactId,
    name: Annotated[str | None, typer.Option("--name", help="Who or what it is.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="Another URL of Apprise; `-`: read it from stdin.")] = None,
    severity: Annotated[
        str | None, typer.Option("--severity", help="The least that is sent: critical, warning or info.")
    ] = None,
    selector: Annotated[
        str | None, completion.selector_option('Only alerts about devices that match; "" for all')
    ] = None,
    resolved: Annotated[bool | None, typer.Option("--resolved/--no-resolved", help="Also when alerts end.")] = None,
    repeat: Annotated[str | None, typer.Option("--repeat", help=_REPEAT)] = None,
) -> None:
    """Change a contact point; what is not given stays. Its messages and their log stay too."""
    if all(one is None for one in (name, url, severity, selector, resolved, repeat)):
        raise UsageError(
            "nothing to change", next_step=f"`edgectl alert contact set {contact_id} --severity critical`, or --url"
        )
    session = Session.of(ctx)
    body = api.alert.ContactChangeIn(
        name=UNSET if name is None else name,
        url=UNSET if url is None else sys.stdin.read().strip() if url == "-" else url,
        severity=UNSET if severity is None else severity,
        selector=UNSET if selector is None else selector,
        sends_resolved=UNSET if resolved is None else resolved,
        repeat_s=UNSET if repeat is None else int(parse_duration_s(repeat)),
    )
    session.out.one(session.api.patch(f"/contact-points/{part(contact_id)}", body, api.alert.Contact), SHEET)


@app.command("list")
def list_contacts(ctx: typer.Context) -> None:
    """List contact points, with pending and dead messages."""
    session = Session.of(ctx)
    session.out.items(session.api.page("/contact-points", api.alert.Contact), SHEET)


@app.command("delete")
def delete(ctx: typer.Context, contact_id: ContactId) -> None:
    """Delete a contact point with its messages."""
    session = Session.of(ctx)
    session.confirm(f"Delete contact point {contact_id} and its messages?")
    session.api.delete(f"/contact-points/{part(contact_id)}")
    session.out.note(f"deleted {contact_id}")


@app.command("deliveries")
def deliveries(
    ctx: typer.Context,
    contact_id: ContactId,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 50,
) -> None:
    """List messages to a contact point, newest first."""
    session = Session.of(ctx)
    path = f"/contact-points/{part(contact_id)}/deliveries"
    session.out.items(session.api.pages(path, api.alert.ContactDelivery, limit=limit), DELIVERIES)


@app.command("test")
def test(ctx: typer.Context, contact_id: ContactId) -> None:
    """Send a test message and wait until the service took it."""
    session = Session.of(ctx)
    path = f"/contact-points/{part(contact_id)}"
    made = session.api.post(f"{path}:test", NOTHING, api.alert.ContactDelivery).value
    end_s = session.clock.monotonic_s() + (session.options.timeout_s or _TEST_S)
    found = made
    while not found.attempts_made and session.clock.monotonic_s() < end_s:
        session.clock.sleep(_LOOK_S)
        newest = session.api.page(f"{path}/deliveries", api.alert.ContactDelivery, limit=20)
        found = next((one for one in newest if one.id == made.id), made)
    if found.state != "delivered":
        raise CliError(
            "the service did not take the message",
            why=found.error or "nothing was sent yet: no server process with the role `engine` runs",
            next_step="correct the contact point, or its service; the server tries again for a day",
        )
    session.out.note(f"the service took the message {found.subject!r}")
