"""From a silent device to a mail, on SQLite and PostgreSQL, with a real SMTP server."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgefleet_server.access.model import Role
from edgefleet_server.alerting.alert_rules.fleet_facts import Severity
from edgefleet_server.alerting.contact_points.apprise_client import AppriseClient, Looked
from edgefleet_server.alerting.contact_points.errors import BadContactError
from edgefleet_server.clock import SystemClock
from edgefleet_server.composition.alarm_container import Watched, build_alarm
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
def plain_fleet(tmp_path: Path) -> Iterator[WatchedFleet]:
    made = WatchedFleet(tmp_path / "server", webhook_networks=LOOPBACK)
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
        assert "http://127.0.0.1:8080/alerts/" in text
        (event,) = hook.got
        assert event.json["type"] == "edgefleet.alert.firing"
        assert event.json["data"]["detail"]["alerts"][0]["subject"] == f"device:{device.id}"
        device.back()
        fleet.run(minutes=6)
        assert fleet.firing() == []
        sender.tick()
        assert office.subjects[1:] == [f"[ended] Device offline beyond its habit: press 7 ({device.id})"]
        assert hook.got[-1].json["type"] == "edgefleet.alert.resolved"


def test_a_dozen_devices_are_one_message_also_when_they_go_one_after_another(plain_fleet: WatchedFleet) -> None:
    fleet = plain_fleet
    ops = fleet.contact("ops", "mailto://127.0.0.1:9/?from=fleet@example.org&to=ops@example.org")
    silent = [fleet.device(labels={"site": "osaka"}) for _ in range(12)]
    half = [fleet.device(labels={"site": "lyon"}) for _ in range(3)]
    for one in (*silent, *half[:2]):
        one.gone()
    for _ in range(6):
        fleet.device(labels={"site": "kyoto"})
    fleet.alarm.rules.change("offline_share", {"is_enabled": False}, "ann")
    fleet.run(minutes=12)
    assert sorted(fleet.queued(ops)) == [
        "[critical] Silent site: site osaka",
        "[warning] Device offline beyond its habit: 2 in site lyon",
    ]
    half[2].gone()  # Lyon is silent too, and was half silent before
    fleet.run(minutes=7)
    assert fleet.queued(ops)[2:] == ["[critical] Silent site: site lyon"]
    silent[0].back()  # the others are still away: now they say so themselves, in one message
    fleet.run(minutes=7)
    assert sorted(fleet.queued(ops)[3:]) == [
        "[ended] Silent site: site osaka",
        "[warning] Device offline beyond its habit: 11 in site osaka",
    ]


def test_a_contact_point_gets_what_it_asked_for(plain_fleet: WatchedFleet) -> None:
    fleet, url = plain_fleet, "mailto://127.0.0.1:9/?from=fleet@example.org&to=ops@example.org"
    night = fleet.contact("night", url, Severity.CRITICAL)
    lyon = fleet.contact("lyon", url, selector="site=lyon", sends_resolved=False)
    everything = fleet.contact("all", url)
    there, other = fleet.device(labels={"site": "lyon"}), fleet.device(labels={"site": "oslo"})
    there.gone()
    other.gone()
    fleet.run(minutes=12)
    there.back()
    fleet.run(minutes=7)
    assert [len(fleet.queued(one)) for one in (night, lyon, everything)] == [0, 1, 3]
    assert there.id in fleet.queued(lyon)[0]


def test_a_critical_alert_that_nobody_acknowledges_is_sent_again(plain_fleet: WatchedFleet) -> None:
    fleet, url = plain_fleet, "mailto://127.0.0.1:9/?from=fleet@example.org&to=ops@example.org"
    usual, hourly = fleet.contact("usual", url), fleet.contact("hourly", url, repeat_s=3600)
    never, lyon = fleet.contact("never", url, repeat_s=0), fleet.contact("lyon", url, selector="site=lyon")
    every = (usual, hourly, never, lyon)
    for one in [fleet.device(labels={"site": "osaka"}) for _ in range(3)]:
        one.gone()
    fleet.device().gone()  # that is a warning: it is sent once
    fleet.run(minutes=12)
    assert [len(fleet.queued(one)) for one in every] == [2, 2, 2, 0]
    fleet.house.clock.turn(minutes=59)
    fleet.run(minutes=1)
    assert [len(fleet.queued(one)) for one in every] == [2, 3, 2, 0]
    assert fleet.queued(hourly)[2] == "[critical] Silent site: site osaka (again, not acknowledged)"
    for _ in range(3):
        fleet.house.clock.turn(minutes=59)
        fleet.run(minutes=1)
    assert [len(fleet.queued(one)) for one in every] == [3, 6, 2, 0]
    (alert,) = (one for key, one in fleet.open().items() if key[0] == "site_silent")
    fleet.alarm.alerts.acknowledge(alert.id, "I see to it", "ann")
    fleet.house.clock.turn(minutes=300)
    fleet.run(minutes=1)
    assert [len(fleet.queued(one)) for one in every] == [3, 6, 2, 0]


def test_a_contact_point_that_was_changed_goes_on_with_its_new_address(
    plain_fleet: WatchedFleet, office: PostOffice
) -> None:
    fleet = plain_fleet
    made = fleet.contact("ops", "mailto://127.0.0.1:9/?from=fleet@example.org&to=ops@example.org")
    fleet.device().gone()
    fleet.run(minutes=12)
    with lanes(fleet.house) as sender:
        sender.tick()
        assert fleet.alarm.contacts.contact(made.id).held_until is not None
        with pytest.raises(BadContactError):
            fleet.alarm.contacts.look("mailto://10.1.2.3/?from=a@x.org&to=b@x.org")
        changed = fleet.alarm.contacts.change(made.id, {"name": "night"}, fleet.alarm.contacts.look(office.url))
        assert (changed.name, changed.severity, changed.held_until) == ("night", made.severity, None)
        assert changed.shown != made.shown
        sender.tick()
        assert office.subjects == [f"[warning] Device offline beyond its habit: {fleet.open_devices()[0]}"]
        fleet.alarm.contacts.test(made.id, "ann")
        sender.tick()
    assert office.subjects[1:] == ["[test] Contact point night"]
    assert fleet.alarm.contacts.change(made.id, {"selector": "site=x", "repeat_s": 0}).repeat_s == 0
    assert fleet.alarm.contacts.contact(made.id).selector == "site=x"


def test_a_mail_server_that_is_away_gets_the_mail_later_and_once(plain_fleet: WatchedFleet, office: PostOffice) -> None:
    fleet = plain_fleet
    made = fleet.contact("ops", office.url)
    office.refuses = True
    fleet.device().gone()
    fleet.run(minutes=11.5)
    with lanes(fleet.house) as sender:
        sender.tick()
        found, total = fleet.alarm.contacts.deliveries(made.id, before=None, limit=10)
        assert (total, found[0].state, found[0].attempts_made) == (1, "pending", 1)
        assert found[0].error
        assert fleet.alarm.contacts.contact(made.id).held_until is not None
        sender.tick()
        assert office.mails == []
        office.refuses = False
        fleet.house.clock.turn(minutes=1)
        sender.tick()
        sender.tick()
    assert len(office.mails) == 1
    found, _ = fleet.alarm.contacts.deliveries(made.id, before=None, limit=10)
    assert (found[0].state, [bool(one.error) for one in found[0].attempts]) == ("delivered", [True, False])


def test_one_of_several_servers_evaluates_and_one_that_is_late_writes_nothing(fleet: WatchedFleet) -> None:
    parts = fleet.house.parts
    watched = Watched(
        *(parts.fleet, parts.telemetry, parts.signing, parts.webhooks, parts.registry, parts.drift, parts.objectives),
        parts.access,
    )
    other = build_alarm(parts.db, watched, clock=parts.clock, shared=parts.clock, settings=parts.settings).engine
    device = fleet.device()
    device.gone()
    fleet.house.clock.turn(minutes=11)
    assert (fleet.alarm.engine.tick(), other.tick()) == (True, False)
    load = fleet.alarm.engine._facts.load

    def slow(*given: object) -> object:
        """Load facts for longer than the next evaluation waits: another process does that one."""
        device.back()
        fleet.house.clock.turn(minutes=5)
        assert other.tick()
        return load(*given)  # type: ignore[arg-type]

    fleet.house.clock.turn(seconds=30)
    fleet.alarm.engine._facts.load = slow  # type: ignore[method-assign,assignment]
    assert not fleet.alarm.engine.tick()
    fleet.alarm.engine._facts.load = load  # type: ignore[method-assign]
    fleet.run(minutes=2)
    assert fleet.open() == {}


def test_an_evaluation_that_takes_long_is_followed_by_a_longer_pause(fleet: WatchedFleet) -> None:
    engine, clock = fleet.alarm.engine, fleet.house.clock
    load = engine._facts.load

    def slow(*given: object) -> object:
        clock.turn(seconds=2)
        return load(*given)  # type: ignore[arg-type]

    clock.turn(minutes=1)
    engine._facts.load = slow  # type: ignore[method-assign,assignment]
    assert engine.tick()
    engine._facts.load = load  # type: ignore[method-assign]
    clock.turn(seconds=37)
    assert not engine.tick(), "40 s after it began"
    clock.turn(seconds=1)
    assert engine.tick()
    clock.turn(seconds=15)
    assert engine.tick(), "the one before took no time"


def test_the_child_goes_only_where_webhooks_may_go_also_after_a_redirect(plain_fleet: WatchedFleet) -> None:
    fleet, alarm = plain_fleet, plain_fleet.alarm
    for bad in ("mailto://10.1.2.3/?from=a@x.org&to=b@x.org", "jsons://192.168.0.9/hook", "syslog://"):
        with pytest.raises(BadContactError):
            fleet.contact("bad", bad)
    with receiving() as inside, receiving() as outside:
        inner = inside.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")
        outside.answer = lambda _got: (307, {"location": inner}, b"")
        made = fleet.contact("hook", outside.url.replace("http://", "json://"))
        alarm.contacts.test(made.id, "ann")
        with lanes(fleet.house) as sender:
            sender.tick()
        (message,), _ = alarm.contacts.deliveries(made.id, before=None, limit=5)
        assert (message.state, inside.got, len(outside.got)) == ("pending", [], 1)
        assert "not a public address" in message.error, message.error


def test_secrets_in_urls_are_never_shown(plain_fleet: WatchedFleet) -> None:
    admin = plain_fleet.house.client(Role.ADMIN)
    body = {"name": "ops", "url": "mailto://fleet:hunter2secret@127.0.0.1:9/?from=fleet@example.org&to=ops@example.org"}
    made = admin.post("/api/v1/contact-points", json=body)
    assert made.status_code == 201, made.text
    path = f"/api/v1/contact-points/{made.json()['id']}"
    assert admin.post(f"{path}:test", json={}).status_code == 202
    with lanes(plain_fleet.house) as sender:
        sender.tick()
    shown = "".join(
        admin.get(one).text
        for one in (path, "/api/v1/contact-points", f"{path}/deliveries", "/api/v1/webhooks", "/api/v1/audit")
    )
    assert "hunter2secret" not in made.text + shown
    assert '"attempts_made":1' in shown
    assert admin.get("/api/v1/webhooks").json()["total"] == 0
    assert admin.get(f"/api/v1/webhooks/{made.json()['id']}").status_code == 404
    assert admin.delete(path).status_code == 204


def test_nothing_waits_for_the_program_that_looks_at_a_url(
    plain_fleet: WatchedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, db, look = plain_fleet.house.client(Role.ADMIN), plain_fleet.house.parts.db, AppriseClient.look

    def looked(client: AppriseClient, url: str) -> Looked:
        db.check_writing()  # raises where a transaction is open
        return look(client, url)

    monkeypatch.setattr(AppriseClient, "look", looked)
    body = {"name": "ops", "url": "mailto://127.0.0.1:9/?from=fleet@example.org&to=ops@example.org"}
    path = "/api/v1/contact-points"
    assert admin.post(path, params={"dry_run": True}, json=body).status_code == 201
    made = admin.post(path, json=body).json()["id"]
    assert admin.patch(f"{path}/{made}", params={"dry_run": True}, json=body).status_code == 200
    assert admin.patch(f"{path}/{made}", json=body).status_code == 200
