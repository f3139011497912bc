"""Why a device does not run what it should: the first thing in the way, what an open rollout says, and the route that tells it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from edgefleet_server.access.model import Role
from edgefleet_server.fleet.inventory.views import (
    DesiredModel,
    DesiredView,
    DeviceView,
    Refusal,
    ReportedModel,
    ReportedProbation,
)
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.rollout.status.devices import RolloutDevice
from edgefleet_server.rollout.status.explanation import Place, explain
from tests.server.rollout.fleet_sim import World, stages
from tests.server.rollout.test_routes import HOST, client_of

NOON = datetime(2026, 1, 3, 12, tzinfo=UTC)
TWELVE_BEFORE = NOON - timedelta(minutes=12)
OLD, NEW = "a" * 64, "b" * 64
WANTED = DesiredModel("digits", "digits@1.1.0", "digits/1.1.0/p", NEW)
REPORT = ReportedModel(
    "digits", "digits@1.1.0", "digits/1.1.0/p", NEW, "committed", "active", None, "", "", NEW, "", 0, "a", True, NOON
)  # fmt: skip
DEVICE = DeviceView(
    id="d-1",
    profile="p",
    arch="x86_64",
    status=DeviceStatus.ONLINE,
    labels={},
    facts={},
    enrolled_at=NOON,
    last_seen=NOON - timedelta(minutes=1),
    cert_not_after=NOON,
    free_mb=100,
    agent_version="0.1.0",
    desired=DesiredView(7, NOON, None, [WANTED]),
    reported_gen=7,
    refused=None,
    models=[REPORT],
)
LINE = RolloutDevice(
    "d-1", "p", "canary", "p", "eligible", None, "", "", 1, None, None, None, None, None, "", "online", False, False, False
)  # fmt: skip


def device(report: dict[str, Any] | None = None, **changes: Any) -> DeviceView:
    """Return a device that should run digits@1.1.0 and does."""
    if report is not None:
        changes["models"] = [replace(REPORT, **report)]
    return replace(DEVICE, **changes)


@pytest.mark.parametrize(
    ("changes", "why", "is_settled"),
    [
        ({}, "it runs as it should", True),
        ({"status": DeviceStatus.OFFLINE, "report": {"sha256": OLD}}, "it is offline and was last seen 1m ago", False),
        (
            {"status": DeviceStatus.UNKNOWN, "models": [], "last_seen": None},
            "it is not known to be online and was never seen",
            False,
        ),
        (
            {"reported_gen": 6, "report": {"sha256": OLD}},
            "it has not accepted document 7 yet (latest accepted: 6)",
            False,
        ),
        (
            {"reported_gen": 6, "refused": Refusal(7, "desired.signature", "bad")},
            "it refused document 7: desired.signature: bad",
            False,
        ),
        (
            {"reported_gen": 6, "refused": Refusal(0, "tuf.rollback", "version 3")},
            "it has seen newer metadata than the server has: tuf.rollback: version 3",
            False,
        ),
        (
            {"reported_gen": 6, "refused": Refusal(0, "install.child_died", "tried again at 9")},
            "its document is waiting there: install.child_died: tried again at 9",
            False,
        ),
        ({"refused": Refusal(6, "desired.signature", "bad")}, "it runs as it should", True),
        (
            {"report": {"sha256": OLD, "phase": "downloading", "progress_pct": 40}},
            "it is downloading the bundle (40 %)",
            False,
        ),
        ({"report": {"phase": "probation"}}, "on probation", False),
        (
            {
                "report": {
                    "phase": "probation",
                    "changed_at": TWELVE_BEFORE,
                    "probation": ReportedProbation(132, 200, 1800),
                }
            },
            "it has run the new version on probation for 12m: 132 of 200 answers reported so far; it passes after 200, or after 30 min",
            False,
        ),
        (
            {"report": {"sha256": OLD, "phase": "rolled_back", "error_class": "golden", "reason": "no match"}},
            "rolled back: golden: no match",
            False,
        ),
        (
            {"report": {"sha256": OLD, "error_code": "install.spread", "reason": "its part of 10 min"}},
            "its part",
            False,
        ),
        ({"report": {"sha256": OLD, "wanted_sha256": OLD}}, "has not started on this bundle", False),
        ({"models": []}, "it has not started", False),
        ({"desired": DesiredView(7, NOON, None, [])}, "it is being removed", False),
    ],
)
def test_the_first_thing_that_is_in_the_way_is_told(changes: dict[str, Any], why: str, is_settled: bool) -> None:
    (row,) = explain(device(**changes), {}, NOON).items
    assert why in row.why
    assert row.is_settled is is_settled
    assert bool(row.next) is not is_settled


def test_what_an_open_rollout_says_comes_after_it() -> None:
    lagging = device({"sha256": OLD}, reported_gen=6, labels={"edgefleet/pinned": "rig"})
    waiting = replace(LINE, waits_for="its window", moves="the window opens", next="the window opens")
    told = explain(lagging, {"digits": Place("r-1", False, waiting)}, NOON)
    (row,) = told.items
    assert "in r-1 it is eligible, waits for its window" in row.why
    assert (row.next, row.rollout, told.pinned) == ("the window opens", "r-1", "rig")
    soaking = replace(LINE, state="healthy", waits_for="is healthy and soaking", moves="time")
    (row,) = explain(lagging, {"digits": Place("r-1", False, soaking)}, NOON).items
    assert "in r-1 it is healthy, it is healthy and soaking" in row.why
    assert row.next == "nothing: it continues by itself"
    bad = Place("r-2", True, replace(LINE, state="healthy"))
    (row,) = explain(device(), {"digits": bad}, NOON).items
    assert row.why == "it runs as it should; in r-2, which regressed after it had finished, it is healthy"
    assert (row.next, row.is_settled) == ("`edgectl rollout explain r-2`", False)
    (row,) = explain(replace(DEVICE, models=[], desired=DesiredView(0, None, None, [])), {"digits": bad}, NOON).items
    assert (row.wanted, row.running) == (None, None)
    assert row.why.startswith("no version of it is deployed here yet; in r-2")


def test_the_route_says_what_stands_between_document_and_report(world: World) -> None:
    world.enrol(2)
    world.settle("1.0.0")
    viewer = client_of(world, Role.VIEWER)
    first = next(iter(world.devices))
    told = viewer.get(f"{HOST}/devices/{first}/explain").json()
    assert list(told) == ["device", "status", "pinned", "items"]
    assert [list(one) for one in told["items"]] == [
        ["model", "wanted", "running", "is_settled", "why", "next", "rollout"]
    ]
    assert told["items"][0]["is_settled"], told
    world.release("1.1.0")
    rollout = world.create(stages=stages("100%", soak="1h"))
    world.go_until(lambda: world.states(rollout) == {"healthy": 2})
    (row,) = viewer.get(f"{HOST}/devices/{first}/explain").json()["items"]
    assert (row["rollout"], row["wanted"], row["is_settled"]) == (rollout, "digits@1.1.0", False)
    assert f"in {rollout} it is healthy" in row["why"]
    assert viewer.get(f"{HOST}/devices/nobody/explain").status_code == 404


def test_of_two_rollouts_that_are_not_settled_the_newest_is_named_also_when_it_regressed(world: World) -> None:
    world.enrol(2)
    world.settle("1.0.0")
    made = []
    for version in ("1.1.0", "1.2.0"):
        world.release(version)
        made.append(world.create(f"digits@{version}", stages=stages("100%")))
        world.go_until_state(made[-1], "finished")
    first = next(iter(world.devices))
    with world.house.db.session() as session:
        for rollout, state in zip(made, ("paused", "regressed"), strict=True):
            session.execute(text("UPDATE rollout SET state = :state WHERE id = :id"), {"state": state, "id": rollout})
        session.commit()
    (row,) = client_of(world, Role.VIEWER).get(f"{HOST}/devices/{first}/explain").json()["items"]
    assert row["rollout"] == made[1]
    assert f"in {made[1]}, which regressed after it had finished, it is healthy" in row["why"]
    with world.house.db.session() as session:
        session.execute(text("UPDATE rollout SET state = 'finished'"))
        session.commit()
