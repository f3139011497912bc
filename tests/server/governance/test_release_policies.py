"""A release that lacks what a policy requires goes to no device, and it is said what is missing and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgefleet_protocol.messages import Phase
from edgefleet_server.access.model import PersonKind, Role
from edgefleet_server.governance.release_policies import rules
from edgefleet_server.governance.release_policies.model import ReleaseFacts, ReleasePolicy
from edgefleet_terms.release_rules import mistakes_in
from tests.server.dashboard.fleet import ORT, Fleet
from tests.server.retraining.loop_fleet import API, ROLLOUT, LoopFleet, person
from tests.support.servers import ApiClient

NOW = datetime(2026, 12, 1, tzinfo=UTC)
BARE = ReleaseFacts("digits@1.0.0", "digits", NOW, missing_parts=("data",))
GOOD = ReleaseFacts("digits@1.0.0", "digits", NOW, "vision team", "MIT", (), 300, True, True, 2)
ALL = ("owner", "licence", "card", "importance", "sealed", "hold_out>=300", "signers>=2")


def policy(**changes: Any) -> ReleasePolicy:
    plain = ReleasePolicy("medical", (), ALL, NOW, NOW, "ann", NOW, "ann")
    return replace(plain, **changes)


def test_each_rule_is_met_or_says_what_is_missing() -> None:
    assert rules.lacking([policy()], GOOD) == []
    found = rules.lacking([policy()], BARE)
    assert [one.rule for one in found] == list(ALL)
    assert all(one.what and one.next_step for one in found)
    assert "measured on 0 samples" in next(one.what for one in found if one.rule == "hold_out>=300")
    almost = replace(GOOD, hold_out=299, signers=1)
    assert [one.rule for one in rules.lacking([policy()], almost)] == ["hold_out>=300", "signers>=2"]


@pytest.mark.parametrize("rule", ["biometric", "owner>=1", "hold_out", "hold_out>=0", "hold_out>=-1", "signers>=2.0"])
def test_a_rule_that_is_not_known_lets_nothing_through(rule: str) -> None:
    assert mistakes_in("medical", [], [rule])
    assert [one.rule for one in rules.lacking([policy(require=(rule,))], GOOD)] == [rule]


@pytest.mark.parametrize(
    ("models", "since", "holds"),
    [
        ((), NOW, True),
        (("digits",), NOW, True),
        (("digit",), NOW, False),
        (("dig*",), NOW, True),
        (("gears", "d*"), NOW, True),
        ((), NOW + timedelta(seconds=1), False),
    ],
)
def test_a_policy_is_about_its_models_from_its_time_on(models: tuple[str, ...], since: datetime, holds: bool) -> None:
    assert rules.holds_for(policy(models=models, since=since), BARE) is holds
    assert bool(rules.lacking([policy(models=models, since=since)], BARE)) is holds


@pytest.mark.parametrize(
    ("changes", "is_weaker"),
    [
        ({}, False),
        ({"require": (*ALL[:-2], "hold_out>=301", "signers>=2")}, False),
        ({"require": (*ALL[:-2], "hold_out>=299", "signers>=2")}, True),
        ({"require": ALL[1:]}, True),
        ({"require": (*ALL, "newer")}, False),
        ({"models": ("digits",)}, True),
        ({"since": NOW - timedelta(days=1)}, False),
        ({"since": NOW + timedelta(seconds=1)}, True),
    ],
)
def test_what_lets_more_through_is_weaker(changes: dict[str, Any], is_weaker: bool) -> None:
    assert rules.weakens(policy(), policy(**changes)) is is_weaker


@pytest.mark.parametrize(
    ("before", "after", "is_weaker"),
    [
        (("ecg",), ("ecg", "gears"), False),
        (("ecg",), ("e*",), False),
        (("e*",), ("ecg",), True),
        (("ec*",), ("e*",), False),
        (("ecg",), (), False),
        ((), ("*",), True),
    ],
)
def test_fewer_models_are_weaker(before: tuple[str, ...], after: tuple[str, ...], is_weaker: bool) -> None:
    assert rules.weakens(policy(models=before), policy(models=after)) is is_weaker


def test_a_rule_of_a_newer_server_that_goes_is_weaker() -> None:
    assert rules.weakens(policy(require=("newer>=3", "owner")), policy(require=("owner",)))
    assert not rules.weakens(policy(require=("newer>=3",)), policy(require=("newer>=3", "owner")))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Releases from before the policy, one from after it, and a device."""
    fleet = Fleet(tmp_path_factory.mktemp("policies") / "server")
    fleet.release("digits@1.0.0", ORT)
    fleet.release("gears@1.0.0", ORT)
    fleet.release("pump@1.0.0", ORT)
    fleet.release("pump@2.0.0", ORT)
    fleet.device("cam-a").connect()
    fleet.house.clock.turn(hours=1)
    made = fleet.house.client(Role.ADMIN).put(
        "/api/v1/release-policies/medical", json={"require": ["owner", "hold_out>=300"]}
    )
    assert made.status_code == 201, made.text
    fleet.house.clock.turn(hours=1)
    fleet.release("digits@2.0.0", ORT)
    yield fleet
    fleet.close()


@pytest.fixture
def admin(fleet: Fleet) -> ApiClient:
    return fleet.house.client(Role.ADMIN)


def test_nothing_deploys_a_release_that_lacks_something(fleet: Fleet, admin: ApiClient) -> None:
    checked = admin.get("/api/v1/releases/digits@2.0.0/policy-check").json()
    assert (checked["is_deployable"], checked["policies"]) == (False, ["medical"])
    assert [one["rule"] for one in checked["findings"]] == ["owner", "hold_out>=300"]
    spec = {"release": "digits@2.0.0", "selector": "", "stages": [{"name": "all", "size": {"percent": 100}}]}
    candidate = {"selector": "", "mode": "shadow"}
    ways = [
        admin.post(path, json=body)
        for path, body in (
            ("/api/v1/releases/digits@2.0.0:deploy", {"selector": ""}),
            ("/api/v1/releases/digits@2.0.0:deploy", {"selector": "", "dry_run": True}),
            ("/api/v1/releases/digits@2.0.0:deploy?dry_run=true", {"selector": ""}),
            ("/api/v1/releases/digits@2.0.0:deploy", candidate),
            ("/api/v1/releases/digits@2.0.0:deploy?dry_run=true", candidate),
            ("/api/v1/rollouts", spec),
            ("/api/v1/rollouts?dry_run=true", spec),
            ("/api/v1/rollouts:plan", spec),
        )
    ]
    for refused in ways:
        body = refused.json()
        assert (refused.status_code, body["code"]) == (409, "governance.policy_not_met"), body
        assert "medical requires owner: its card names no owner; medical requires hold_out>=300: its" in body["detail"]
        assert "card.yaml" in body["next"]
        assert "larger --eval" in body["next"]
        assert [one["rule"] for one in body["errors"]] == ["owner", "hold_out>=300"]
    older = admin.post("/api/v1/releases/digits@1.0.0:deploy", json={"selector": ""})
    assert older.status_code == 200, older.text


def test_policies_are_an_admins_and_audited(fleet: Fleet, admin: ApiClient, tmp_path: Path) -> None:
    operator = fleet.house.client(Role.OPERATOR)
    assert operator.put("/api/v1/release-policies/mine", json={"require": ["owner"]}).status_code == 403
    for act in ("end", "keep", "approve"):
        assert operator.post(f"/api/v1/release-policies/medical:{act}").status_code == 403
    bad = admin.put("/api/v1/release-policies/mine", json={"require": ["everything"]})
    assert (bad.status_code, bad.json()["code"]) == (422, "governance.bad_policy")
    made = admin.put("/api/v1/release-policies/gears", json={"models": ["gears"], "require": ["sealed"]})
    assert made.status_code == 201, made.text
    assert admin.put("/api/v1/release-policies/gears", json={"require": ["sealed"]}).status_code == 200
    assert admin.post("/api/v1/release-policies/gears:end").json() == {"policy": None}
    assert admin.get("/api/v1/release-policies/gears").status_code == 404
    entries = admin.get("/api/v1/audit?object=/api/v1/release-policies/gears").json()["items"]
    assert [one["action"] for one in entries] == ["end_release_policy", "set_release_policy", "set_release_policy"]


def test_what_its_card_states_counts(fleet: Fleet, admin: ApiClient) -> None:
    wanted = {"models": ["gears"], "require": ["owner", "licence", "card"], "since": "2020-01-01T00:00:00Z"}
    assert admin.put("/api/v1/release-policies/carded", json=wanted).status_code == 201
    refused = admin.post("/api/v1/releases/gears@1.0.0:deploy", json={"selector": ""}).json()
    assert refused["code"] == "governance.policy_not_met"
    assert "`edgectl model card set gears@1.0.0 -f card.yaml`" in refused["next"]
    card = {"owner": "Vision", "licence": "MIT", "summary": "Gears", "intended_use": "Lines", "limits": ["dark halls"]}
    assert admin.put("/api/v1/releases/gears@1.0.0/card", json=card).status_code == 200
    checked = admin.get("/api/v1/releases/gears@1.0.0/policy-check").json()
    assert [one["what"] for one in checked["findings"]] == ["its card says nothing of: data"]
    said = "| carded | not met, card: its card says nothing of: data | recorded |"
    assert said in admin.get("/api/v1/releases/gears@1.0.0/card.md").text
    page = fleet.browser(Role.VIEWER).get("/models/gears/1.0.0").text
    assert "may not be deployed" in page
    assert "its card says nothing of: data" in page
    assert admin.put("/api/v1/releases/gears@1.0.0/card", json={**card, "data": "Own photos"}).status_code == 200
    deployed = admin.post("/api/v1/releases/gears@1.0.0:deploy", json={"selector": ""})
    assert deployed.status_code == 200, deployed.text


def test_what_weakens_a_policy_waits_for_a_day_or_a_second_person(fleet: Fleet, admin: ApiClient) -> None:
    path = "/api/v1/release-policies/medical"
    weaker = {"require": ["owner"]}
    waits = admin.put(path, json=weaker)
    assert (waits.status_code, waits.json()["require"]) == (200, ["owner", "hold_out>=300"])
    asked = waits.json()["change"]
    assert (asked["require"], asked["asked_by"], asked["ends"]) == (["owner"], "test", False)
    for role in (Role.VIEWER, Role.ADMIN):
        told = fleet.browser(role).get("/settings/policies").text
        assert ("gets weaker" in told, "Approve" in told) == (True, role is Role.ADMIN)
    fleet.house.clock.turn(hours=1)
    assert admin.put(path, json=weaker).json()["change"]["begins_at"] == asked["begins_at"]
    seen = {"asked_at": asked["asked_at"]}
    own = admin.post(f"{path}:approve", json=seen)
    assert (own.status_code, own.json()["code"]) == (403, "access.forbidden")
    robot = person(fleet.house, "robot", Role.ADMIN, kind=PersonKind.SERVICE)
    assert robot.post(f"{path}:approve", json=seen).status_code == 403
    assert admin.post(f"{path}:keep").json()["change"] is None
    second = person(fleet.house, "ben", Role.ADMIN)
    assert second.post(f"{path}:approve", json=seen).json()["code"] == "governance.no_policy_change"
    seen = {"asked_at": admin.put(path, json=weaker).json()["change"]["asked_at"]}
    fleet.house.clock.turn(seconds=1)
    admin.post(f"{path}:end")  # what the second person did not see
    other = second.post(f"{path}:approve", json=seen)
    assert (other.status_code, other.json()["code"]) == (409, "governance.other_policy_change")
    seen = {"asked_at": admin.put(path, json=weaker).json()["change"]["asked_at"]}
    assert second.post(f"{path}:approve", json=seen).json()["policy"]["require"] == ["owner"]
    assert admin.put(path, json={"require": ["owner", "hold_out>=300"]}).json()["change"] is None
    ends = admin.post(f"{path}:end").json()["policy"]["change"]
    assert ends["ends"]
    fleet.house.clock.turn(hours=23)
    refused = admin.post("/api/v1/releases/digits@2.0.0:deploy?dry_run=true", json={"selector": ""})
    assert refused.json()["code"] == "governance.policy_not_met"
    fleet.house.clock.turn(hours=1)
    assert admin.get(path).status_code == 404
    assert admin.get("/api/v1/releases/digits@2.0.0/policy-check").json()["is_deployable"]
    assert admin.put(path, json=weaker).status_code == 201


def test_an_undo_asks_no_policy(fleet: Fleet, admin: ApiClient) -> None:
    device = fleet.device("cam-b", labels={"site": "yard"})
    device.connect()
    for version in ("1.0.0", "2.0.0"):
        assert admin.post(f"/api/v1/releases/pump@{version}:deploy", json={"selector": "site=yard"}).is_success
        device.report(Phase.COMMITTED, model="pump")
    wanted = {"models": ["pump"], "require": ["owner"], "since": "2020-01-01T00:00:00Z"}
    assert admin.put("/api/v1/release-policies/pumps", json=wanted).status_code == 201
    forward = admin.post("/api/v1/releases/pump@1.0.0:deploy", json={"selector": "site=yard"})
    assert forward.json()["code"] == "governance.policy_not_met"
    undone = admin.post("/api/v1/rollouts:undo", json={"name": "pump", "reason": "smoke"})
    assert undone.status_code == 200, undone.text
    assert undone.json()["devices"] == 1, undone.text


def test_a_retraining_ends_with_the_words_of_the_policy(tmp_path: Path) -> None:
    loop = LoopFleet(tmp_path / "server", devices=1)
    loop.make(rollout=ROLLOUT)
    assert loop.admin.put(f"{API}/release-policies/medical", json={"require": ["owner", "hold_out>=300"]}).is_success
    assert loop.admin.post(f"{API}/triggers/digits-drift:start", json={}).status_code == 201
    loop.tick(seconds=1)
    loop.train()
    loop.tick(seconds=1)
    run = loop.run()
    assert (run["state"], run["error"]["code"], run["rollout"]) == ("failed", "governance.policy_not_met", "")
    assert "medical requires owner: its card names no owner; medical requires hold_out>=300" in run["error"]["why"]
    assert "`edgectl model card set digits@2.0.0 -f card.yaml`" in run["error"]["next_step"]
    loop.close()
