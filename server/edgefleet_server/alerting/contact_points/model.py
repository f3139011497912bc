"""Values of contact points. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from edgefleet_server.alerting.alert_rules.fleet_facts import Severity

REPEAT_S: Final = 4 * 3600
"""After how long a critical alert that nobody acknowledged is sent again, where nobody says otherwise."""


@dataclass(frozen=True)
class ContactView:
    """A contact point as it is shown. shown: its URL without secrets. severity: the least that is sent; selector: of devices, "" = all.

    repeat_s: after how long a critical alert that nobody acknowledged is sent again, 0: never.
    held_until: after a failure nothing is sent before that. pending, dead: messages in that state.
    """

    id: str
    name: str
    service: str
    shown: str
    severity: Severity
    selector: str
    sends_resolved: bool
    repeat_s: int
    created_at: datetime
    created_by: str
    held_until: datetime | None
    pending: int
    dead: int


@dataclass(frozen=True)
class ContactAttempt:
    """One try: error "" when the service took the message."""

    at: datetime
    took_ms: int
    error: str


@dataclass(frozen=True)
class ContactDelivery:
    """One message on its way. state: pending, delivered or dead."""

    id: int
    contact: str
    type: str
    subject: str
    state: str
    created_at: datetime
    next_at: datetime | None
    done_at: datetime | None
    attempts_made: int
    error: str
    attempts: Sequence[ContactAttempt] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """What a person reads."""

    subject: str
    text: str
