"""`edgectl webhook`: send events to other programs. A secret is shown once, when it is made."""

from __future__ import annotations

from typing import Annotated

import typer

from edgefleet_cli.core import api, completion
from edgefleet_cli.core.errors import CliError, UsageError
from edgefleet_cli.core.options import parse_duration_s
from edgefleet_cli.core.session import Session
from edgefleet_cli.core.transport.reply import Reply
from edgefleet_cli.core.transport.request import NOTHING, part
from edgefleet_cli.render.format import moment, text
from edgefleet_cli.render.output import Column, Sheet

app = typer.Typer(help="Send events to other programs as signed CloudEvents.", no_args_is_help=True)
WebhookId = Annotated[str, typer.Argument(metavar="ID", autocompletion=completion.webhooks)]
DeliveryId = Annotated[int, typer.Argument(metavar="DELIVERY", min=1, autocompletion=completion.deliveries)]


def state_of(webhook: api.webhook.Webhook) -> str:
    """Return how a webhook stands, in a word or two."""
    if not webhook.is_enabled:
        return "off"
    held = webhook.held_until
    return f"held until {moment(held)}" if held else "on"


SHEET: Sheet[api.webhook.Webhook] = Sheet(
    "webhooks",
    [
        Column("id", lambda w: text(w.id), keep=True),
        Column("name", lambda w: text(w.name)),
        Column("url", lambda w: text(w.url)),
        Column("types", lambda w: text(",".join(w.types) or "all")),
        Column("state", state_of),
        Column("pending", lambda w: text(w.pending), right=True),
        Column("dead", lambda w: text(w.dead), right=True),
        Column("created", lambda w: moment(w.created_at), wide=True),
    ],
    lambda w: text(w.id),
)
DELIVERIES: Sheet[api.webhook.Delivery] = Sheet(
    "deliveries",
    [
        Column("id", lambda d: text(d.id), right=True, keep=True),
        Column("created", lambda d: moment(d.created_at)),
        Column("type", lambda d: text(d.type)),
        Column("state", lambda d: text(d.state)),
        Column("tries", lambda d: text(d.attempts_made), right=True),
        Column("status", lambda d: text(d.status)),
        Column("next", lambda d: moment(d.next_at), wide=True),
        Column("message", lambda d: text(d.message_id), wide=True),
        Column("error", lambda d: text(d.error)),
    ],
    lambda d: text(d.id),
)
_PENDING = "pending"
_LOOK_S = 0.3
_TEST_S = 30.0


@app.command("create")
def create(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Target URL: https, or what the server's settings allow.")],
    events: Annotated[
        list[str] | None,
        typer.Option("--events", help="Only these types, e.g. edgefleet.rollout.*; repeatable; default: all types."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Who or what it is for.")] = "",
) -> None:
    """Send events to a URL from now on, and print the signing secret. It is shown only once."""
    session = Session.of(ctx)
    types = tuple(one.strip() for given in events or [] for one in given.split(",") if one.strip())
    _show_secret(
        session,
        session.api.post("/webhooks", api.webhook.WebhookIn(url=url, types=types, name=name), api.webhook.NewSecret),
    )


@app.command("list")
def list_webhooks(ctx: typer.Context) -> None:
    """List webhooks with pending and dead deliveries."""
    session = Session.of(ctx)
    session.out.items(session.api.pages("/webhooks", api.webhook.Webhook), SHEET)


@app.command("show")
def show(ctx: typer.Context, webhook_id: WebhookId) -> None:
    """Show one webhook."""
    session = Session.of(ctx)
    session.out.one(session.api.get(_path(webhook_id), api.webhook.Webhook), SHEET, lambda found: _show(session, found))


@app.command("delete")
def delete(ctx: typer.Context, webhook_id: WebhookId) -> None:
    """Delete a webhook and its delivery log."""
    session = Session.of(ctx)
    session.confirm(f"Delete webhook {webhook_id} and its log?")
    session.api.delete(_path(webhook_id))
    session.out.note(f"deleted {webhook_id}")


@app.command("rotate")
def rotate(
    ctx: typer.Context,
    webhook_id: WebhookId,
    overlap: Annotated[
        str, typer.Option("--overlap", help="How long the old secret stays valid as well, e.g. 24h; 0s: not at all.")
    ] = "24h",
) -> None:
    """Create a new signing secret and print it. It is shown only once."""
    session = Session.of(ctx)
    body = api.webhook.RotateIn(overlap_s=int(parse_duration_s(overlap)))
    _show_secret(session, session.api.post(f"{_path(webhook_id)}:rotate", body, api.webhook.NewSecret))


@app.command("deliveries")
def deliveries(
    ctx: typer.Context,
    webhook_id: WebhookId,
    state: Annotated[str | None, typer.Option("--state", help="Only pending, delivered or dead ones.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 50,
    delivery: Annotated[
        int | None, typer.Option("--delivery", min=1, metavar="DELIVERY", help="One delivery, with every attempt.")
    ] = None,
) -> None:
    """List the deliveries of a webhook, newest first."""
    session = Session.of(ctx)
    if delivery is None:
        path = f"{_path(webhook_id)}/deliveries"
        session.out.items(session.api.pages(path, api.webhook.Delivery, limit=limit, state=state), DELIVERIES)
        return
    if state is not None:
        raise UsageError(
            "--state is for the list", why="--delivery names one delivery", next_step="leave one of them out"
        )
    found = session.api.get(f"{_path(webhook_id)}/deliveries/{delivery}", api.webhook.Delivery)
    session.out.one(found, DELIVERIES, lambda one: _show_delivery(session, one))


@app.command("redeliver")
def redeliver(ctx: typer.Context, webhook_id: WebhookId, delivery: DeliveryId) -> None:
    """Resend a delivery now, with the same message id."""
    session = Session.of(ctx)
    made = session.api.post(f"{_path(webhook_id)}/deliveries/{delivery}:redeliver", NOTHING, api.webhook.Delivery)
    session.out.one(made, DELIVERIES, lambda one: _show_delivery(session, one))


@app.command("test")
def test(ctx: typer.Context, webhook_id: WebhookId) -> None:
    """Send an edgefleet.ping event and wait for the response."""
    session = Session.of(ctx)
    made = session.api.post(f"{_path(webhook_id)}:ping", NOTHING, api.webhook.Delivery)
    end_s = session.clock.monotonic_s() + (session.options.timeout_s or _TEST_S)
    path = f"{_path(webhook_id)}/deliveries/{made.value.id}"
    found = session.api.get(path, api.webhook.Delivery)
    while not found.value.attempts and session.clock.monotonic_s() < end_s:
        session.clock.sleep(_LOOK_S)
        found = session.api.get(path, api.webhook.Delivery)
    session.out.one(found, DELIVERIES, lambda one: _show_delivery(session, one))
    if found.value.state != "delivered":
        raise CliError(
            "the receiver did not accept the message",
            why=found.value.error or "nothing was sent yet: no server process with the role `engine` runs",
            next_step="fix the receiver; the server retries for a day",
        )


def _path(webhook_id: str) -> str:
    return f"/webhooks/{part(webhook_id)}"


def _show_secret(session: Session, made: Reply[api.webhook.NewSecret]) -> None:
    session.out.document(made.raw, lambda: session.out.line(made.value.secret))
    if session.out.is_for_eyes:
        session.out.note(f"webhook {made.value.webhook.id}: save its secret now, it is not shown again")


def _show(session: Session, webhook: api.webhook.Webhook) -> None:
    session.out.fields(
        [
            ("id", text(webhook.id)),
            ("name", text(webhook.name)),
            ("url", text(webhook.url)),
            ("types", ", ".join(webhook.types) or "all"),
            ("state", state_of(webhook)),
            ("why", text(webhook.disabled_reason)),
            ("pending", text(webhook.pending)),
            ("dead", text(webhook.dead)),
            ("created", f"{moment(webhook.created_at)} by {text(webhook.created_by)}"),
            *((f"secret {at}", _ends(one)) for at, one in enumerate(webhook.secrets, start=1)),
        ]
    )


def _ends(secret: api.webhook.Secret) -> str:
    ends = secret.expires_at
    shown = f"made {moment(secret.created_at)}"
    return f"{shown}, signs until {moment(ends)}" if ends else shown


def _show_delivery(session: Session, delivery: api.webhook.Delivery) -> None:
    session.out.fields(
        [
            ("delivery", text(delivery.id)),
            ("message", text(delivery.message_id)),
            ("type", text(delivery.type)),
            ("state", text(delivery.state)),
            ("error", text(delivery.error)),
            ("next try", moment(delivery.next_at) if delivery.state == _PENDING else ""),
        ]
    )
    if delivery.attempts:
        session.out.heading("Attempts")
        session.out.table(delivery.attempts, _TRIES)


_TRIES: list[Column[api.webhook.Attempt]] = [
    Column("at", lambda a: moment(a.at), keep=True),
    Column("ms", lambda a: text(a.took_ms), right=True),
    Column("status", lambda a: text(a.status)),
    Column("error", lambda a: text(a.error)),
    Column("answer", lambda a: text(a.answer)),
]
