"""Triggers and retrainings through the API: made, started, answered, leased, ended; who may, and who may not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefleet_server.access.model import PersonKind, Role
from tests.server.dashboard.fleet import Fleet
from tests.server.retraining.loop_fleet import API, ROLLOUT, person, trigger
from tests.support.servers import PROFILE, ApiClient, ApiHouse, release_body


def publish(client: Any, house: ApiHouse, version: str = "1.0.0", **changes: Any) -> str:
    """Publish a release of digits; return its name."""
    data = f"model {version}".encode()
    house.put(data)
    answer = client.post(f"{API}/releases", json=release_body(data, version=version, **changes))
    assert answer.status_code in (200, 201), answer.text
    return f"digits@{version}"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path / "server")
    made.release("digits@1.0.0", PROFILE)
    yield made
    made.close()


@pytest.fixture
def house(fleet: Fleet) -> ApiHouse:
    return fleet.house


@pytest.fixture
def admin(house: ApiHouse) -> ApiClient:
    return person(house, "ann", Role.ADMIN)


def queued(house: ApiHouse, run_id: str) -> None:
    """Let the records of a retraining be collected."""
    from edgefleet_server.retraining import store
    from edgefleet_server.retraining.run_steps import RunEvent

    with house.parts.db.session() as session:
        row = store.known_run(session, run_id, lock=True)
        house.parts.retraining.maker.move(session, row, RunEvent.COLLECTED, "it waits for a runner")


def leased(house: ApiHouse, client: ApiClient, admin: ApiClient, **changes: Any) -> dict[str, Any]:
    """Return a retraining that a runner holds, with its lease."""
    assert admin.post(f"{API}/triggers", json=trigger(**changes)).status_code == 201
    run = admin.post(f"{API}/triggers/digits-drift:start", json={}).json()
    queued(house, run["id"])
    house.clock.turn(seconds=1)
    answer = client.post(f"{API}/retrainings:lease", json={"model": "digits", "holder": "box"})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_trigger_is_made_shown_changed_and_removed(house: ApiHouse, admin: ApiClient) -> None:
    made = admin.post(f"{API}/triggers", json=trigger(on="drift", rollout=ROLLOUT))
    assert made.status_code == 201, made.text
    assert (made.json()["approval"], made.json()["budget"], made.json()["cool_down_s"]) == (False, 4, 86_400)
    assert made.json()["launcher"] == {"kind": "runner", "settings": {}, "has_secret": False, "deadline_s": 21_600}
    path = f"{API}/triggers/digits-drift"
    shown = admin.get(path)
    assert (shown.json(), shown.headers["etag"]) == (made.json(), made.headers["etag"])
    assert [one["name"] for one in admin.get(f"{API}/triggers", params={"model": "digits"}).json()["items"]] == [
        "digits-drift"
    ]
    assert admin.get(f"{API}/triggers", params={"model": "other"}).json()["total"] == 0
    assert admin.post(f"{API}/triggers", json=trigger()).json()["code"] == "trigger.exists"
    changed = admin.patch(path, json={"budget": 2, "rollout": None}, headers={"if-match": shown.headers["etag"]})
    assert (changed.json()["budget"], changed.json()["rollout"], changed.json()["on"]) == (2, None, "drift")
    assert admin.patch(path, json={"budget": 3}, headers={"if-match": shown.headers["etag"]}).status_code == 412
    assert admin.delete(path).status_code == 204
    assert admin.get(path).json()["code"] == "trigger.unknown"


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"model": "nobody"}, "model.unknown"),
    ({"on": "schedule"}, "trigger.bad"),
    ({"on": "drift", "schedule": "0 3 * * 1"}, "trigger.bad"),
    ({"on": "schedule", "schedule": "0 3 * *"}, "trigger.bad"),
    ({"on": "schedule", "schedule": "0 3 * * 1", "tz": "Mars/Base"}, "trigger.bad"),
    ({"on": "drift", "objective": "fast"}, "trigger.bad"),
    ({"rollout": {"stages": 3}}, "rollout.bad_spec"),
    ({"rollout": {**ROLLOUT, "release": "digits@1.0.0"}}, "trigger.bad"),
    ({"launcher": {"kind": "runner", "secret": "x"}}, "trigger.bad"),
    ({"budget": -1}, "request.invalid"),
    ({"name": "A b"}, "request.invalid"),
    ({"surprise": 1}, "request.invalid"),
]


def test_a_trigger_that_cannot_be_is_refused(admin: ApiClient) -> None:
    for changes, code in IMPOSSIBLE:
        answer = admin.post(f"{API}/triggers", json=trigger(**changes))
        assert (answer.json()["code"], answer.status_code < 500) == (code, True), answer.text


def test_who_makes_a_trigger_may_do_what_it_will_do(house: ApiHouse, admin: ApiClient) -> None:
    publisher = person(house, "pat", Role.PUBLISHER, model="digits")
    assert publisher.post(f"{API}/triggers", json=trigger(rollout=ROLLOUT)).json()["code"] == "access.forbidden"
    assert person(house, "oz", Role.OPERATOR).post(f"{API}/triggers", json=trigger()).status_code == 403
    assert publisher.post(f"{API}/triggers", json=trigger()).status_code == 201
    other = person(house, "pam", Role.PUBLISHER, model="buds")
    for method, path in (("PATCH", ""), ("DELETE", ""), ("POST", ":start")):
        assert other.request(method, f"{API}/triggers/digits-drift{path}", json={}).status_code == 403
    # nor may a publisher change what acts in the name of another, where that reaches devices
    assert admin.patch(f"{API}/triggers/digits-drift", json={"rollout": ROLLOUT}).status_code == 200
    for change in ({"rollout": None}, {"budget": 100}, {"enabled": False}):
        assert publisher.patch(f"{API}/triggers/digits-drift", json=change).status_code == 403


def test_the_budget_and_a_retraining_under_way_hold_a_start_by_hand(house: ApiHouse, admin: ApiClient) -> None:
    admin.post(f"{API}/triggers", json=trigger(budget=2))
    start = f"{API}/triggers/digits-drift:start"
    first = admin.post(start, json={"reason": "fog"})
    assert (first.status_code, first.json()["state"], first.json()["parent"]) == (201, "collecting", "digits@1.0.0")
    assert "fog" in first.json()["cause"]["words"]
    held = admin.post(start, json={})
    assert (held.status_code, held.json()["code"]) == (409, "trigger.held_conflict")
    assert first.json()["id"] in held.json()["detail"]
    assert admin.delete(f"{API}/triggers/digits-drift").json()["code"] == "trigger.busy_conflict"
    cancel = admin.post(f"{API}/retrainings/{first.json()['id']}:cancel", json={"reason": "no"})
    assert (cancel.json()["state"], cancel.json()["says"]) == ("cancelled", "cancelled by ann: no")
    house.clock.turn(seconds=1)
    assert admin.post(start, json={}, params={"dry_run": True}).status_code == 201
    second = admin.post(start, json={}).json()["id"]
    admin.post(f"{API}/retrainings/{second}:cancel", json={})
    assert "its budget is used: 2 of 2" in admin.post(start, json={}).json()["detail"]
    assert admin.get(f"{API}/triggers/digits-drift").json()["used"] == 2
    house.clock.turn(days=30, seconds=1)
    assert admin.post(start, json={}).status_code == 201
    listed = admin.get(f"{API}/retrainings", params={"model": "digits", "state": "cancelled"}).json()
    assert ([one["id"] for one in listed["items"]], listed["total"]) == ([second, first.json()["id"]], 2)
    page = admin.get(f"{API}/retrainings", params={"limit": 2}).json()
    rest = admin.get(f"{API}/retrainings", params={"limit": 2, "cursor": page["next_cursor"]}).json()
    assert (len(page["items"]), len(rest["items"]), rest["next_cursor"]) == (2, 1, None)


def test_a_second_person_approves_and_no_service_does(house: ApiHouse, admin: ApiClient) -> None:
    maker = person(house, "max", Role.PUBLISHER, Role.APPROVER)
    maker.post(f"{API}/triggers", json=trigger(approval=True))
    run = admin.post(f"{API}/triggers/digits-drift:start", json={}).json()
    assert run["state"] == "awaiting_approval"
    path = f"{API}/retrainings/{run['id']}"
    robot = person(house, "robot", Role.APPROVER, kind=PersonKind.SERVICE)
    refused = {
        "retraining.second_person_forbidden": [maker, admin, robot],  # its maker, the one who started it, a service
        "access.forbidden": [person(house, "vic", Role.VIEWER), person(house, "pub", Role.PUBLISHER)],
    }
    for code, clients in refused.items():
        for client in clients:
            for verb in ("approve", "reject"):
                answer = client.post(f"{path}:{verb}", json={})
                assert (answer.status_code, answer.json()["code"]) == (403, code), (verb, answer.text)
    second = person(house, "sue", Role.APPROVER, model="digits")
    told = second.post(f"{path}:approve", json={"reason": "seen"}, params={"dry_run": True})
    assert (told.json()["state"], admin.get(path).json()["state"]) == ("collecting", "awaiting_approval")
    done = second.post(f"{path}:approve", json={"reason": "seen"}).json()
    assert (done["state"], done["answered_by"]) == ("collecting", "sue")
    assert second.post(f"{path}:reject", json={}).json()["code"] == "retraining.state_conflict"
    kinds = [one["type"] for one in admin.get(f"{API}/events", params={"kind": "retraining"}).json()["items"]]
    assert kinds == ["edgefleet.retraining.collecting", "edgefleet.retraining.awaiting_approval"]
    actions = {row["action"] for row in admin.get(f"{API}/audit").json()["items"]}
    assert {"create_trigger", "start_retraining", "approve_retraining"} <= actions


def test_a_runner_takes_a_retraining_and_its_release_ends_the_training(house: ApiHouse, admin: ApiClient) -> None:
    runner = person(house, "runner", Role.PUBLISHER, model="digits", kind=PersonKind.SERVICE)
    assert runner.post(f"{API}/retrainings:lease", json={"model": "digits", "holder": "box"}).status_code == 204
    held = leased(house, runner, admin)
    run, lease = held["retraining"], held["lease"]
    path = f"{API}/retrainings/{run['id']}"
    assert (run["state"], run["holder"], run["attempts"]) == ("training", "box", 1)
    assert lease not in admin.get(path).text
    assert runner.post(f"{API}/retrainings:lease", json={"model": "digits", "holder": "b2"}).status_code == 204
    data_set = {"digest": "a" * 64, "records": 3, "labelled": 2, "counts": {"random": 3}}
    renewed = runner.post(f"{path}:renew", json={"lease": lease, "progress": "epoch 1", "data_set": data_set}).json()
    assert (renewed["progress"], renewed["data_set"]["records"]) == ("epoch 1", 3)
    for verb, body in (("renew", {}), ("complete", {"release": "digits@1.0.0"}), ("fail", {"why": "x"})):
        wrong = runner.post(f"{path}:{verb}", json={"lease": "guess", **body})
        assert (wrong.status_code, wrong.json()["code"]) == (409, "retraining.lease_conflict"), verb
    house.clock.turn(seconds=1)
    cases: list[tuple[str, dict[str, str], str]] = [
        ("1.0.0", {}, "published before"),
        ("2.0.0", {}, "not named"),
        ("2.0.1", {"parent": "digits@2.0.0"}, "parent"),
        ("2.0.2", {"parent": "digits@1.0.0", "retraining": "rt-x"}, "rt-x"),
    ]
    for version, lineage, words in cases:
        if lineage or version == "2.0.0":
            publish(runner, house, version, lineage=lineage)
        answer = runner.post(f"{path}:complete", json={"lease": lease, "release": f"digits@{version}"})
        assert (answer.json()["code"], words in answer.json()["detail"]) == ("retraining.release_bad", True), words
    publish(runner, house, "2.0.3", lineage={"parent": "digits@1.0.0", "retraining": run["id"]})
    answer = runner.post(f"{path}:complete", json={"lease": lease, "release": "digits@2.0.3"})
    assert (answer.json()["state"], answer.json()["release"]) == ("converting", "digits@2.0.3")
    again = runner.post(f"{path}:complete", json={"lease": lease, "release": "digits@2.0.3"})
    assert (again.status_code, again.json()["state"]) == (200, "converting"), "its first answer was lost"
    late = runner.post(f"{path}:renew", json={"lease": lease})
    assert late.json()["code"] == "retraining.lease_conflict"


def test_a_runner_that_dies_loses_its_lease_and_one_that_gives_it_back_costs_nothing(
    house: ApiHouse, admin: ApiClient
) -> None:
    runner = person(house, "runner", Role.PUBLISHER, model="digits", kind=PersonKind.SERVICE)
    held = leased(house, runner, admin)
    path = f"{API}/retrainings/{held['retraining']['id']}"
    back = runner.post(f"{path}:renew", json={"lease": held["lease"], "gives_back": True}).json()
    assert (back["state"], back["attempts"], back["holder"]) == ("queued", 0, "")
    assert runner.post(f"{path}:renew", json={"lease": held["lease"]}).status_code == 409
    ask = {"model": "digits", "holder": "b2"}
    for attempt in range(1, 6):
        taken = runner.post(f"{API}/retrainings:lease", json=ask)
        assert (taken.status_code, taken.json()["retraining"]["attempts"]) == (200, attempt)
        house.clock.turn(seconds=119)
        assert runner.post(f"{API}/retrainings:lease", json=ask).status_code == 204
        house.clock.turn(seconds=2)
    assert runner.post(f"{API}/retrainings:lease", json=ask).status_code == 204
    ended = admin.get(path).json()
    assert (ended["state"], ended["error"]["code"]) == ("failed", "runner.lost")


def test_a_runner_that_takes_and_gives_back_for_ever_ends_the_retraining(house: ApiHouse, admin: ApiClient) -> None:
    runner = person(house, "runner", Role.PUBLISHER, model="digits", kind=PersonKind.SERVICE)
    held = leased(house, runner, admin)
    path = f"{API}/retrainings/{held['retraining']['id']}"
    ask = {"model": "digits", "holder": "box"}
    for times in range(1, 21):
        back = runner.post(f"{path}:renew", json={"lease": held["lease"], "gives_back": True}).json()
        assert (back["given_back"], back["attempts"]) == (times, 0)
        minutes = 0 if times == 1 else min(2 ** (times - 2), 60)
        if minutes and times < 20:
            assert f"box gave it back, {times} times: a runner may take it from 20" in back["says"]
            house.clock.turn(seconds=60 * minutes - 1)
            assert runner.post(f"{API}/retrainings:lease", json=ask).status_code == 204
            house.clock.turn(seconds=2)
        if times < 20:
            held = runner.post(f"{API}/retrainings:lease", json=ask).json()
    assert (back["state"], back["error"]["code"]) == ("failed", "runner.gave_back")
    assert "box gave it back, 20 times" in back["says"]
    assert runner.post(f"{API}/retrainings:lease", json=ask).status_code == 204


def test_a_token_of_one_model_does_nothing_to_another(house: ApiHouse, admin: ApiClient) -> None:
    runner = person(house, "runner", Role.PUBLISHER, model="digits", kind=PersonKind.SERVICE)
    thief = person(house, "thief", Role.PUBLISHER, model="buds", kind=PersonKind.SERVICE)
    held = leased(house, runner, admin)
    path, lease = f"{API}/retrainings/{held['retraining']['id']}", held["lease"]
    for method, address, body in (
        ("POST", f"{API}/retrainings:lease", {"model": "digits", "holder": "x"}),
        ("POST", f"{path}:renew", {"lease": lease}),
        ("POST", f"{path}:complete", {"lease": lease, "release": "buds@1.0.0"}),
        ("POST", f"{path}:fail", {"lease": lease, "why": "x"}),
        ("POST", f"{path}:cancel", {}),
        ("GET", f"{path}/captures", None),
    ):
        answer = thief.request(method, address, json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "access.forbidden"), address
    assert runner.post(f"{API}/rollouts", json={**ROLLOUT, "release": "digits@1.0.0"}).status_code == 403
    failed = runner.post(f"{path}:fail", json={"lease": lease, "why": "no disk", "code": "training.disk"}).json()
    assert (failed["state"], failed["error"]) == (
        "failed",
        {"code": "training.disk", "why": "no disk", "next_step": ""},
    )


def test_records_of_a_retraining_are_for_publishers_of_its_model(house: ApiHouse, admin: ApiClient) -> None:
    runner = person(house, "runner", Role.PUBLISHER, model="digits", kind=PersonKind.SERVICE)
    held = leased(house, runner, admin)
    answer = runner.get(f"{API}/retrainings/{held['retraining']['id']}/captures")
    assert answer.json() == {"items": [], "next_cursor": None, "total": 0}
    assert "list_retraining_captures" in {row["action"] for row in admin.get(f"{API}/audit").json()["items"]}
