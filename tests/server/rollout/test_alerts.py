"""Alertmanager's webhook: firing alerts pause or roll back, once; resolved ones do nothing; the token can do nothing else."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from edgefleet_server.access.model import Role
from edgefleet_server.access.tables import AuditRow
from edgefleet_server.alerting import rules
from edgefleet_server.alerting.errors import BadMatcherError, BadPayloadError
from edgefleet_server.composition.container import Parts
from tests.server.fleet.apps import parts_of
from tests.server.rollout.fleet_sim import World, stages
from tests.support.apps import shared_app


def alert(
    status: str = "firing", fingerprint: str = "c0ffee", starts: str = "2026-11-25T12:00:00Z", **labels: str
) -> dict[str, Any]:
    """Return one alert as Alertmanager 0.28 sends it."""
    return {
        "status": status,
        "labels": {"alertname": "EdgeErrors", "severity": "critical", **labels},
        "annotations": {"summary": "5 % of the answers are errors"},
        "startsAt": starts,
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus:9090/graph?g0.expr=x",
        "fingerprint": fingerprint,
    }


def notification(*alerts: dict[str, Any], group: str = '{}:{alertname="EdgeErrors"}') -> dict[str, Any]:
    """Return a whole notification."""
    return {
        "version": "4",
        "groupKey": group,
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "edgefleet",
        "groupLabels": {"alertname": "EdgeErrors"},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager:9093",
        "alerts": list(alerts),
    }


class Monitor:
    """The whole app on a world, a running rollout, and a receiver of alerts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.parts: Parts = parts_of(world.house)
        self.http = TestClient(shared_app(self.parts), base_url="http://server.test", raise_server_exceptions=False)
        token = self.parts.access.create_token("ann", [Role.ADMIN], by="test").token
        self.admin = {"authorization": f"Bearer {token}"}

    def receiver(self, **wanted: Any) -> str:
        """Make a receiver; return the path of its URL."""
        answer = self.http.post("/api/v1/alert-receivers", json={"name": "main", **wanted}, headers=self.admin)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["url_path"])

    def send(self, path: str, *alerts: dict[str, Any], **more: Any) -> list[tuple[str, str]]:
        """Send a notification; return outcome and rollout of each alert."""
        answer = self.http.post(path, json=notification(*alerts, **more))
        assert answer.status_code == 200, answer.text
        return [(one["outcome"], one["rollout"]) for one in answer.json()["results"]]

    def rollout(self) -> str:
        """Start a rollout in which two devices are soaking."""
        self.world.enrol(2)
        self.world.settle("1.0.0")
        self.world.release("1.1.0")
        made = self.world.create(stages=stages("100%", soak="1h"))
        self.world.go_until(lambda: self.world.states(made) == {"healthy": 2})
        return made


def test_a_labelled_alert_pauses_its_rollout_once_and_resolved_resumes_nothing(any_world: World) -> None:
    monitor = Monitor(any_world)
    rollout, path = monitor.rollout(), monitor.receiver()
    firing = alert(edgefleet_rollout=rollout)
    assert monitor.send(path, firing) == [("acted", rollout)]
    view = any_world.view(rollout)
    assert view.state == "paused"
    assert view.reason == "paused by alerts main: alert EdgeErrors is firing: 5 % of the answers are errors"
    assert monitor.send(path, alert("resolved", edgefleet_rollout=rollout)) == [("resolved", "")]
    assert any_world.view(rollout).state == "paused"
    any_world.service.resume(rollout, "ann", "we looked at it")
    assert monitor.send(path, firing) == [("seen", rollout)]  # Alertmanager repeats itself: the person's word stands
    assert any_world.view(rollout).state == "running"
    again = alert(edgefleet_rollout=rollout, starts="2026-11-25T13:00:00Z")  # it began to fire anew
    assert monitor.send(path, again) == [("acted", rollout)]
    assert any_world.view(rollout).state == "paused"
    other = alert(edgefleet_rollout=rollout, fingerprint="beef")
    assert monitor.send(path, other) == [("not_possible", rollout)]
    deeds = monitor.parts.alerts.deeds(limit=2)
    assert {(one.receiver, one.rollout) for one in deeds} == {("main", rollout)}
    assert len(deeds) == 2
    told = {(one.outcome, one.starts_at, one.fingerprint) for one in monitor.parts.alerts.deeds(limit=9)}
    assert told == {
        ("acted", "2026-11-25T12:00:00Z", "c0ffee"),
        ("acted", "2026-11-25T13:00:00Z", "c0ffee"),
        ("not_possible", "2026-11-25T12:00:00Z", "beef"),
    }


def test_an_alert_rolls_back_where_the_receiver_says_so(world: World) -> None:
    monitor = Monitor(world)
    rollout, path = monitor.rollout(), monitor.receiver(action="rollback")
    assert monitor.send(path, alert(edgefleet_rollout=rollout)) == [("acted", rollout)]
    view = world.go_until_state(rollout, "rolled_back")
    assert "alert EdgeErrors is firing" in view.reason
    assert {one.running for one in world.devices.values()} == {"1.0.0"}
    ended = alert(edgefleet_rollout=rollout, fingerprint="beef")
    assert monitor.send(path, ended) == [("no_rollout", "")]


def finished(world: World) -> tuple[Monitor, str]:
    """Return a monitor and a rollout that finished just now."""
    monitor = Monitor(world)
    rollout = monitor.rollout()
    world.go_until_state(rollout, "finished", seconds=60)
    return monitor, rollout


def test_an_alert_about_what_finished_takes_it_back_or_asks_a_person(any_world: World) -> None:
    monitor, rollout = finished(any_world)
    asks, takes_back = monitor.receiver(), monitor.receiver(action="rollback")
    assert monitor.send(asks, alert(edgefleet_rollout=rollout)) == [("acted", rollout)]
    view = any_world.view(rollout)
    assert (view.state, view.code) == ("regressed", "alert")
    assert view.reason == "reopened by alerts main: alert EdgeErrors is firing: 5 % of the answers are errors"
    assert [wait.code for wait in view.waits] == ["person"]
    again = alert(edgefleet_rollout=rollout, fingerprint="beef")
    assert monitor.send(asks, again) == [("not_possible", rollout)], "a person was asked already"
    assert monitor.send(takes_back, alert(edgefleet_rollout=rollout)) == [("acted", rollout)]
    any_world.go_until_state(rollout, "rolled_back")
    assert {one.running for one in any_world.devices.values()} == {"1.0.0"}


def test_an_alert_of_a_model_means_what_is_open_or_else_the_newest_that_finished_within_a_day(world: World) -> None:
    monitor, first = finished(world)
    path = monitor.receiver(action="rollback", matchers=["severity=critical"], model="digits")
    world.release("1.2.0")
    second = world.create(release="digits@1.2.0", stages=stages("100%", soak="1h"))
    world.go_until_state(second, "finished", seconds=60)
    assert monitor.send(path, alert()) == [("acted", second)]
    world.go_until_state(second, "rolled_back")
    assert {one.running for one in world.devices.values()} == {"1.1.0"}
    assert world.view(first).state == "finished", "its devices came back to it: none has fallen back"
    world.house.clock.turn(hours=25)
    assert monitor.send(path, alert(fingerprint="beef")) == [("no_rollout", "")]


def test_matchers_choose_alerts_without_a_label_and_the_model_says_which_rollouts(world: World) -> None:
    monitor = Monitor(world)
    rollout = monitor.rollout()
    plain = monitor.receiver()
    matching = monitor.receiver(matchers=['severity="critical"', 'alertname=~"Edge.*"'], model="digits")
    by_label = monitor.receiver(matchers=["severity=critical"])
    assert monitor.send(plain, alert()) == [("not_ours", "")]
    assert monitor.send(matching, alert(severity="warning")) == [("not_ours", "")]
    assert monitor.send(by_label, alert()) == [("no_rollout", "")]
    assert monitor.send(by_label, alert(model="other")) == [("no_rollout", "")]
    assert world.view(rollout).state == "running"
    assert monitor.send(matching, alert()) == [("acted", rollout)]
    world.service.resume(rollout, "ann", "")
    assert monitor.send(by_label, alert(model="digits"), alert(model="digits", fingerprint="b")) == [
        ("acted", rollout),
        ("not_possible", rollout),
    ]


def test_the_token_opens_nothing_else_and_stands_in_no_log(world: World) -> None:
    monitor = Monitor(world)
    path = monitor.receiver()
    token = path.rpartition("/")[2]
    for headers in ({"authorization": f"Bearer {token}"}, {}):
        assert monitor.http.get("/api/v1/rollouts", headers=headers).status_code == 401
    for wrong in ("zzz", token[:-1], token + "A", token.replace("efh_", "edg_"), "efh_" + "a" * 12 + "_" + "b" * 43):
        answer = monitor.http.post(f"/api/v1/hooks/alertmanager/{wrong}", json=notification())
        assert (answer.status_code, answer.json()["code"]) == (401, "alert.unauthorized"), wrong
    assert monitor.send(path) == []
    with world.house.db.read() as session:
        rows = session.execute(select(AuditRow)).scalars().all()
    assert any(row.object == "/api/v1/hooks/alertmanager/{token}" for row in rows)
    assert not any(token.split("_", 2)[2] in json.dumps([row.object, row.actor]) for row in rows)
    listed = monitor.http.get("/api/v1/alert-receivers", headers=monitor.admin)
    assert token not in listed.text
    [receiver] = listed.json()["items"]
    assert receiver["last_used_at"] is not None
    assert monitor.http.delete(f"/api/v1/alert-receivers/{receiver['id']}", headers=monitor.admin).status_code == 204
    assert monitor.http.post(path, json=notification()).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {}, {"version": "3", "groupKey": "g", "alerts": []}, {"version": "4", "alerts": []}, {"version": "4", "groupKey": "g"},
        {"version": "4", "groupKey": "g", "alerts": [1]}, notification({**alert(), "status": "odd"}),
        notification({**alert(), "labels": {"a": 1}}), notification({**alert(), "fingerprint": None}),
        notification({**alert(), "startsAt": 5}), {"version": "4", "groupKey": "g", "alerts": [alert()] * 1001},
    ],
)  # fmt: skip
def test_what_is_no_notification_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadPayloadError) as caught:
        rules.parse_notification(body)
    assert caught.value.next_step


@given(st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5), max_size=5))
def test_no_body_breaks_the_reading(body: dict[str, Any]) -> None:
    with pytest.raises(BadPayloadError):
        rules.parse_notification({"version": "4", "groupKey": "g", "alerts": [body]})


@pytest.mark.parametrize(
    ("matcher", "labels", "holds"),
    [
        ('a="b"', {"a": "b"}, True), ("a=b", {"a": "b"}, True), ('a="b"', {}, False), ('a!="b"', {}, True), ('a=""', {}, True),
        ('a=~"b.*"', {"a": "bc"}, True), ('a=~"b"', {"a": "bc"}, False), ('a!~"b.*"', {"a": "bc"}, False),
        ('a="say \\"hi\\""', {"a": 'say "hi"'}, True),
    ],
)  # fmt: skip
def test_matchers_mean_what_they_mean_in_alertmanager(matcher: str, labels: dict[str, str], holds: bool) -> None:
    assert rules.is_matched(labels, [rules.parse_matcher(matcher)]) is holds
    assert not rules.is_matched(labels, [])


@pytest.mark.parametrize("text", ["", "a", "a==b", '1a="b"', 'a=~"("', "a=b c", "x" * 600])
def test_what_is_no_matcher_is_refused(text: str) -> None:
    with pytest.raises(BadMatcherError):
        rules.parse_matcher(text)
