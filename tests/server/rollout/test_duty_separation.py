"""Whoever moved a rollout on does not approve its stages, with whatever token: tables of the rule, and attempts over the API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from edgefleet_server.access.model import PersonKind, Principal, Role
from edgefleet_server.rollout.commands.duty_separation import (
    Makers,
    refuse_unless_in_role,
    refuse_unless_second_person,
    with_maker,
)
from edgefleet_server.rollout.errors import NotApproverError, OwnApprovalError
from edgefleet_server.rollout.spec.model import Approval, StageSpec
from edgefleet_server.rollout.spec.parser import parse_spec
from edgefleet_server.rollout.store import rollouts as rows
from tests.server.fleet.apps import Operators
from tests.server.rollout.fleet_sim import World, stages
from tests.server.rollout.test_second_try import finished

APPROVAL = {"role": "approver", "timeout": "1d"}
OWN = "rollout.own_approval_forbidden"


def stage() -> StageSpec:
    """Return a stage that an approver opens."""
    spec = parse_spec(
        {"release": "m@1", "selector": "", "stages": [{"name": "all", "size": {"percent": 100}, "approval": APPROVAL}]}
    )
    assert spec.stages[0].approval == Approval(Role.APPROVER, timedelta(days=1))
    return spec.stages[0]


def caller(person: str, *roles: Role, kind: PersonKind = PersonKind.PERSON, name: str = "") -> Principal:
    """Return the caller of a person."""
    return Principal("t", name or person, frozenset(roles or (Role.APPROVER,)), person, kind)


@pytest.mark.parametrize(
    ("who", "error"),
    [
        (caller("bob"), None),
        (caller("bob", Role.ADMIN), None),
        (caller("bob", Role.OPERATOR), NotApproverError),
        (caller("ann"), OwnApprovalError),
        (caller("ann", Role.ADMIN), OwnApprovalError),
        (caller("p-7", name="ann"), OwnApprovalError),
        (caller("robot", kind=PersonKind.SERVICE), NotApproverError),
        (caller("", name="bob"), NotApproverError),
    ],
)
def test_who_opens_a_stage_that_ann_made(who: Principal, error: type[Exception] | None) -> None:
    makers = Makers(["ann"], "ann")
    if error is None:
        refuse_unless_second_person(stage(), who, makers)
    else:
        with pytest.raises(error):
            refuse_unless_second_person(stage(), who, makers)
    if who.may(Role.APPROVER):
        refuse_unless_in_role(stage(), who)


PEOPLE = st.sampled_from(["ann", "bob", "cy", "dan"])


@given(moved=st.lists(PEOPLE, min_size=1, max_size=6), who=PEOPLE, roles=st.sets(st.sampled_from(Role), min_size=1))
def test_a_stage_never_opens_by_whoever_moved_the_rollout_on(moved: list[str], who: str, roles: set[Role]) -> None:
    people: list[str] = []
    for one in moved:
        people = with_maker(people, one)
    asked = caller(who, *roles)
    try:
        refuse_unless_second_person(stage(), asked, Makers(people, moved[0]))
    except (NotApproverError, OwnApprovalError):
        assert who in moved or not asked.may(Role.APPROVER)
    else:
        assert who not in moved


class Crew:
    """People at a world's API, and a rollout that one of them made and that waits for an approval."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.access = Operators(world.house)
        world.enrol(6)
        world.settle("1.0.0")
        world.release("1.1.0")
        self.spec: dict[str, Any] = {"release": "digits@1.1.0", "selector": "", "stages": stages(2, "50%", "100%")}
        self.spec["stages"][1]["approval"] = APPROVAL

    def token(self, name: str, *roles: Role, person: str = "") -> TestClient:
        """Return a client with a new token."""
        made = self.access.parts.access.create_token(name, roles, by="test", person=person).token
        headers = {"authorization": f"Bearer {made}"}
        return TestClient(self.access.app, base_url="http://server.test/api/v1", headers=headers)

    def waiting(self, by: TestClient) -> str:
        """Start a rollout and let it come to where it waits."""
        made = by.post("/rollouts", json=self.spec)
        assert made.status_code == 201, made.text
        rollout = str(made.json()["id"])
        self.world.go_until_state(rollout, "awaiting_approval")
        return rollout


def code_of(client: TestClient, rollout: str, verb: str = "approve", **body: str) -> str:
    """Return the code of a refusal, "" when it was done."""
    answer = client.post(f"/rollouts/{rollout}:{verb}", json={"reason": "x", **body})
    return str(answer.json().get("code", "")) if answer.status_code >= 400 else ""


def test_one_person_is_no_two_whatever_their_tokens(any_world: World) -> None:
    crew = Crew(any_world)
    both = crew.token("ann", Role.OPERATOR, Role.APPROVER)
    rollout = crew.waiting(both)
    assert code_of(both, rollout) == OWN
    assert code_of(crew.token("ann", Role.ADMIN), rollout) == OWN
    assert code_of(crew.token("second laptop", Role.APPROVER, person="ann"), rollout) == OWN
    name = any_world.view(rollout).stages[1].name
    assert code_of(crew.token("ann", Role.ADMIN), rollout, "skip", stage=name) == OWN
    refused = both.post(f"/rollouts/{rollout}:approve", json={}).json()
    assert "needs a second person: ann made this rollout" in refused["detail"]
    assert "edgectl person add NAME" in refused["next"]
    assert code_of(crew.token("bob", Role.APPROVER), rollout) == ""
    assert any_world.go_until_state(rollout, "finished").state == "finished"


@pytest.mark.parametrize("verb", ["resume", "promote", "skip"])
def test_whoever_moves_it_on_is_a_maker_too(world: World, verb: str) -> None:
    crew = Crew(world)
    ann, bob = crew.token("ann", Role.OPERATOR), crew.token("bob", Role.OPERATOR, Role.APPROVER)
    crew.spec["stages"] = stages(2, "30%", "60%", "100%", soak="1h")
    crew.spec["stages"][2]["approval"] = APPROVAL
    made = ann.post("/rollouts", json=crew.spec)
    rollout = str(made.json()["id"])
    world.go_until(lambda: world.states(rollout).get("healthy") == 2)
    body: dict[str, str] = {"skip": {"stage": world.view(rollout).stages[1].name}}.get(verb, {})
    if verb == "resume":
        assert code_of(ann, rollout, "pause") == ""
    assert code_of(bob, rollout, verb, **body) == ""
    world.go_until_state(rollout, "awaiting_approval", seconds=60)
    assert code_of(bob, rollout) == OWN
    assert code_of(crew.token("cy", Role.APPROVER), rollout) == ""


def test_a_retry_makes_a_maker(world: World) -> None:
    rollout, _ = finished(world)
    access = Operators(world.house).parts.access
    bob = access.authenticate(access.create_token("bob", [Role.OPERATOR], by="test").token)
    client = Operators(world.house).as_role(Role.OPERATOR, "bob")
    assert code_of(client, rollout, "resume") == "rollout.illegal_state"
    with world.house.db.read() as session:
        assert rows.rollout(session, rollout).makers == []
    assert client.post(f"/rollouts/{rollout}:retry", json={"reason": "mended", "failed": True}).status_code == 200
    with world.house.db.read() as session:
        assert rows.rollout(session, rollout).makers == [bob.person]


def test_no_service_approves_and_a_disabled_person_cannot(world: World) -> None:
    crew = Crew(world)
    access = crew.access.parts.access
    access.people.create("ci", PersonKind.SERVICE, by="test")
    robot, bob = crew.token("ci", Role.ADMIN), crew.token("bob", Role.APPROVER)
    rollout = crew.waiting(crew.token("ann", Role.OPERATOR))
    assert code_of(robot, rollout) == "rollout.not_approver"
    boss = crew.token("boss", Role.ADMIN)
    assert boss.patch("/people/bob", json={"disabled": True}).status_code == 200
    assert code_of(bob, rollout) == "access.bad_token"
    assert boss.patch("/people/bob", json={"disabled": False}).status_code == 200
    assert code_of(bob, rollout) == "access.bad_token"
    assert code_of(crew.token("bob", Role.APPROVER), rollout) == ""


def test_a_maker_may_still_stop_it(world: World) -> None:
    crew = Crew(world)
    ann = crew.token("ann", Role.OPERATOR, Role.APPROVER)
    rollout = crew.waiting(ann)
    assert code_of(ann, rollout, "deny") == ""
    world.go_until_state(rollout, "rolled_back")
