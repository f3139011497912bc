"""The rollouts' routes: roles, pages, and what is refused in which state."""

import pytest
from fastapi.testclient import TestClient

from edgefleet_protocol.ids import DeviceId
from edgefleet_server.access.model import Role
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.rollout.store import assignments
from tests.server.fleet.apps import Operators
from tests.server.rollout.fleet_sim import World, spec_of, stages

HOST = "http://server.test/api/v1"
VERBS = ("pause", "resume", "abort", "promote", "retry")


def client_of(world: World, role: Role = Role.OPERATOR) -> TestClient:
    """Return a client of the world's routes."""
    return Operators(world.house).as_role(role)


def waiting(world: World) -> str:
    """Start a rollout in which two devices are soaking."""
    world.enrol(2)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages("100%", soak="1h"))
    world.go_until(lambda: world.states(rollout) == {"healthy": 2})
    return rollout


def test_a_viewer_looks_and_steers_nothing(world: World) -> None:
    rollout = waiting(world)
    viewer = client_of(world, Role.VIEWER)
    for verb in VERBS:
        assert viewer.post(f"{HOST}/rollouts/{rollout}:{verb}", json={"reason": "x"}).status_code == 403
    assert viewer.post(f"{HOST}/rollouts", json=spec_of()).status_code == 403
    assert viewer.post(f"{HOST}/rollouts:plan", json=spec_of()).status_code == 200
    for path in ("", "/plan", "/devices", "/decisions"):
        assert viewer.get(f"{HOST}/rollouts/{rollout}{path}").status_code == 200
    assert world.view(rollout).state == "running"


def test_a_plan_has_the_spec_in_the_form_in_which_a_rollout_of_it_has_it(world: World) -> None:
    world.enrol(2)
    world.release("1.0.0")
    short = {"release": "digits@1.0.0", "selector": " profile in ( generic-x86_64-ort ) ", "strategy": "canary"}
    client = client_of(world, Role.OPERATOR)
    planned = client.post(f"{HOST}/rollouts:plan", json=short).json()["spec"]
    made = client.post(f"{HOST}/rollouts", json=short).json()["spec"]
    assert planned == made
    assert client.post(f"{HOST}/rollouts:plan", json=planned).json()["spec"] == planned


@pytest.mark.parametrize(
    ("then", "refused"),
    [
        ([], ["resume", "retry"]),
        (["pause"], ["pause", "retry"]),
        (["abort"], list(VERBS)),
        (["abort+"], ["pause", "resume", "abort+", "promote", "retry"]),
    ],
    ids=["running", "paused", "cancelled", "rolling-back"],
)
def test_what_a_state_does_not_allow_is_refused_and_changes_nothing(
    world: World, then: list[str], refused: list[str]
) -> None:
    rollout = waiting(world)
    client = client_of(world)

    def post(verb: str) -> tuple[int, str]:
        body = {"reason": "x"} if verb == "retry" else {"reason": "x", "rollback": verb.endswith("+")}
        answer = client.post(f"{HOST}/rollouts/{rollout}:{verb.rstrip('+')}", json=body)
        return answer.status_code, answer.json().get("next", "")

    assert [post(verb)[0] for verb in then] == [200] * len(then)
    before = (world.view(rollout), world.events(rollout), world.fleet.hold.names()[0])
    for verb in refused:
        status, advice = post(verb)
        assert (status, rollout in advice) == (409, True)
    assert (world.view(rollout), world.events(rollout), world.fleet.hold.names()[0]) == before


def test_more_devices_than_ten_thousand_are_all_listed(world: World) -> None:
    rollout = waiting(world)
    with world.house.db.session() as session:
        one = assignments.assignments(session, rollout)[0]
        many = [one.but(device=DeviceId(f"x-{number:05}")) for number in range(10_050)]
        assignments.save_assignments(session, rollout, many, [])
    client = client_of(world)
    last = client.get(f"{HOST}/rollouts/{rollout}/devices", params={"limit": 1}).json()
    assert last["total"] == 10_052
    after, total = world.service.reader.device_page(rollout, PageRequest(10, "x-10047"))
    assert total == 10_052
    assert [found.device for found in after] == ["x-10048", "x-10049"]
    with world.house.db.session() as session:
        session.execute(assignments.ASSIGNMENT.delete().where(assignments.ASSIGNMENT.c.device_id.like("x-%")))


def test_a_gate_next_to_1_does_not_break_the_list_of_rollouts(world: World) -> None:
    world.enrol(2)
    world.settle("1.0.0")
    world.release("1.1.0")
    gates = {"install": {"max_failure": 1 - 1e-14, "promote_below": 1 - 1e-14}}
    rollout = world.create(stages=stages("100%"), gates=gates)
    assert client_of(world).get(f"{HOST}/rollouts").json()["items"][0]["id"] == rollout
    world.go_until_state(rollout, "finished")
