"""Contact points as the rest of the server sees them: made, changed, tried out, removed; notices go to all of them and to webhooks.

The messages are written to the outbox of webhooks in the transaction of the notice: at least once, one a group and change, by one sender.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from edgefleet_protocol.clock import Clock
from edgefleet_server.alerting.active_alerts.notices import Notice
from edgefleet_server.alerting.alert_rules.fleet_facts import Severity
from edgefleet_server.alerting.contact_points import rules, store
from edgefleet_server.alerting.contact_points.apprise_client import AppriseClient, Looked
from edgefleet_server.alerting.contact_points.errors import ContactUnavailableError
from edgefleet_server.alerting.contact_points.model import (
    REPEAT_S,
    ContactAttempt,
    ContactDelivery,
    ContactView,
    Message,
)
from edgefleet_server.alerting.contact_points.tables import AlertContact
from edgefleet_server.db.database import Database
from edgefleet_server.events.log import EventLog
from edgefleet_server.events.model import NewEvent
from edgefleet_server.fleet.errors import BadSelectorError
from edgefleet_server.fleet.selectors.device_selector import DeviceSelector
from edgefleet_server.outbound.http_post import Posted
from edgefleet_server.webhook.channels import Channels, ChannelState
from edgefleet_server.webhook.model import DeliveryView

TRANSPORT: Final = "apprise"
ALERT: Final = "alert"
_PLAIN: Final = ("name", "selector", "sends_resolved", "repeat_s")
_KINDS: Final = {Severity.CRITICAL: "failure", Severity.WARNING: "warning", Severity.INFO: "info"}


class ContactBook:
    """Makes contact points and sends to them. Thread-safe; calls block; writes join the caller's transaction."""

    def __init__(  # the outbox, the log, what sends and where links lead
        self,
        db: Database,
        channels: Channels,
        feed: EventLog,
        devices: DeviceSelector,
        apprise: AppriseClient,
        clock: Clock,
        address: Callable[[], str],
    ) -> None:
        """Wire the parts. address: of the dashboard, for links."""
        self._db = db
        self._channels = channels
        self._feed = feed
        self._devices = devices
        self._apprise = apprise
        self._clock = clock
        self._address = address

    def look(self, url: str) -> Looked:
        """Return what a URL is. Blocks for a child process, so it is asked outside of transactions.

        Raises BadContactError, ContactUnavailableError.
        """
        return self._apprise.look(url)

    def create(  # a contact point is all of these
        self,
        name: str,
        looked: Looked,
        severity: Severity,
        selector: str,
        by: str,
        *,
        sends_resolved: bool,
        repeat_s: int = REPEAT_S,
    ) -> ContactView:
        """Make a contact point. looked: what `look` said of its URL. Raises BadSelectorError, TooManyWebhooksError."""
        if selector:
            self._devices.select(selector)
        with self._db.session() as session:
            channel = self._channels.open("cp", name, looked.shown, by)
            row = AlertContact(
                id=channel.id, name=name, service=looked.service, severity=severity.value, selector=selector,
                sends_resolved=sends_resolved, repeat_s=repeat_s, created_at=self._clock.now(),
            )  # fmt: skip
            session.add(row)
            store.set_url(session, self._channels.sealer, channel.id, looked.url, self._clock.now())
            session.flush()
            return _view(row, channel)

    def change(self, contact_id: str, changes: Mapping[str, Any], looked: Looked | None = None) -> ContactView:
        """Change a contact point by fields of `ContactChangeIn`. looked: what `look` said of its new URL, None: it stays.

        Raises ContactUnknownError, BadSelectorError.
        """
        if changes.get("selector"):
            self._devices.select(str(changes["selector"]))
        with self._db.session() as session:
            row = store.known(session, contact_id)
            for name in _PLAIN:
                setattr(row, name, changes.get(name, getattr(row, name)))
            row.severity = Severity(changes.get("severity", row.severity)).value
            if looked is not None:
                row.service = looked.service
                store.set_url(session, self._channels.sealer, contact_id, looked.url, self._clock.now())
            channel = self._channels.change(contact_id, row.name, None if looked is None else looked.shown)
            session.flush()
            return _view(row, channel)

    def contacts(self) -> list[ContactView]:
        """Return all contact points, oldest first."""
        channels = {one.id: one for one in self._channels.all()}
        with self._db.read() as session:
            return [_view(row, channels[row.id]) for row in store.contacts(session) if row.id in channels]

    def contact(self, contact_id: str) -> ContactView:
        """Return one contact point. Raises ContactUnknownError."""
        with self._db.read() as session:
            store.known(session, contact_id)
        return next(one for one in self.contacts() if one.id == contact_id)

    def delete(self, contact_id: str) -> None:
        """Remove a contact point with its messages. Raises ContactUnknownError."""
        with self._db.session() as session:
            store.remove(session, contact_id)
            self._channels.close(contact_id)

    def test(self, contact_id: str, by: str) -> ContactDelivery:
        """Send a message that says nothing, at once. Raises ContactUnknownError."""
        with self._db.session() as session:
            row = store.known(session, contact_id)
            message = rules.test_message(row.name, self._address(), by)
            made = self._channels.send(
                contact_id, rules.TEST, f"t:{self._clock.now().timestamp()}", _body(message, "info"), now=True
            )
        return _delivery(made, message.subject)

    def deliveries(self, contact_id: str, *, before: int | None, limit: int) -> tuple[list[ContactDelivery], int]:
        """Return messages to a contact point, newest first, with every try, and how many there are. Raises ContactUnknownError."""
        with self._db.read() as session:
            store.known(session, contact_id)
            found, total = self._channels.deliveries(contact_id, before=before, limit=limit)
        return [_delivery(one, str(body.get("subject", ""))) for one, body in found], total

    def announce(self, notice: Notice) -> None:
        """Write a notice down for every contact point that wants it, and as an event for webhooks, in the caller's transaction."""
        with self._db.session() as session:
            message = rules.message_of(notice, self._address())
            self._feed.add([NewEvent(ALERT, _device_of(notice), detail=rules.event_detail(notice, message))])
            self._send(notice, store.contacts(session))

    def repeats(self) -> dict[str, timedelta]:
        """Return after how long each contact point gets again what nobody acknowledged."""
        with self._db.read() as session:
            return {row.id: timedelta(seconds=row.repeat_s) for row in store.contacts(session) if row.repeat_s}

    def remind(self, notice: Notice, contacts: Sequence[str]) -> None:
        """Write a notice down again for some contact points, in the caller's transaction."""
        with self._db.session() as session:
            self._send(notice, [row for row in store.contacts(session) if row.id in contacts])

    def post(self, contact_id: str, body: bytes, timeout_s: float) -> Posted:
        """Send what the outbox holds for a contact point: a transport of `WebhookSender`.

        Raises ContactUnavailableError, and EncryptionError when its URL cannot be opened.
        """
        with self._db.read() as session:
            sealed = store.url_of(session, contact_id)
        if sealed is None:
            raise ContactUnavailableError("the contact point was removed", next_step="nothing is sent any more")
        plain = json.loads(body)
        url = self._channels.sealer.open(sealed)
        return self._apprise.send(url, Message(plain["subject"], plain["text"]), plain["kind"], timeout_s)

    def _send(self, notice: Notice, rows: Sequence[AlertContact]) -> None:
        address = self._address()
        for row in rows:
            part = rules.for_contact(notice, Severity(row.severity), self._selected(row), resolved=row.sends_resolved)
            if part is not None:
                kind = "success" if part.is_over else _KINDS[rules.severity_of(part)]
                body = _body(rules.message_of(part, address), kind)
                self._channels.send(row.id, rules.type_of(part), f"g:{notice.rule}:{notice.group}", body)

    def _selected(self, row: AlertContact) -> frozenset[str] | None:
        """Return the devices of a contact point; one whose selector is wrong by now gets everything."""
        if not row.selector:
            return None
        try:
            return frozenset(one.id for one in self._devices.select(row.selector))
        except BadSelectorError:
            return None


def _device_of(notice: Notice) -> str:
    """Return the device of a notice about one, so that it is in the device's history."""
    devices = {device for one in (*notice.firing, *notice.ended) for device in one.devices}
    return devices.pop() if len(devices) == 1 else ""


def _body(message: Message, kind: str) -> dict[str, Any]:
    return {"subject": message.subject, "text": message.text, "kind": kind}


def _view(row: AlertContact, channel: ChannelState) -> ContactView:
    return ContactView(
        id=row.id, name=row.name, service=row.service, shown=channel.shown, severity=Severity(row.severity),
        selector=row.selector, sends_resolved=row.sends_resolved, repeat_s=row.repeat_s, created_at=channel.created_at,
        created_by=channel.created_by, held_until=channel.held_until, pending=channel.pending, dead=channel.dead,
    )  # fmt: skip


def _delivery(one: DeliveryView, subject: str) -> ContactDelivery:
    return ContactDelivery(
        id=one.id, contact=one.webhook, type=one.type, subject=subject, state=one.state, created_at=one.created_at,
        next_at=one.next_at, done_at=one.done_at, attempts_made=one.attempts_made, error=one.error,
        attempts=[ContactAttempt(each.at, each.took_ms, each.error) for each in one.attempts],
    )  # fmt: skip
