"""A rollout that is counted by the database is told as one whose devices are read one by one, and a look reads few rows."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.db.keyset import PageRequest
from edgefleet_server.rollout.analysis.facts import facts_of, facts_of_lots
from edgefleet_server.rollout.model import GUARD_CLASSES, LOST, SMALL_CLASSES, Assignment, StageRun, StageState
from edgefleet_server.rollout.store import assignments, device_counts, rollouts
from tests.server.rollout.fleet_sim import World, make_world, stages
from tests.support.statements import heard

S = AssignmentState
FAILURES = (S.FAILED, S.LOST, S.ROLLED_BACK, S.REGRESSED)
WEIGHTS = (*GUARD_CLASSES[:1], *SMALL_CLASSES[:1], LOST, "disk")
"""A class of failures of each weight as evidence, the heaviest first."""


def rollout_of(world: World, devices: int, *, retried: float = 0.0, **spec: Any) -> str:
    """Return a running rollout of so many devices in two strata, in every state that there is; the first stage is judged.

    retried: share of the devices that failed before and were given another try by a person, whatever became of that.
    """
    world.enrol(4)
    world.release("1.1.0")
    rollout = world.create(stages=stages(2, "100%", soak="10m"), **spec)
    world.engine.tick(is_woken=True)
    chance = Random(7)
    with world.house.db.session() as session:
        first = assignments.assignments(session, rollout)[0]
        known = rollouts.cells(session, rollout)
        others = [_cell(world, one, "other") for one in known]
        rollouts.save_cells(session, rollout, others, [_cell(world, one, one.stratum) for one in known])
        many = [_assignment(world, first.but(device=DeviceId(f"x-{n:05}")), chance, n) for n in range(devices)]
        assignments.save_assignments(session, rollout, [_retried(one, chance, retried) for one in many], [])
    return rollout


def _retried(one: Assignment, chance: Random, share: float) -> Assignment:
    """Return a device with a failure of each weight before its present try, if chance will have it."""
    if chance.random() >= share:
        return one
    exposed = one.exposed_at or one.offered_at
    return one.but(failed_before=chance.choice(WEIGHTS), exposed_at=exposed, attempt=one.attempt + 1)


def _cell(world: World, cell: StageRun, stratum: str) -> StageRun:
    now = world.clock.now()
    opened = replace(cell, stratum=ProfileName(stratum), opened_at=now - timedelta(hours=2), cut=2**63, population=100)
    if cell.stage == 0:
        return replace(opened, state=StageState.PASSED, ended_at=now - timedelta(minutes=30 + len(stratum)))
    return replace(opened, state=StageState.EXPOSING)


def _assignment(world: World, one: Assignment, chance: Random, n: int) -> Assignment:
    now = world.clock.now()
    state = chance.choice([*S, S.HEALTHY, S.HEALTHY])
    at = now - timedelta(seconds=chance.randrange(7_200), microseconds=n)
    is_back = state in FAILURES and chance.random() < 0.5
    return one.but(
        stage=chance.randrange(2),
        stratum=ProfileName("other") if chance.random() < 0.5 else one.stratum,
        state=state,
        is_accepted=chance.random() < 0.1,
        exposed_at=None if state in (S.ELIGIBLE, S.OFFERED) else at,
        switched_at=at if state is S.HEALTHY and chance.random() < 0.9 else None,
        deadline=None if chance.random() < 0.1 else now + timedelta(seconds=60 + n),
        retry_at=now + timedelta(seconds=n) if state is S.ELIGIBLE and chance.random() < 0.5 else None,
        error_class=chance.choice(["", "crash", "offline"]) if state in (*FAILURES, S.UNREACHABLE) else "",
        reason=f"because {n}",
        back_gen=2 if is_back else 0,
        back_at=at if is_back else None,
        back_done_at=at if is_back and chance.random() < 0.3 else None,
    )


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Iterator[World]:
    """A world on each kind of database, whose rollouts are not audited: what stands in them was never done."""
    world = make_world(database_url, tmp_path / "a")
    yield world
    world.house.db.dispose()


PACES: tuple[dict[str, Any], ...] = ({}, {"limits": {"concurrent_downloads": 3}}, {"on_fail": "pause"})


@pytest.mark.parametrize("retried", [0.0, 0.4], ids=["once", "retried"])
@pytest.mark.parametrize("spec", PACES, ids=["plain", "limits", "pause"])
def test_lots_tell_what_each_device_tells(
    made: World, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], retried: float
) -> None:
    rollout = rollout_of(made, 300, retried=retried, **spec)
    reader = made.service.reader
    in_lots = reader.rollout(rollout)
    listed = reader.page(PageRequest(5))
    read = reader.reading(rollout, PageRequest(500))
    shown, devices, total = read.rollout, read.devices, read.total
    monkeypatch.setattr(device_counts, "MOST_MOMENTS", -1)
    assert reader.rollout(rollout) == in_lots == shown
    assert reader.page(PageRequest(5)) == listed
    assert reader.device_page(rollout, PageRequest(500)) == (devices, total)
    assert {one.code for one in in_lots.waits} >= {"ack", "device", "soak", "return", "confirm"}
    assert (in_lots.counts.retried > 50) == bool(retried)
    assert in_lots.counts.retried == sum(one.failed_before != "" for one in devices)


def test_each_decision_counts_retried_devices_in_lots_as_one_by_one(made: World) -> None:
    rollout = rollout_of(made, 300, retried=0.4)
    now = made.clock.now()
    with made.house.db.read() as session:
        snapshot = made.service.loader.snapshot(session, rollouts.rollout(session, rollout))
        lots = device_counts.lots(session, rollout, snapshot.spec, snapshot.cells, now)
    assert (sum(n for _, n in lots), max(n for _, n in lots) > 1) == (len(snapshot.assignments), True)
    for cell in snapshot.cells:
        one_by_one = facts_of(snapshot, cell, snapshot.assignments, now)
        assert facts_of_lots(snapshot, cell, lots, now) == msgspec.structs.replace(one_by_one, words=None)
        assert set(one_by_one.failures) >= set(WEIGHTS)


def test_a_page_of_devices_holds_those_that_are_asked_for_in_the_order_that_is_asked_for(made: World) -> None:
    rollout = rollout_of(made, 200)
    reader = made.service.reader
    everybody = reader.devices(rollout)
    for state, stage in (("healthy", None), (None, "0"), ("unreachable", "s1"), (None, "none")):
        wanted = [
            one for one in everybody if state in (None, one.state) and stage in (None, one.stage, one.stage.lstrip("s"))
        ]
        found, total = reader.device_page(rollout, PageRequest(6, "x-00050"), state=state, stage=stage)
        assert total == len(wanted)
        assert found == [one for one in wanted if one.device > "x-00050"][:7]
        page = PageRequest(6, "x-00150", "-device", is_turned=True)
        back, total = reader.device_page(rollout, page, state=state, stage=stage)
        assert total == len(wanted)
        assert back == [one for one in reversed(wanted) if one.device < "x-00150"][:7]


def test_rollouts_and_places_of_one_device(made: World) -> None:
    mine, yours = (one.id for one in made.enrol(2))
    made.release("1.1.0")
    older = made.create(stages=stages("100%"))
    made.engine.tick(is_woken=True)
    made.service.abort(older, "ann", "no longer wanted", rollback=False)
    made.clock.turn(seconds=1)
    newer = made.create(stages=stages("100%"), selector=f"id={mine}")
    made.engine.tick(is_woken=True)
    reader, few = made.service.reader, PageRequest(5)
    found, total = reader.page(few, device=mine)
    assert ([one.id for one in found], total) == ([newer, older], 2)
    assert [one.id for one in reader.page(few, device=yours)[0]] == [older]
    assert reader.page(few, device=mine, states=["running"])[1] == 1
    assert reader.page(few, device="nobody") == ([], 0)
    places, total = reader.device_page(older, few, device=yours)
    assert ([one.device for one in places], total) == ([yours], 1)
    assert reader.device_page(newer, few, device=yours) == ([], 0)


def test_a_look_at_a_large_rollout_reads_few_devices(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = rollout_of(made, 2_500)
    read: list[str] = []
    plain = assignments.assignment_of

    def noted(row: Any) -> Assignment:
        read.append(row.device_id)
        return plain(row)

    monkeypatch.setattr(assignments, "assignment_of", noted)
    with heard(made.house.db) as statements:
        made.service.reader.reading(rollout, PageRequest(50))
    assert (len(read) <= 600, len(statements) <= 12) == (True, True), (len(read), statements)
    read.clear()
    made.service.reader.page(PageRequest(20), is_whole=True)
    assert len(read) <= 350
