"""How receivers stand, by what is known of their messages: those of webhooks and of contact points. Pure.

Rules:
1. What was never sent to is not known to work, and is not called so.
2. A contact point is as its newest message that was tried: what went wrong before a test arrived is over.
3. A webhook is as long not well as a delivery waits for another attempt, or was given up and not sent again.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from edgefleet_server.alerting.contact_points.model import ContactDelivery, ContactView
from edgefleet_server.webhook.model import DeliveryState, DeliveryView, WebhookView


@dataclass(frozen=True, slots=True)
class Standing:
    """kind: colour and shape. word: the state. said: what follows it, "" where nothing does."""

    kind: str
    word: str
    said: str = ""


def contact_standing(contact: ContactView, messages: Iterable[ContactDelivery]) -> Standing:
    """Return how a contact point stands. messages: to it, newest first."""
    newest = next((one for one in messages if one.attempts_made), None)
    if newest is None:
        return Standing(
            "off", "not tried", f"Messages go to {contact.service}. No message was sent so far: send a test."
        )
    if newest.state == DeliveryState.DEAD:
        said = f"{contact.service} did not take the newest message, and it was given up. Mend it or change the URL, then send a test."
        return Standing("bad", "failing", said)
    if newest.state == DeliveryState.PENDING:
        return Standing(
            "warn", "failing", f"{contact.service} did not take the newest message. It is sent again by itself."
        )
    return Standing("ok", "ready", f"Messages go to {contact.service}, which took the newest one.")


def failing_of(deliveries: Iterable[DeliveryView]) -> int:
    """Return how many deliveries were tried and wait for another attempt."""
    return sum(one.state == DeliveryState.PENDING and one.attempts_made > 0 for one in deliveries)


def webhook_standing(webhook: WebhookView, failing: int, *, is_used: bool) -> Standing:
    """Return how a webhook that is enabled and not on hold stands. failing: `failing_of`; is_used: something was sent to it."""
    if failing or webhook.dead:
        return Standing("warn", "failing" if failing else "enabled")
    return Standing("ok", "enabled") if is_used else Standing("off", "not tried")
