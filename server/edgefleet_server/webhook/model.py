"""Values of webhooks. States are stored and public: never renamed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from edgefleet_server.encryption.model import SealedValue


class DeliveryState(StrEnum):
    """How far one event is on its way to one webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True)
class WebhookView:
    """A webhook as it is shown: all but its secrets. types: patterns, empty = every event.

    pending, dead: deliveries in that state. held_until: after a failure of the receiver as a whole nothing is sent before that.
    secrets: when each secret that signs now was made and when it ends.
    """

    id: str
    name: str
    url: str
    types: Sequence[str]
    is_enabled: bool
    disabled_reason: str
    created_at: datetime
    created_by: str
    held_until: datetime | None
    pending: int
    dead: int
    secrets: Sequence["SecretView"]


@dataclass(frozen=True)
class SecretView:
    """When a secret was made, and when it stops to sign (None: it stays)."""

    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True)
class NewSecret:
    """A webhook and a secret just made, which is shown this once."""

    webhook: WebhookView
    secret: str


@dataclass(frozen=True)
class AttemptView:
    """One try: status None when no HTTP answer came; error says why, answer is the beginning of the body."""

    at: datetime
    took_ms: int
    status: int | None
    error: str
    answer: str


@dataclass(frozen=True)
class DeliveryView:
    """One event on its way to one webhook. message_id: `webhook-id` of every try. attempts_made counts all, attempts has the last."""

    id: int
    webhook: str
    message_id: str
    type: str
    event: int | None
    state: str
    created_at: datetime
    next_at: datetime | None
    done_at: datetime | None
    give_up_at: datetime
    attempts_made: int
    status: int | None
    error: str
    attempts: Sequence[AttemptView] = ()


@dataclass(frozen=True, slots=True)
class Receiver:
    """Whom a lane sends to. secrets: those that sign now, the newest first. transport: "" for a webhook, else how a channel sends."""

    id: str
    url: str
    secrets: tuple[SealedValue, ...]
    failures: int
    transport: str = ""


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery that is due. body: set for a ping; else the event makes it."""

    id: int
    message_id: str
    type: str
    order_key: str
    event_id: int | None
    body: Mapping[str, Any] | None
    attempts: int
    give_up_at: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a try came to. holds: the receiver as a whole is away, so others wait too; gone: it wants nothing any more."""

    state: DeliveryState
    next_at: datetime | None
    status: int | None
    error: str
    holds: bool = False
    gone: bool = False
