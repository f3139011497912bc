"""Channels: receivers of another feature, whose messages go through the outbox of webhooks with its leases, retries and log.

A channel is a row of `webhook` with a transport; it gets no events, only what its feature sends. Thread-safe; calls block; every write
joins the caller's transaction.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import Database
from edgefleet_server.webhook import store
from edgefleet_server.webhook.model import DeliveryState, DeliveryView
from edgefleet_server.webhook.service import WebhookService, check_room, delivery_view, new_id
from edgefleet_server.webhook.tables import Webhook, WebhookDelivery


@dataclass(frozen=True, slots=True)
class ChannelState:
    """How a channel stands. shown: where it leads, without secrets; pending, dead: deliveries in that state."""

    id: str
    name: str
    shown: str
    created_at: datetime
    created_by: str
    held_until: datetime | None
    pending: int
    dead: int


class Channels:
    """The channels of one transport."""

    def __init__(
        self, db: Database, webhooks: WebhookService, clock: Clock, transport: str, give_up: timedelta
    ) -> None:
        """Wire the parts. transport: of `WebhookSender`; give_up: for how long a message is tried."""
        self._db = db
        self._webhooks = webhooks
        self._clock = clock
        self._transport = transport
        self._give_up = give_up
        self.sealer = webhooks.sealer
        """Seals what a channel must keep secret: its address, as a rule."""

    def open(self, kind: str, name: str, shown: str, by: str) -> ChannelState:
        """Make a channel; kind: what its id begins with. Raises TooManyWebhooksError."""
        with self._db.session() as session:
            check_room(session)
            row = Webhook(
                id=new_id(kind), name=name, url=shown, types=[], transport=self._transport, created_at=self._clock.now(),
                created_by=by[:80],
            )  # fmt: skip
            session.add(row)
            session.flush()
            return self._state(row, {})

    def change(self, channel_id: str, name: str, shown: str | None) -> ChannelState:
        """Give a channel another name and, where `shown` is given, another address: that is tried at once. Raises WebhookUnknownError."""
        with self._db.session() as session:
            row = store.webhook(session, channel_id, self._transport)
            row.name = name
            if shown is not None:
                row.url, row.not_before, row.failures = shown, None, 0
                store.retry_now(session, channel_id, self._clock.now())
                self._webhooks.bell.ring(session)
            session.flush()
            return self._state(row, store.counts(session).get(row.id, {}))

    def close(self, channel_id: str) -> None:
        """Remove a channel with its deliveries. Raises WebhookUnknownError."""
        with self._db.session() as session:
            store.webhook(session, channel_id, self._transport)
            store.remove(session, channel_id)

    def all(self) -> list[ChannelState]:
        """Return all channels of this transport, oldest first."""
        with self._db.read() as session:
            counts = store.counts(session)
            return [self._state(row, counts.get(row.id, {})) for row in store.webhooks(session, self._transport)]

    def send(
        self, channel_id: str, event_type: str, order: str, body: Mapping[str, Any], *, now: bool = False
    ) -> DeliveryView:
        """Write a message to the outbox. order: within it messages keep their order; now: also to a receiver that is held."""
        at = self._clock.now()
        with self._db.session() as session:
            row = store.webhook(session, channel_id, self._transport)
            made = WebhookDelivery(
                webhook_id=channel_id,
                message_id=f"msg-{secrets.token_hex(8)}",
                type=event_type[:80],
                order_key=order[:80],
                body=dict(body),
                state=DeliveryState.PENDING.value,
                created_at=at,
                give_up_at=at + self._give_up,
                next_at=at,
            )
            if now:
                row.not_before = None
            session.add(made)
            session.flush()
            self._webhooks.bell.ring(session)
            return delivery_view(made)

    def deliveries(
        self, channel_id: str, *, before: int | None, limit: int
    ) -> tuple[list[tuple[DeliveryView, Mapping[str, Any]]], int]:
        """Return deliveries with their messages, newest first, each with its tries, and how many there are. Raises WebhookUnknownError."""
        with self._db.read() as session:
            store.webhook(session, channel_id, self._transport)
            rows, total = store.deliveries(session, channel_id, state=None, before=before, limit=limit)
            return [(delivery_view(row, store.attempts(session, row.id or 0)), row.body or {}) for row in rows], total

    def _state(self, row: Webhook, counts: Mapping[str, int]) -> ChannelState:
        is_held = row.not_before is not None and row.not_before > self._clock.now()
        return ChannelState(
            id=row.id, name=row.name, shown=row.url, created_at=row.created_at, created_by=row.created_by,
            held_until=row.not_before if is_held else None, pending=counts.get(DeliveryState.PENDING.value, 0),
            dead=counts.get(DeliveryState.DEAD.value, 0),
        )  # fmt: skip
