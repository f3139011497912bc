"""How an event becomes a message, how it is signed, and what a try came to. Pure.

- Message: CloudEvents 1.0, structured mode, JSON. `id` is the event's own number, so every try of one event, and every webhook, has
  the same; `source` + `id` is unique.
- Signature: Standard Webhooks 1.0, symmetric: `v1,` + base64 of HMAC-SHA256 over `webhook-id.webhook-timestamp.body`. While a secret is
  being replaced there is one for each, separated by a space.
- A 2xx is taken; everything else is tried again, after 5 s, 10 s, 20 s … up to an hour, each time shortened at random by up to half
  (so that many do not come back at once), until the delivery's time is over: then it is dead. `410 Gone` switches the webhook off.
- No answer at all, 429 and 503 are about the receiver, not the event: its other deliveries wait too.
"""

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import Any, Final

import msgspec

from edgefleet_server.events.model import EventView
from edgefleet_server.events.types import PING
from edgefleet_server.webhook.model import DeliveryState, Outcome

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # the prefix of a secret, not one
SECRET_BYTES: Final = 32
FIRST_WAIT: Final = timedelta(seconds=5)
LONGEST_WAIT: Final = timedelta(hours=1)
LONGEST_HOLD: Final = timedelta(minutes=5)
MAX_BODY: Final = 256 * 1024
_GONE: Final = 410
_BUSY: Final = frozenset({429, 503})


def source_of(tenant: str) -> str:
    """Return the CloudEvents source of a tenant's fleet."""
    return f"urn:edgefleet:{tenant}"


def message_id(event_id: int) -> str:
    """Return the id of an event's message: the same for every try and every webhook."""
    return f"evt-{event_id}"


def order_key(event: EventView) -> str:
    """Return within what deliveries keep their order: the rollout, else the device; events of neither stand alone together."""
    if event.rollout:
        return f"r:{event.rollout}"
    return f"d:{event.device}" if event.device else ""


def message_of(event: EventView, source: str) -> bytes:
    """Return an event as a CloudEvent in JSON. A detail that is too large is left out, and the message says so."""
    data: dict[str, Any] = {
        "event": event.id,
        "kind": event.kind,
        "device": event.device or None,
        "model": event.model or None,
        "rollout": event.rollout,
        "received_at": event.received_at,
        "detail": dict(event.detail),
    }
    whole = cloud_event(message_id(event.id), event.type, source, event.at, event.rollout or event.device, data)
    body = msgspec.json.encode(whole)
    if len(body) > MAX_BODY:
        body = msgspec.json.encode(whole | {"data": {**data, "detail": {}, "detail_left_out_bytes": len(body)}})
    return body


def ping_of(ping_id: str, webhook: str, source: str, now: datetime) -> dict[str, Any]:
    """Return the message that tries a webhook out."""
    plain = cloud_event(ping_id, PING, source, now, webhook, {"webhook": webhook})
    found: dict[str, Any] = msgspec.to_builtins(plain)
    return found


def cloud_event(
    message: str, event_type: str, source: str, at: datetime, subject: str | None, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a CloudEvent in structured mode. message: its id, the same for every try of it."""
    about = {"subject": subject} if subject else {}
    return {
        "specversion": "1.0",
        "id": message,
        "source": source,
        "type": event_type,
        **about,
        "time": at,
        "datacontenttype": "application/json",
        "data": dict(data),
    }


def new_secret(random: bytes) -> str:
    """Return a secret as it is shown, of SECRET_BYTES random bytes."""
    assert len(random) == SECRET_BYTES
    return SECRET_PREFIX + base64.b64encode(random).decode()


def headers_of(message: str, body: bytes, secrets: Iterable[str], now: datetime) -> dict[str, str]:
    """Return the headers of one try."""
    at = int(now.timestamp())
    signed = f"{message}.{at}.".encode() + body
    signatures = ["v1," + base64.b64encode(hmac.new(_key(one), signed, sha256).digest()).decode() for one in secrets]
    return {
        "content-type": CONTENT_TYPE,
        "webhook-id": message,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(signatures),
    }


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("a secret of a webhook is not base64") from error


def wait_of(failures: int, chance: float, longest: timedelta = LONGEST_WAIT) -> timedelta:
    """Return how long to wait after so many failures in a row (at least 1); chance: 0 to 1, drawn by the caller."""
    full: timedelta = min(FIRST_WAIT * 2 ** min(max(failures, 1) - 1, 20), longest)
    return full * (1 - chance / 2)


def outcome_of(
    status: int | None, retry_after: str, error: str, attempts: int, give_up_at: datetime, now: datetime, chance: float
) -> Outcome:
    """Return what a try came to. status: None when no answer came, `error` says why; attempts: this one among them."""
    if status is not None and 200 <= status < 300:
        return Outcome(DeliveryState.DELIVERED, None, status, "")
    reason = error or _status_text(status)
    if status == _GONE:
        return Outcome(DeliveryState.DEAD, None, status, reason, gone=True)
    if now >= give_up_at:
        return Outcome(DeliveryState.DEAD, None, status, f"{reason}; its time is over")
    holds = status is None or status in _BUSY
    wait = wait_of(attempts, chance)
    asked = asked_wait(retry_after, now) if status in _BUSY else None
    if asked is not None:
        wait = max(wait, asked)
    return Outcome(DeliveryState.PENDING, min(now + wait, give_up_at), status, reason, holds=holds)


def _status_text(status: int | None) -> str:
    if status is not None and 300 <= status < 400:
        return f"the receiver answered {status}; redirects are not followed, name the final URL"
    return f"the receiver answered {status}"


def asked_wait(retry_after: str, now: datetime) -> timedelta | None:
    """Return what `Retry-After` asks for, in seconds or as a date; None when it says nothing usable."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit() and len(text) < 9:
        return timedelta(seconds=int(text))
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(timedelta(), (at if at.tzinfo else at.replace(tzinfo=UTC)) - now)
