"""From a silent device to a mail, on SQLite and PostgreSQL, with a real SMTP server."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgefleet_server.clock import SystemClock
from edgefleet_server.outbound.address_policy import parse_networks
from edgefleet_server.outbound.http_post import HttpPoster
from tests.server.alerting.post_office import PostOffice, post_office, text_of
from tests.server.alerting.watched_fleet import WatchedFleet
from tests.server.webhook.test_sending import lanes
from tests.support.receivers import LOOPBACK, receiving


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[WatchedFleet]:
    made = WatchedFleet(tmp_path / "server", database_url, webhook_networks=LOOPBACK)
    made.house.parts = replace(made.house.parts, poster=HttpPoster(parse_networks(LOOPBACK), SystemClock()))
    yield made
    made.house.close()


@pytest.fixture
def office() -> Iterator[PostOffice]:
    with post_office() as made:
        yield made


def test_a_silent_device_is_one_mail_and_its_return_another(fleet: WatchedFleet, office: PostOffice) -> None:
    fleet.contact("ops", office.url)
    device = fleet.device(name="press 7")
    with lanes(fleet.house) as sender, receiving() as hook:
        fleet.house.parts.webhooks.create("own", hook.url, ["edgefleet.alert.*"], "ann")
        device.gone()
        fleet.run(minutes=9)
        assert fleet.firing() == []
        fleet.run(minutes=2)
        assert fleet.firing() == [("device_offline", f"device:{device.id}")]
        sender.tick()
        (mail,) = office.mails
        assert mail["subject"] == f"[warning] Device offline beyond its habit: press 7 ({device.id})"
        text = text_of(mail)
        assert f"press 7 ({device.id}) has been offline for 10 min" in text
        assert "What to do: Look at its power and network" in text
        (event,) = hook.got
        assert event.json["type"] == "edgefleet.alert.firing"
        assert event.json["data"]["detail"]["alerts"][0]["subject"] == f"device:{device.id}"
        device.back()
        fleet.run(minutes=6)
        assert fleet.firing() == []
        sender.tick()
        assert office.subjects[1:] == [f"[ended] Device offline beyond its habit: press 7 ({device.id})"]
        assert hook.got[-1].json["type"] == "edgefleet.alert.resolved"
