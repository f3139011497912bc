"""What keeps alerts quiet, and the API of all of it: silences, maintenance windows, acknowledgements, rules; on SQLite and PostgreSQL."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from edgefleet_server.access.model import Role
from edgefleet_server.alerting.active_alerts.tables import Alert
from tests.server.alerting.watched_fleet import WatchedFleet

MAIL = "mailto://127.0.0.1:9/?from=fleet@example.org&to=ops@example.org"


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[WatchedFleet]:
    made = WatchedFleet(tmp_path / "server", database_url, webhook_networks=("127.0.0.0/8",))
    yield made
    made.house.close()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[WatchedFleet]:
    made = WatchedFleet(tmp_path / "server")
    yield made
    made.house.close()


def test_a_silenced_alert_is_shown_and_sends_its_message_when_the_silence_ends(fleet: WatchedFleet) -> None:
    operator, ops = fleet.house.client(Role.OPERATOR), fleet.contact("ops", MAIL)
    device, other = fleet.device(labels={"site": "osaka"}), fleet.device(labels={"site": "oslo"})
    made = operator.post(
        "/api/v1/alert-silences", json={"matchers": ["site=osaka"], "for_s": 3600, "comment": "new router"}
    )
    assert made.status_code == 201, made.text
    key = ("device_offline", f"device:{device.id}")
    device.gone()
    other.gone()
    fleet.run(minutes=12)
    assert fleet.firing() == [("device_offline", f"device:{other.id}")]
    assert fleet.quiet() == {key: f"silence {made.json()['id']}"}
    assert len(fleet.queued(ops)) == 1
    silence = f"/api/v1/alert-silences/{made.json()['id']}"
    assert operator.get(silence).json()["alerts"] == 1
    listed = operator.get("/api/v1/alerts", params={"suppressed": True}).json()
    assert [one["subject"] for one in listed["items"]] == [key[1]]
    assert operator.delete(silence, headers={"if-match": '"other"'}).status_code == 412
    assert operator.delete(silence, headers={"if-match": operator.get(silence).headers["etag"]}).status_code == 204
    fleet.run(minutes=1.5)
    assert fleet.quiet() == {}
    assert device.id in fleet.queued(ops)[-1]
    assert operator.get(silence).json()["is_over"]


def test_the_past_of_one_subject_is_read_without_that_of_others(plain: WatchedFleet) -> None:
    first, other = plain.device(), plain.device()
    plain.run(minutes=5)
    for one in (first, other):
        one.gone()
    plain.run(minutes=12)
    alerts, now = plain.alarm.alerts, plain.house.clock.now
    mine = {"rule": "device_offline", "subject": f"device:{first.id}"}
    assert [one.subject for one in alerts.since(now(), 10, **mine)] == [mine["subject"]]
    assert len(alerts.since(now(), 10)) == len(plain.open())
    assert len(alerts.since(now(), 1)) == 1
    first.back()
    plain.run(minutes=5)
    assert alerts.since(now(), 10, **mine) == []
    (ended,) = alerts.since(now() - timedelta(minutes=10), 10, **mine)
    assert ended.resolved_at is not None


def test_a_silence_that_covers_a_part_of_an_alert_does_not_quiet_it(plain: WatchedFleet) -> None:
    shop = [plain.device(labels={"site": "shop", "n": str(n)}) for n in range(3)]
    plain.alarm.silences.silence([], "n in (0,1)", plain.house.clock.now().replace(hour=23), "", "ann")
    for one in shop:
        one.gone()
    plain.run(minutes=6)
    assert plain.firing() == [("site_silent", "site:shop")]


def test_in_a_maintenance_window_alerts_of_its_devices_are_quiet(plain: WatchedFleet) -> None:
    here, there = plain.device(labels={"site": "lyon"}), plain.device(labels={"site": "oslo"})
    operator = plain.house.client(Role.OPERATOR)
    window = {
        "name": "nightly",
        "cron": "0 14 * * *",
        "duration_s": 3600,
        "tz": "Europe/Paris",
        "selector": "site=lyon",
    }
    made = operator.post("/api/v1/maintenance-windows", json=window)
    assert (made.status_code, made.json()["is_open"]) == (201, False)
    plain.house.clock.turn(hours=1)  # 14:00 in Paris
    here.gone()
    there.gone()
    plain.run(minutes=12)
    assert plain.firing() == [("device_offline", f"device:{there.id}")]
    assert plain.quiet() == {("device_offline", f"device:{here.id}"): "maintenance nightly"}
    assert operator.get("/api/v1/maintenance-windows").json()["items"][0]["is_open"]
    plain.house.clock.turn(minutes=49)
    plain.run(minutes=1)
    assert len(plain.firing()) == 2
    for bad in ({"cron": "every night"}, {"tz": "Mars/Base"}, {"selector": "group=none"}):
        assert operator.post("/api/v1/maintenance-windows", json={**window, **bad}).status_code == 422


def test_a_person_takes_care_of_an_alert_and_everybody_sees_who(fleet: WatchedFleet) -> None:
    operator, viewer = fleet.house.client(Role.OPERATOR), fleet.house.client(Role.VIEWER)
    device = fleet.device()
    device.gone()
    fleet.run(minutes=11)
    (alert,) = viewer.get("/api/v1/alerts").json()["items"]
    path = f"/api/v1/alerts/{alert['id']}"
    assert viewer.post(f"{path}:ack", json={}).status_code == 403
    done = operator.post(f"{path}:ack", json={"comment": "on my way"}).json()
    assert (done["state"], done["acked_by"], done["ack_comment"]) == ("firing", "test", "on my way")
    fleet.run(minutes=1)
    assert viewer.get(path).json()["acked_at"] == done["acked_at"]  # an evaluation takes nothing back
    device.back()
    fleet.run(minutes=2)
    assert viewer.get(path).json()["state"] == "resolved"
    over = operator.post(f"{path}:ack", json={})
    assert (over.status_code, over.json()["code"]) == (409, "alert.over_conflict")
    assert operator.post("/api/v1/alerts/999:ack", json={}).status_code == 404
    assert viewer.get("/api/v1/alerts").json()["total"] == 0
    assert viewer.get("/api/v1/alerts", params={"state": "resolved"}).json()["total"] == 1


def test_a_rule_is_changed_narrowed_switched_off_and_brought_back(plain: WatchedFleet) -> None:
    operator, path = plain.house.client(Role.OPERATOR), "/api/v1/alert-rules/device_offline"
    near, far = plain.device(labels={"site": "lab"}), plain.device(labels={"site": "oslo"})
    near.gone()
    far.gone()
    tag = operator.get(path).headers["etag"]
    changes: dict[str, Any] = {"threshold": 20, "severity": "critical", "selector": "site!=lab", "for_s": 60}
    dry = operator.patch(path, params={"dry_run": True}, json=changes)
    assert (dry.json()["threshold"], operator.get(path).headers["etag"]) == (20, tag)
    assert operator.patch(path, json=changes, headers={"if-match": tag}).json()["changed_by"] == "test"
    assert operator.patch(path, json=changes, headers={"if-match": tag}).status_code == 412
    plain.run(minutes=20.5)
    assert plain.firing() == []
    plain.run(minutes=1)
    assert [(one.subject, one.severity) for one in plain.open().values()] == [(f"device:{far.id}", "critical")]
    operator.patch(path, json={"is_enabled": False})
    plain.run(minutes=0.5)
    assert plain.open() == {}
    back = operator.patch(path, json=dict.fromkeys(("is_enabled", "threshold", "severity", "selector", "for_s"))).json()
    assert (back["is_enabled"], back["threshold"], back["severity"], back["selector"]) == (True, 10, "warning", "")
    for rule, bad in (
        ("device_offline", {"threshold": 1e7}), ("update_failed", {"threshold": 1}), ("offline_share", {"selector": "site=lab"}),
        ("device_offline", {"selector": "group=none"}), ("device_offline", {"unknown": 1}),
    ):  # fmt: skip
        assert operator.patch(f"/api/v1/alert-rules/{rule}", json=bad).status_code == 422, (rule, bad)
    assert operator.get("/api/v1/alert-rules/none").status_code == 404
    actions = [one["action"] for one in plain.house.client(Role.ADMIN).get("/api/v1/audit").json()["items"]]
    assert actions.count("update_alert_rule") >= 4


def test_nobody_quiets_what_tells_that_a_protection_rule_is_got_past(plain: WatchedFleet) -> None:
    admin, subject = plain.house.client(Role.ADMIN), "protection:pci"
    for name in ("break_glass", "protection_ends"):
        for change in ({"is_enabled": False}, {"for_s": 86_400}, {"severity": "info"}):
            refused = admin.patch(f"/api/v1/alert-rules/{name}", json=change)
            assert (refused.status_code, refused.json()["code"]) == (422, "alert.bad_rule"), refused.text
        assert admin.patch(f"/api/v1/alert-rules/{name}", json={"is_enabled": None}).status_code == 200
    for matcher in ("rule=~.*", "severity=critical", "rule=pci"):
        quiet = {"matchers": [matcher], "for_s": 86_400, "comment": "hush"}
        assert admin.post("/api/v1/alert-silences", json=quiet).status_code == 201
    assert admin.post("/api/v1/protection-rules", json={"name": "pci", "selector": ""}).status_code == 201
    assert admin.post("/api/v1/protection-rules/pci:break-glass", json={"reason": "nobody sees it"}).status_code == 201
    assert admin.post("/api/v1/protection-rules/pci:end").status_code == 200
    plain.run(minutes=1)
    assert set(plain.firing()) >= {("break_glass", subject), ("protection_ends", subject)}
    assert plain.quiet() == {}


def test_an_old_critical_alert_comes_before_many_new_warnings(fleet: WatchedFleet) -> None:
    now = fleet.house.clock.now()
    row = {
        "rule": "device_offline",
        "state": "firing",
        "value": 0.0,
        "threshold": 0.0,
        "fired_at": now,
        "resolved_at": None,
    }
    row |= dict.fromkeys(("since", "seen_at"), now) | {"evidence": [], "devices": [], "labels": {}}
    row |= dict.fromkeys(("shown", "summary", "group", "suppressed_by", "acked_by", "ack_comment", "link"), "")
    with fleet.house.parts.db.session() as session:
        session.execute(
            insert(Alert),
            [row | {"subject": f"device:{n}", "severity": "warning" if n else "critical"} for n in range(501)],
        )
    assert [one.subject for one in fleet.alarm.alerts.firing(2)] == ["device:0", "device:500"]
