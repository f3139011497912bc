"""The webhooks' SQL. Every function works in the caller's session and never commits."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from edgefleet_server.encryption.model import SealedColumn, SealedValue
from edgefleet_server.encryption.service import Sealer
from edgefleet_server.webhook.errors import DeliveryUnknownError, WebhookUnknownError
from edgefleet_server.webhook.model import DeliveryState, Outcome, Parcel, Receiver
from edgefleet_server.webhook.tables import Webhook, WebhookAttempt, WebhookDelivery, WebhookSecret

LEASE: Final = timedelta(seconds=60)
BATCH: Final = 50
KEPT_ATTEMPTS: Final = 50
SEALED: Final = SealedColumn(
    "signing secret of a webhook", "webhook_secret", "secret", ("webhook_id", "id"), "created_at"
)
_PENDING: Final = DeliveryState.PENDING.value
_D = WebhookDelivery


# ---- webhooks


def webhook(session: Session, webhook_id: str, transport: str = "") -> Webhook:
    """Return the row of a webhook, or of a channel of a transport. Raises WebhookUnknownError."""
    row = session.get(Webhook, webhook_id)
    if row is None or row.transport != transport:
        raise WebhookUnknownError(
            f"there is no webhook {webhook_id[:40]!r}", next_step="`edgectl webhook list` shows all webhooks"
        )
    return row


def webhooks(session: Session, transport: str = "") -> Sequence[Webhook]:
    """Return all webhooks, or all channels of a transport, oldest first: they are few."""
    mine = select(Webhook).where(col(Webhook.transport) == transport)
    return session.execute(mine.order_by(col(Webhook.created_at), col(Webhook.id))).scalars().all()


def count_all(session: Session) -> int:
    """Return how many webhooks and channels there are."""
    return int(session.execute(select(func.count()).select_from(Webhook)).scalar_one())


def wanted(session: Session) -> list[tuple[str, list[str]]]:
    """Return id and types of each webhook that is switched on."""
    is_mine = (col(Webhook.is_enabled), col(Webhook.transport) == "")
    statement = select(col(Webhook.id), col(Webhook.types)).where(*is_mine).order_by(col(Webhook.id))
    return [(found, list(types)) for found, types in session.execute(statement)]


def remove(session: Session, webhook_id: str) -> None:
    """Delete a webhook with all that belongs to it."""
    mine = select(col(_D.id)).where(col(_D.webhook_id) == webhook_id)
    session.execute(delete(WebhookAttempt).where(col(WebhookAttempt.delivery_id).in_(mine)))
    session.execute(delete(_D).where(col(_D.webhook_id) == webhook_id))
    session.execute(delete(WebhookSecret).where(col(WebhookSecret.webhook_id) == webhook_id))
    session.execute(delete(Webhook).where(col(Webhook.id) == webhook_id))


def secrets(session: Session, webhook_id: str, now: datetime) -> Sequence[WebhookSecret]:
    """Return the secrets that sign now, the newest first."""
    is_valid = or_(col(WebhookSecret.expires_at).is_(None), col(WebhookSecret.expires_at) > now)
    statement = select(WebhookSecret).where(col(WebhookSecret.webhook_id) == webhook_id, is_valid)
    return session.execute(statement.order_by(col(WebhookSecret.id).desc())).scalars().all()


def add_secret(session: Session, sealer: Sealer, webhook_id: str, secret: str, now: datetime) -> None:
    """Store a new secret, sealed to its row, whose number the database gives first."""
    row = WebhookSecret(webhook_id=webhook_id, secret="", created_at=now)
    session.add(row)
    session.flush()
    row.secret = sealer.seal(SEALED.place(webhook_id, row.id), secret)


def retire_secrets(session: Session, webhook_id: str, ends: datetime, now: datetime) -> None:
    """Let the secrets there are sign until `ends` at the latest, and forget those whose time is over."""
    mine = col(WebhookSecret.webhook_id) == webhook_id
    is_later = or_(col(WebhookSecret.expires_at).is_(None), col(WebhookSecret.expires_at) > ends)
    session.execute(update(WebhookSecret).where(mine, is_later).values(expires_at=ends))
    session.execute(delete(WebhookSecret).where(mine, col(WebhookSecret.expires_at) <= now))


def switch_off(session: Session, webhook_id: str, reason: str, now: datetime) -> None:
    """Send nothing more to a webhook; what waits for it is dead."""
    values = {"is_enabled": False, "disabled_reason": reason}
    session.execute(update(Webhook).where(col(Webhook.id) == webhook_id).values(**values))
    waiting = update(_D).where(col(_D.webhook_id) == webhook_id, col(_D.state) == _PENDING)
    session.execute(waiting.values(state=DeliveryState.DEAD.value, next_at=None, done_at=now, error=reason))


# ---- the outbox


def add_deliveries(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what is to be sent, with one statement."""
    if rows:
        session.execute(insert(_D), list(rows))


def claim(session: Session, owner: str, now: datetime, but: Collection[str], limit: int) -> list[tuple[str, int]]:
    """Take webhooks that have something due and that nobody sends to; return (id, fence). The caller commits at once."""
    is_free = or_(
        col(Webhook.lease_until).is_(None), col(Webhook.lease_until) <= now, col(Webhook.lease_owner) == owner
    )
    statement = (
        select(Webhook)
        .where(col(Webhook.is_enabled), is_free, _is_open(now), col(Webhook.id).not_in(but))
        .where(exists(select(1).where(*_is_due(col(Webhook.id), now))))
        .order_by(col(Webhook.id))
        .limit(limit)
        .with_for_update(skip_locked=True, of=Webhook)
    )
    taken = []
    for row in session.execute(statement).scalars():
        row.lease_owner, row.lease_until, row.fence = owner, now + LEASE, row.fence + 1
        taken.append((row.id, row.fence))
    return taken


def is_any_due(session: Session, now: datetime) -> bool:
    """Return whether something may be due: a look that waits for no writer."""
    statement = select(col(_D.id)).where(col(_D.state) == _PENDING, col(_D.next_at) <= now).limit(1)
    return session.execute(statement).first() is not None


def _is_open(now: datetime) -> Any:
    return or_(col(Webhook.not_before).is_(None), col(Webhook.not_before) <= now)


def _is_due(webhook_id: Any, now: datetime) -> list[Any]:
    """Return the conditions of a delivery that may be sent now: none of its order is waiting for its next try.

    Only the first of an order is ever tried, so whatever waits is earlier: the ids need not be compared.
    """
    other = aliased(_D)
    waits = select(col(other.order_key)).where(
        col(other.webhook_id) == webhook_id, col(other.state) == _PENDING, col(other.next_at) > now
    )
    is_mine = col(_D.webhook_id) == webhook_id
    return [is_mine, col(_D.state) == _PENDING, col(_D.next_at) <= now, col(_D.order_key).not_in(waits)]


def hold_fence(session: Session, webhook_id: str, fence: int, until: datetime | None) -> bool:
    """Lock a webhook's row, and set its lease; return whether the claim is still ours."""
    statement = (
        update(Webhook)
        .where(col(Webhook.id) == webhook_id, col(Webhook.fence) == fence)
        .values(lease_until=until)
        .returning(col(Webhook.id))
    )
    return session.execute(statement).first() is not None


def receiver(session: Session, webhook_id: str, now: datetime) -> Receiver | None:
    """Return whom to send to; None when nothing may be sent there now."""
    row = session.get(Webhook, webhook_id, populate_existing=True)
    if row is None or not row.is_enabled or (row.not_before is not None and row.not_before > now):
        return None
    keys = tuple(
        SealedValue(SEALED.place(one.webhook_id, one.id), one.secret) for one in secrets(session, webhook_id, now)
    )
    return Receiver(row.id, row.url, keys, row.failures, row.transport)


def due(session: Session, webhook_id: str, now: datetime) -> list[Parcel]:
    """Return the next deliveries of a webhook, in order."""
    statement = select(_D).where(*_is_due(webhook_id, now)).order_by(col(_D.id)).limit(BATCH)
    return [
        Parcel(
            id=row.id or 0,
            message_id=row.message_id,
            type=row.type,
            order_key=row.order_key,
            event_id=row.event_id,
            body=row.body,
            attempts=row.attempts,
            give_up_at=row.give_up_at,
        )
        for row in session.execute(statement).scalars()
    ]


def note(session: Session, parcel: Parcel, outcome: Outcome, attempt: Mapping[str, Any], now: datetime) -> bool:
    """Write what a try came to, and its log; return whether the delivery still was there, waiting."""
    is_done = outcome.state is not DeliveryState.PENDING
    written = session.execute(
        update(_D)
        .where(col(_D.id) == parcel.id, col(_D.state) == _PENDING)
        .values(
            state=outcome.state.value,
            next_at=outcome.next_at,
            done_at=now if is_done else None,
            attempts=parcel.attempts + 1,
            status=outcome.status,
            error=outcome.error,
        )
        .returning(col(_D.id))
    ).first()
    if written is not None:
        session.execute(insert(WebhookAttempt).values(delivery_id=parcel.id, at=now, **attempt))
    return written is not None


def retry_now(session: Session, webhook_id: str, now: datetime) -> None:
    """Let what waits for its next try be due."""
    waits = update(_D).where(col(_D.webhook_id) == webhook_id, col(_D.state) == _PENDING, col(_D.next_at) > now)
    session.execute(waits.values(next_at=now))


def hold(session: Session, webhook_id: str, failures: int, until: datetime | None) -> None:
    """Note how many failures of the receiver came in a row, and until when nothing is sent to it."""
    session.execute(update(Webhook).where(col(Webhook.id) == webhook_id).values(failures=failures, not_before=until))


# ---- the log


def counts(session: Session) -> dict[str, dict[str, int]]:
    """Return, by webhook, how many deliveries are in each state."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    statement = select(col(_D.webhook_id), col(_D.state), func.count()).group_by(col(_D.webhook_id), col(_D.state))
    for webhook_id, state, count in session.execute(statement):
        found[webhook_id][state] = int(count)
    return found


def deliveries(
    session: Session, webhook_id: str, *, state: str | None, before: int | None, limit: int
) -> tuple[Sequence[WebhookDelivery], int]:
    """Return deliveries, newest first, and how many there are."""
    chosen = [col(_D.webhook_id) == webhook_id]
    if state is not None:
        chosen.append(col(_D.state) == state)
    total = session.execute(select(func.count()).select_from(_D).where(*chosen)).scalar_one()
    page = select(_D).where(*chosen, *([col(_D.id) < before] if before is not None else []))
    return session.execute(page.order_by(col(_D.id).desc()).limit(limit)).scalars().all(), int(total)


def delivery(session: Session, webhook_id: str, delivery_id: int, *, lock: bool = False) -> WebhookDelivery:
    """Return a delivery's row. Raises DeliveryUnknownError."""
    row = session.get(WebhookDelivery, delivery_id, with_for_update=True if lock else None, populate_existing=True)
    if row is None or row.webhook_id != webhook_id:
        raise DeliveryUnknownError(
            f"the webhook {webhook_id[:40]} has no delivery {delivery_id}",
            next_step=f"`edgectl webhook deliveries {webhook_id[:40]}` shows them",
        )
    return row


def attempts(session: Session, delivery_id: int) -> Sequence[WebhookAttempt]:
    """Return the last KEPT_ATTEMPTS tries of a delivery, oldest first."""
    statement = select(WebhookAttempt).where(col(WebhookAttempt.delivery_id) == delivery_id)
    newest = statement.order_by(col(WebhookAttempt.id).desc()).limit(KEPT_ATTEMPTS)
    return list(reversed(session.execute(newest).scalars().all()))


def prune(session: Session, before: datetime, limit: int) -> int:
    """Remove up to `limit` deliveries that ended before a moment, with their tries; return how many."""
    is_old = and_(col(_D.done_at) < before, col(_D.state) != _PENDING)
    old = list(session.execute(select(col(_D.id)).where(is_old).limit(limit)).scalars())
    if old:
        session.execute(delete(WebhookAttempt).where(col(WebhookAttempt.delivery_id).in_(old)))
        session.execute(delete(_D).where(col(_D.id).in_(old)))
    return len(old)
