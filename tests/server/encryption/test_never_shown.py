"""A secret is in the answer that makes it, and nowhere else: not in other answers, pages, the audit trail, logs, errors or the database."""

import json
import logging
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from edgefleet_server.access.model import Role
from edgefleet_server.alerting.alert_rules.fleet_facts import Severity
from edgefleet_server.alerting.contact_points.apprise_client import Looked
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.sealed_columns import SEALED_COLUMNS
from edgefleet_server.outbound.address_policy import parse_networks
from edgefleet_server.outbound.http_post import HttpPoster
from edgefleet_server.process.lifecycle.engine_work import build_webhook_sender
from tests.server.webhook.test_sending import Ticker
from tests.support.receivers import LOOPBACK, receiving
from tests.support.servers import ApiHouse

PASSWORD = "correct-horse-battery-staple"
URL = f"mailtos://fleet:{PASSWORD}@mail.example.org?to=ops@example.org"


def test_secrets_are_shown_once_and_stored_sealed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    house = ApiHouse(tmp_path / "server", webhook_networks=LOOPBACK)
    house.parts = replace(house.parts, poster=HttpPoster(parse_networks(LOOPBACK), SystemClock()))
    sender = Ticker(build_webhook_sender(house.parts, "main", draw=lambda: 0.0))
    try:
        client = house.client(Role.ADMIN)
        with receiving() as receiver:
            made = client.post("/api/v1/webhooks", json={"name": "chat", "url": receiver.url}).json()
            identifier = made["webhook"]["id"]
            secrets = [
                made["secret"],
                client.post(f"/api/v1/webhooks/{identifier}:rotate", json={}).json()["secret"],
                PASSWORD,
            ]
            looked = Looked(URL, "mailtos://mail.example.org", "Email")
            contact = house.parts.alarm.contacts.create("ops", looked, Severity.WARNING, "", "ann", sends_resolved=True)
            with house.parts.db.session() as session:  # so that opening fails, and errors are written down
                session.execute(text("UPDATE webhook_secret SET secret = secret || 'AAAA'"))
                session.execute(text("UPDATE alert_contact_secret SET url = url || 'AAAA'"))
            client.post(f"/api/v1/webhooks/{identifier}:ping")
            house.parts.alarm.contacts.test(contact.id, "ann")
            sender.tick()
            shown = [client.get(path).text for path in (
                "/api/v1/webhooks", f"/api/v1/webhooks/{identifier}", f"/api/v1/webhooks/{identifier}/deliveries", "/api/v1/contact-points",
                f"/api/v1/contact-points/{contact.id}/deliveries", "/api/v1/audit", "/settings/webhooks",
            )]  # fmt: skip
        assert "was changed, or moved" in "".join(shown)
        shown += [record.getMessage() + json.dumps(record.__dict__, default=repr) for record in caplog.records]
        shown += [repr(one) for one in (house.parts.sealer, house.parts.webhooks, looked, house.settings)]
        house.parts.sealer.clean(SEALED_COLUMNS)
        with closing(sqlite3.connect(house.settings.data_dir / "edgefleet.db")) as database:
            shown.append("\n".join(database.iterdump()))
        shown += [path.read_bytes().decode("latin-1") for path in house.settings.data_dir.glob("edgefleet.db*")]
        key = (house.settings.keys_dir / "secrets.key").read_text().splitlines()[1].split()[0]
        for secret in (*secrets, key):
            assert not [one[:200] for one in shown if secret in one]
    finally:
        sender.sender.stop()
        house.close()
