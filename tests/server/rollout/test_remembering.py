"""What is remembered of a rollout is used only while nobody else can have written it."""

from __future__ import annotations

import pytest

from edgefleet_server.rollout.preparation.loader import MOST_KEPT, CachedReports, SnapshotCache
from edgefleet_server.rollout.store import assignments, rollouts
from tests.server.fleet.house import TurnedClock
from tests.server.rollout.explored import START
from tests.server.rollout.fleet_sim import World
from tests.server.rollout.test_doubting import snapshot_of

ONES = snapshot_of(failed=1, healthy=1, under_way=1, waiting=1).assignments
ALL = [{"name": "all", "size": {"percent": 100}, "soak": "1m"}]


def test_assignments_are_those_of_the_very_next_fence_alone() -> None:
    memory = SnapshotCache(TurnedClock(START))
    memory.wrote("r", 7, ONES)
    assert memory.assignments("r", 8) == ONES
    assert memory.assignments("r", 9) is None, "somebody had it in between"
    assert memory.assignments("r", 8) is None, "and it stays forgotten"
    memory.wrote("r", 7, ONES)
    assert memory.assignments("r", 7) is None
    assert memory.assignments("other", 8) is None


def test_the_least_used_is_given_up_first() -> None:
    memory = SnapshotCache(TurnedClock(START))
    for name in ("a", "b"):
        memory._written.put(name, MOST_KEPT // 2 + 1, memory._written.get("x"))  # type: ignore[arg-type]
    assert list(memory._written._kept) == ["b"]


def test_members_are_good_for_nine_times_what_matching_took() -> None:
    clock = TurnedClock(START)
    memory = SnapshotCache(clock)
    began_s = memory.now_s()
    clock.turn(seconds=2)
    memory.match("r", (), began_s)
    clock.turn(seconds=17)
    assert memory.members("r") == ()
    clock.turn(seconds=2)
    assert memory.members("r") is None


def test_a_look_finds_what_is_stored_whoever_wrote_it(any_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefleet_server.rollout.preparation.loader.LARGE", 1)
    any_world.enrol(6)
    any_world.settle("1.0.0")
    any_world.release("1.1.0")
    rollout = any_world.create(stages=ALL)
    other = any_world.replica("other")
    loader = any_world.service.loader
    used = 0
    for number in range(12):
        any_world.step()
        used += loader.memory._written.get(rollout) is not None
        (other if number % 3 == 2 else any_world.engine).tick(is_woken=True)
        with any_world.house.db.session() as session:
            row = rollouts.rollout(session, rollout, lock=True)
            kept = loader.memory.assignments(rollout, row.fence + 1)
            assert kept is None or list(kept) == assignments.assignments(session, rollout)
            devices = [one.device for one in assignments.assignments(session, rollout)]
            model = any_world.service.reader.rollout(rollout).release.partition("@")[0]
            known = loader._reports_now(rollout, devices, model)  # type: ignore[arg-type]
            assert {device: known[device] for device in devices} == loader.reports(devices, model)  # type: ignore[arg-type]
        if number == 5:
            any_world.service.pause(rollout, "ann", "look")
            any_world.service.resume(rollout, "ann", "go on")
        any_world.clock.turn(seconds=20)
    assert used > 6
    assert CachedReports().reports == {}
    any_world.go_until_state(rollout, "finished")
