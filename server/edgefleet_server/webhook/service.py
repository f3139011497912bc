"""Webhooks as the rest of the server sees them: make, rotate, delete; what was sent; and the outbox.

Thread-safe; calls block; every write joins the caller's transaction. Nothing is sent from here: `engine` does, after the commit.
The outbox: with each event that is stored, in the same transaction, one delivery is written for each webhook that wants it. So an
event that was rolled back is never sent, and one that was committed always is, whichever process dies in between.
"""

import base64
import secrets
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from sqlmodel import Session

from edgefleet_protocol.clock import Clock
from edgefleet_server.db.database import CommitSignal, Database
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import EventView
from edgefleet_server.events.types import PING, is_chosen, is_pattern
from edgefleet_server.outbound.http_post import HttpPoster
from edgefleet_server.settings import ServerSettings
from edgefleet_server.webhook import rules, store
from edgefleet_server.webhook.errors import BadTypesError, TooManyWebhooksError, WebhookDisabledError
from edgefleet_server.webhook.model import (
    AttemptView,
    DeliveryState,
    DeliveryView,
    NewSecret,
    SecretView,
    WebhookView,
)
from edgefleet_server.webhook.tables import Webhook, WebhookAttempt, WebhookDelivery

MAX_WEBHOOKS: Final = 64
"""Each has a thread of its own while something is sent to it: so no receiver waits for another."""
KEPT: Final = timedelta(days=30)
PRUNE_BATCH: Final = 5_000
MAX_OVERLAP: Final = timedelta(days=90)


class WebhookService:
    """Makes webhooks and tells what became of deliveries."""

    def __init__(  # the outbox, what is sent and how, and what seals the keys that sign
        self, db: Database, feed: EventLog, poster: HttpPoster, clock: Clock, settings: ServerSettings, sealer: Sealer
    ) -> None:
        """Wire the parts; from then on every event of this process is written to the outbox."""
        self._db = db
        self._poster = poster
        self._clock = clock
        self.sealer = sealer
        self._give_up = timedelta(seconds=settings.webhook_give_up_s)
        self.source = rules.source_of(settings.tenant)
        self.bell = CommitSignal()
        """Rung when there is something to send."""
        feed.outboxes.append(self._put)

    # ---- making

    def create(self, name: str, url: str, types: Sequence[str], by: str) -> NewSecret:
        """Make a webhook; its secret is returned this once. Raises BadUrlError, UnresolvedError, BadTypesError, TooManyWebhooksError.

        May block for a name server.
        """
        for one in types:
            if not is_pattern(one):
                raise BadTypesError(
                    f"{one[:80]!r} is not a type of event",
                    next_step="use types of docs/reference/events.md, `edgefleet.rollout.*` for all below one, or none for all",
                )
        self._poster.check(url)
        secret = rules.new_secret(secrets.token_bytes(rules.SECRET_BYTES))
        now = self._clock.now()
        with self._db.session() as session:
            check_room(session)
            row = Webhook(
                id=new_id("wh"),
                name=name,
                url=url,
                types=sorted(set(types)),
                created_at=now,
                created_by=by[:80],
            )
            session.add(row)
            store.add_secret(session, self.sealer, row.id, secret, now)
            session.flush()
            return NewSecret(self._view(session, row, {}), secret)

    def rotate(self, webhook_id: str, overlap: timedelta) -> NewSecret:
        """Make a new secret, returned this once; the former ones go on signing with it for `overlap`. Raises WebhookUnknownError."""
        secret = rules.new_secret(secrets.token_bytes(rules.SECRET_BYTES))
        now = self._clock.now()
        with self._db.session() as session:
            row = store.webhook(session, webhook_id)
            store.retire_secrets(session, webhook_id, now + min(overlap, MAX_OVERLAP), now)
            store.add_secret(session, self.sealer, webhook_id, secret, now)
            session.flush()
            return NewSecret(self._view(session, row, store.counts(session).get(webhook_id, {})), secret)

    def delete(self, webhook_id: str) -> None:
        """Remove a webhook with its deliveries; what is being sent just now still arrives. Raises WebhookUnknownError."""
        with self._db.session() as session:
            store.webhook(session, webhook_id)
            store.remove(session, webhook_id)

    # ---- looking

    def webhooks(self) -> list[WebhookView]:
        """Return all webhooks, oldest first."""
        with self._db.read() as session:
            counts = store.counts(session)
            return [self._view(session, row, counts.get(row.id, {})) for row in store.webhooks(session)]

    def webhook(self, webhook_id: str) -> WebhookView:
        """Return one webhook. Raises WebhookUnknownError."""
        with self._db.read() as session:
            row = store.webhook(session, webhook_id)
            return self._view(session, row, store.counts(session).get(webhook_id, {}))

    def deliveries(
        self, webhook_id: str, *, state: str | None, before: int | None, limit: int
    ) -> tuple[list[DeliveryView], int]:
        """Return deliveries, newest first, and how many there are. Raises WebhookUnknownError."""
        with self._db.read() as session:
            store.webhook(session, webhook_id)
            rows, total = store.deliveries(session, webhook_id, state=state, before=before, limit=limit)
            return [delivery_view(row) for row in rows], total

    def delivery(self, webhook_id: str, delivery_id: int) -> DeliveryView:
        """Return one delivery with its tries. Raises DeliveryUnknownError."""
        with self._db.read() as session:
            row = store.delivery(session, webhook_id, delivery_id)
            return delivery_view(row, store.attempts(session, delivery_id))

    # ---- sending

    def _put(self, events: Callable[[], Sequence[EventView]]) -> None:
        """Write the deliveries of new events, in the transaction that stores these."""
        now = self._clock.now()
        with self._db.session() as session:
            rows = [
                {
                    "webhook_id": webhook_id,
                    "message_id": rules.message_id(event.id),
                    "type": event.type[:80],
                    "order_key": rules.order_key(event),
                    "event_id": event.id,
                    "body": None,
                    "state": DeliveryState.PENDING.value,
                    "created_at": now,
                    "give_up_at": now + self._give_up,
                    "next_at": now,
                    "attempts": 0,
                    "error": "",
                }
                for webhook_id, types in store.wanted(session)
                for event in events()
                if is_chosen(event.type, types)
            ]
            if rows:
                store.add_deliveries(session, rows)
                self.bell.ring(session)

    def ping(self, webhook_id: str) -> DeliveryView:
        """Send a message that says nothing, at once, also to a receiver that is held. Raises WebhookUnknownError, WebhookDisabledError."""
        now = self._clock.now()
        with self._db.session() as session:
            row = self._enabled(session, webhook_id)
            number = f"ping-{secrets.token_hex(8)}"
            made = WebhookDelivery(
                webhook_id=webhook_id,
                message_id=number,
                type=PING,
                order_key=f"p:{number}",
                body=rules.ping_of(number, webhook_id, self.source, now),
                state=DeliveryState.PENDING.value,
                created_at=now,
                give_up_at=now + self._give_up,
                next_at=now,
            )
            row.not_before = None
            session.add(made)
            session.flush()
            self.bell.ring(session)
            return delivery_view(made)

    def redeliver(self, webhook_id: str, delivery_id: int) -> DeliveryView:
        """Send a delivery again, at once, with the same id, and with all its time again; out of order.

        Raises DeliveryUnknownError, WebhookDisabledError.
        """
        now = self._clock.now()
        with self._db.session() as session:
            row = self._enabled(session, webhook_id)
            one = store.delivery(session, webhook_id, delivery_id, lock=True)
            one.state, one.next_at, one.done_at = DeliveryState.PENDING.value, now, None
            one.give_up_at = now + self._give_up
            one.order_key = f"a:{one.id}"  # it holds up nothing newer
            one.attempts, one.error = 0, ""
            row.not_before = None
            session.flush()
            self.bell.ring(session)
            return delivery_view(one, store.attempts(session, delivery_id))

    def prune(self) -> int:
        """Remove deliveries that ended more than KEPT ago, in transactions of one batch each; return how many. For the engine tick."""
        done = 0
        while True:
            with self._db.session() as session:
                removed = store.prune(session, self._clock.now() - KEPT, PRUNE_BATCH)
            done += removed
            if removed < PRUNE_BATCH:
                return done

    def _enabled(self, session: Session, webhook_id: str) -> Webhook:
        row = store.webhook(session, webhook_id)
        if not row.is_enabled:
            raise WebhookDisabledError(
                f"the webhook {webhook_id} is switched off: {row.disabled_reason}",
                next_step="delete it, and create another one when the receiver is back",
            )
        return row

    def _view(self, session: Session, row: Webhook, counts: dict[str, int]) -> WebhookView:
        now = self._clock.now()
        keys = store.secrets(session, row.id, now)
        return WebhookView(
            id=row.id,
            name=row.name,
            url=row.url,
            types=row.types,
            is_enabled=row.is_enabled,
            disabled_reason=row.disabled_reason,
            created_at=row.created_at,
            created_by=row.created_by,
            held_until=row.not_before if row.not_before is not None and row.not_before > now else None,
            pending=counts.get(DeliveryState.PENDING.value, 0),
            dead=counts.get(DeliveryState.DEAD.value, 0),
            secrets=[SecretView(one.created_at, one.expires_at) for one in keys],
        )


def check_room(session: Session) -> None:
    """Raise TooManyWebhooksError when there can be no more webhooks and channels."""
    if store.count_all(session) >= MAX_WEBHOOKS:
        raise TooManyWebhooksError(
            f"there are {MAX_WEBHOOKS} webhooks and contact points already",
            next_step="delete one that is no longer needed",
        )


def new_id(kind: str) -> str:
    """Return a new id that begins with its kind."""
    return f"{kind}-" + base64.b32encode(secrets.token_bytes(8)).decode().rstrip("=").lower()


def delivery_view(row: WebhookDelivery, tries: Sequence[WebhookAttempt] = ()) -> DeliveryView:
    """Return a delivery as it is shown."""
    return DeliveryView(
        id=row.id or 0,
        webhook=row.webhook_id,
        message_id=row.message_id,
        type=row.type,
        event=row.event_id,
        state=row.state,
        created_at=row.created_at,
        next_at=row.next_at,
        done_at=row.done_at,
        give_up_at=row.give_up_at,
        attempts_made=row.attempts,
        status=row.status,
        error=row.error,
        attempts=[AttemptView(one.at, one.took_ms, one.status, one.error, one.answer) for one in tries],
    )
