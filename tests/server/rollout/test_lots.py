"""A rollout that is counted by the database is told as one whose devices are read one by one, and a look reads few rows."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import event

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_protocol.messages import AssignmentState
from edgefleet_server.rollout import lot_store, store
from edgefleet_server.rollout.device_views import DeviceQuery
from edgefleet_server.rollout.model import Assignment, Cell, StageState
from tests.server.rollout.fleet_sim import World, make_world, stages

S = AssignmentState
FAILURES = (S.FAILED, S.LOST, S.ROLLED_BACK, S.REGRESSED)


def rollout_of(world: World, devices: int, **spec: Any) -> str:
    """Return a running rollout of so many devices in two strata, in every state that there is; the first stage is judged."""
    world.enrol(4)
    world.release("1.1.0")
    rollout = world.create(stages=stages(2, "100%", soak="10m"), **spec)
    world.engine.tick(is_woken=True)
    chance = Random(7)
    with world.house.db.session() as session:
        first = store.assignments(session, rollout)[0]
        cells = [_cell(world, one, name) for one in store.cells(session, rollout) for name in (one.stratum, "other")]
        store.save_cells(session, rollout, cells)
        many = [_assignment(world, replace(first, device=DeviceId(f"x-{n:05}")), chance, n) for n in range(devices)]
        store.save_assignments(session, rollout, many, [])
    return rollout


def _cell(world: World, cell: Cell, stratum: str) -> Cell:
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
    return replace(
        one,
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


@pytest.mark.parametrize("spec", PACES, ids=["plain", "limits", "pause"])
def test_lots_tell_what_each_device_tells(made: World, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]) -> None:
    rollout = rollout_of(made, 300, **spec)
    reader = made.service.reader
    in_lots = reader.rollout(rollout)
    listed = reader.page(limit=5)
    shown, devices, total = reader.rollout_with(rollout, DeviceQuery(limit=500))
    monkeypatch.setattr(lot_store, "MOST_MOMENTS", -1)
    assert reader.rollout(rollout) == in_lots == shown
    assert reader.page(limit=5) == listed
    assert reader.device_page(rollout, DeviceQuery(limit=500)) == (devices, total)
    assert {one.code for one in in_lots.waits} >= {"ack", "device", "soak", "return", "confirm"}


def test_a_page_of_devices_holds_those_that_are_asked_for(made: World) -> None:
    rollout = rollout_of(made, 200)
    reader = made.service.reader
    everybody = reader.devices(rollout)
    for state, stage in (("healthy", None), (None, "0"), ("unreachable", "s1"), (None, "none")):
        wanted = [
            one for one in everybody if state in (None, one.state) and stage in (None, one.stage, one.stage.lstrip("s"))
        ]
        found, total = reader.device_page(rollout, DeviceQuery(state, stage, "x-00050", 7))
        assert total == len(wanted)
        assert found == [one for one in wanted if one.device > "x-00050"][:7]


def test_a_look_at_a_large_rollout_reads_few_devices(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = rollout_of(made, 2_500)
    read: list[str] = []
    statements: list[str] = []
    plain = store.assignment_of

    def noted(row: Any) -> Assignment:
        read.append(row.device_id)
        return plain(row)

    def told(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        statements.append(statement)

    monkeypatch.setattr(store, "assignment_of", noted)
    event.listen(made.house.db.engine, "before_cursor_execute", told)
    made.service.reader.rollout_with(rollout, DeviceQuery(limit=50))
    assert (len(read) <= 400, len(statements) <= 12) == (True, True), (len(read), statements)
    read.clear()
    made.service.reader.page(limit=20, is_whole=True)
    assert len(read) <= 350
