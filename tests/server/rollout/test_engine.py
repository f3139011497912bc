"""The engine on both databases: rollouts go their way; leases and fences keep replicas and people apart."""

import threading
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from sqlmodel import Session

from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.rollout.controller.controller import RolloutController
from edgefleet_server.rollout.store import rollouts as store_rollouts
from edgefleet_server.rollout.store.rollouts import CLAIM_BATCH, LEASE, lease, lock_due
from edgefleet_server.rollout.store.tables import Rollout
from tests.server.fleet.house import PROFILE
from tests.server.rollout.fleet_sim import MODEL, SMALL, Habit, World, stages

CRASH = Habit(fails_at=Phase.PROBATION, reason="it crashed in its trial")


def row_of(world: World, rollout: str) -> Rollout:
    """Return a rollout's row."""
    with world.house.db.read() as session:
        return store_rollouts.rollout(session, rollout)


def sites(world: World, *names: str) -> list[str]:
    """Start one rollout for each site, two devices each, and return the ids."""
    for name in names:
        world.enrol(2, site=name)
    world.release("1.1.0")
    return [world.create(selector=f"site={name}", stages=stages("100%")) for name in names]


# ---- the way of a rollout


def test_a_good_release_reaches_every_device_stage_by_stage(any_world: World) -> None:
    world = any_world
    world.enrol(8)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create()
    view = world.go_until_state(rollout, "finished")
    assert (view.is_partial, view.code, [stage.state for stage in view.stages]) == (False, "finished", ["passed"] * 3)
    assert {one.running for one in world.devices.values()} == {"1.1.0"}
    assert world.states(rollout) == {"healthy": 8}
    assert [len(stage.devices) for stage in view.stages] == [2, 2, 4]
    assert view.finished_at is not None
    assert row_of(world, rollout).next_eval_at is not None, "its devices may still fall back"
    world.house.clock.turn(hours=25)
    world.tick()
    assert row_of(world, rollout).next_eval_at is None


def test_a_bad_release_stops_at_the_canary_and_goes_back_without_a_download(any_world: World) -> None:
    world = any_world
    world.enrol(8)
    world.settle("1.0.0")
    world.release("1.1.0")
    world.habits["1.1.0"] = CRASH
    rollout = world.create()
    view = world.go_until_state(rollout, "rolled_back", "rollback_incomplete")
    assert (view.state, view.code, view.is_braked) == ("rolled_back", "small_class", True)
    assert "it crashed" not in view.reason
    assert "crash" in view.reason
    exposed = world.exposed(rollout)
    assert len(exposed) <= 2
    assert {one.running for one in world.devices.values()} == {"1.0.0"}
    assert {one.downloads for one in exposed} == {2}, "the first release and the bad one; nothing to go back"
    assert {world.wants(one) for one in world.devices.values()} == {"1.0.0"}
    assert {one.reason for one in world.members(rollout).values() if one.state == "rolled_back"} >= {
        "it crashed in its trial"
    }
    assert world.fleet.hold.names()[0] == [rollout]


def test_one_stratum_may_fail_alone(any_world: World) -> None:
    world = any_world
    good = world.enrol(4)
    bad = world.enrol(4, SMALL)
    world.settle("1.0.0", PROFILE, SMALL)
    world.release("1.1.0", PROFILE, SMALL)
    for one in bad:
        one.habits["1.1.0"] = CRASH
    rollout = world.create()
    view = world.go_until_state(rollout, "finished", "rolled_back", "cancelled")
    assert (view.state, view.is_partial, view.code, view.is_braked) == ("finished", True, "partial", False)
    assert {one.running for one in good} == {"1.1.0"}
    assert {one.running for one in bad} == {"1.0.0"}
    assert "finished in 1 of 2 strata" in view.reason


def test_an_offline_device_is_left_out_and_may_come_back_late(any_world: World) -> None:
    world = any_world
    devices = world.enrol(6)
    world.settle("1.0.0")
    world.release("1.1.0")
    away = devices[0]
    away.is_away = True
    world.presence(away, on=False)
    rollout = world.create(stages=stages("100%"), device={"ack_deadline": "1m"})
    view = world.go_until_state(rollout, "finished", seconds=5)
    assert world.states(rollout) == {"healthy": 5, "unreachable": 1}
    assert "did not take up its document within" in world.member(rollout, away).reason
    assert (view.counts.unreachable, view.counts.exposed) == (1, 5)
    away.is_away = False
    world.go_until(lambda: world.member(rollout, away).state == "healthy", seconds=30)
    assert away.running == "1.1.0"


def test_too_many_offline_devices_promote_nothing(any_world: World) -> None:
    world = any_world
    devices = world.enrol(6)
    world.settle("1.0.0")
    world.release("1.1.0")
    for one in devices[:2]:
        one.is_away = True
    rollout = world.create(
        stages=stages("100%"), device={"ack_deadline": "1m"}, on_inconclusive={"after": "10m", "do": "pause"}
    )
    view = world.go_until_state(rollout, "paused", "finished", seconds=10)
    assert (view.state, view.code) == ("paused", "inconclusive")
    assert "2 of 6 devices never took the release up" in view.reason


def test_a_device_that_joins_mid_stage_is_taken_in(any_world: World) -> None:
    world = any_world
    world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages("100%", soak="1m"))
    world.go(3)
    late = world.enrol(1)[0]
    world.go_until_state(rollout, "finished", seconds=5)
    assert (world.member(rollout, late).is_joiner, world.member(rollout, late).state) == (True, "healthy")
    assert late.running == "1.1.0"


def test_a_device_that_dies_after_its_switch_is_lost(any_world: World) -> None:
    world = any_world
    devices = world.enrol(5)
    world.settle("1.0.0")
    world.release("1.1.0")
    dead = devices[0]
    dead.habits["1.1.0"] = Habit(silent_at=Phase.PROBATION)
    rollout = world.create(stages=stages("100%"), device={"verify_deadline": "2m"}, on_fail="pause")
    world.presence(dead, on=True)
    world.go(10)
    world.presence(dead, on=False)
    world.go_until(lambda: world.member(rollout, dead).state == "lost", seconds=10)
    assert "switched, then silent for" in world.member(rollout, dead).reason
    assert world.view(rollout).counts.failed == 1
    assert world.view(rollout).state == "running", "one lost device is too little to stop, and too much to promote"
    assert "1 of 5 devices failed (lost ×1)" in world.view(rollout).stages[0].reason
    world.service.promote(rollout, "ann", "it was run over by a truck", None)
    assert world.go_until_state(rollout, "finished").stages[0].strength == "override"


def test_a_deployment_over_a_rollout_wins(any_world: World) -> None:
    world = any_world
    devices = world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    newer = world.release("2.0.0")
    rollout = world.create(stages=stages("100%", soak="10m"))
    world.tick()
    world.fleet.deployer.deploy(newer, device=devices[0].id)
    world.go_until(lambda: world.member(rollout, devices[0]).state == "superseded")
    world.go_until(lambda: devices[1].running == "1.1.0")
    world.go(2)
    world.fleet.deployer.deploy(newer, device=devices[1].id)
    world.go_until(lambda: world.member(rollout, devices[1]).state == "superseded")
    assert "another release was set" in world.member(rollout, devices[1]).reason
    world.service.abort(rollout, "ann", "no more", rollback=True)
    world.go_until_state(rollout, "rolled_back")
    assert [world.wants(one) for one in devices] == ["2.0.0", "2.0.0", "1.0.0", "1.0.0"]


# ---- leases and fences


def test_two_engines_tick_every_due_rollout_once(any_world: World) -> None:
    world = any_world
    rollouts = sites(world, *(f"s{index}" for index in range(10)))
    done: list[int] = []
    engines = [world.replica("a"), world.replica("b")]
    threads = [threading.Thread(target=lambda engine=one: done.append(engine.tick())) for one in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done) == len(rollouts)
    assert {row_of(world, one).fence for one in rollouts} == {1}
    assert all(world.states(one) == {"offered": 2} for one in rollouts)
    assert {one.gen for one in world.fleet.documents.all_desired()} == {2}, "the empty document and the offer"


def test_engines_that_race_for_one_rollout_leave_one_chain_of_events(any_world: World) -> None:
    world = any_world
    rollout = sites(world, "a")[0]
    engines = [world.replica(f"e{index}") for index in range(4)]
    for _ in range(15):
        world.step()
        threads = [threading.Thread(target=one.tick, kwargs={"is_woken": True}) for one in engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        world.clock.turn(seconds=1)
    assert world.view(rollout).state == "finished"


def claim(session: Session, owner: str, now: datetime) -> list[tuple[str, int]]:
    """Take what is due as a tick does that only then begins to look."""
    return lease(lock_due(session, owner, now), owner, now)


def test_a_lease_of_a_dead_engine_is_taken_over_when_it_has_run_out(any_world: World) -> None:
    world = any_world
    rollout = sites(world, "a")[0]
    with world.house.db.session() as session:
        assert claim(session, "dead", world.clock.now()) == [(rollout, 1)]
    other = world.replica("other")
    assert (other.tick(), other.tick(is_woken=True)) == (0, 0)
    world.clock.turn(seconds=LEASE.total_seconds() - 1)
    assert other.tick(is_woken=True) == 0
    world.clock.turn(seconds=1)
    assert other.tick() == 1
    assert world.states(rollout) == {"offered": 2}


def test_an_engine_that_was_started_again_goes_on_at_once(any_world: World) -> None:
    world = any_world
    rollout = sites(world, "a")[0]
    with world.house.db.session() as session:
        claim(session, "main", world.clock.now())
    assert world.replica("main").tick() == 1
    assert row_of(world, rollout).fence == 2


def test_a_tick_whose_fence_was_lost_writes_nothing(any_world: World) -> None:
    world = any_world
    rollout = sites(world, "a")[0]
    with world.house.db.session() as session:
        ((_, fence),) = claim(session, "slow", world.clock.now())
    world.clock.turn(seconds=LEASE.total_seconds())
    assert world.replica("fast").tick() == 1
    before = (row_of(world, rollout), world.events(rollout), world.fleet.documents.all_desired())
    world.clock.turn(minutes=1)
    late(world, rollout, fence)
    assert (row_of(world, rollout), world.events(rollout), world.fleet.documents.all_desired()) == before


def test_a_command_between_claim_and_tick_wins(any_world: World) -> None:
    world = any_world
    rollout = sites(world, "a")[0]
    with world.house.db.session() as session:
        ((_, fence),) = claim(session, "main", world.clock.now())
    world.service.pause(rollout, "ann", "wait")
    late(world, rollout, fence)
    assert (world.view(rollout).state, world.states(rollout)) == ("paused", {})
    assert row_of(world, rollout).lease_until is None, "the next tick need not wait for the lease"


def late(world: World, rollout: str, fence: int) -> None:
    """Let an engine do the tick that it claimed long ago."""
    engine: RolloutController = world.engine
    engine._attempt(rollout, fence)  # the moment between the two transactions of a tick


@pytest.mark.parametrize(
    "damage",
    ["spec = '{\"release\": 7}'", "state = 'walking'", "selector = 'a=='", "version = 'x y'"],
    ids=["spec", "state", "selector", "version"],
)
def test_a_rollout_that_cannot_be_read_does_not_stop_the_others(world: World, damage: str) -> None:
    broken, fine = sites(world, "a", "b")
    with world.house.db.session() as session:
        session.execute(text(f"UPDATE rollout SET {damage} WHERE id = :id"), {"id": broken})
    world.engine.tick()
    assert world.states(fine) == {"offered": 2}
    world.clock.turn(minutes=1)
    assert world.engine.tick() >= 1
    with world.house.db.session() as session:
        session.execute(text("DELETE FROM rollout WHERE id = :id"), {"id": broken})
        session.execute(text("DELETE FROM fleet_event WHERE rollout_id = :id"), {"id": broken})


def test_more_rollouts_than_one_claim_takes_are_all_ticked(world: World) -> None:
    rollouts = sites(world, *(f"s{index}" for index in range(CLAIM_BATCH + 2)))
    assert world.engine.tick() == len(rollouts)
    assert world.engine.tick() == 0
    world.clock.turn(seconds=2)
    assert world.engine.tick() == len(rollouts)


def test_what_has_begun_does_not_wait_for_what_begins(any_world: World) -> None:
    world = any_world
    begun = sites(world, *"abcdefghi")
    world.engine.tick()
    for name in (others := "jklmnopqr"):
        world.enrol(1, site=name)
    fresh = []
    for name in others:
        fresh.append(world.create(selector=f"site={name}", stages=stages("100%")))
        world.clock.turn(seconds=1)
    with world.house.db.session() as session:
        now = world.clock.now()
        first = [row.id for row in lock_due(session, "main", now)]
        assert (set(first[:8]) < set(begun), first[8:]) == (True, fresh[:1])
        second = [row.id for row in lock_due(session, "main", now, but=first)]
        assert ({*first[:8], second[0]}, second[1:]) == (set(begun), fresh[1:8])
        third = lock_due(session, "main", now, but=[*first, *second])
        assert [row.id for row in third] == fresh[8:]
    assert world.engine.tick() == 18
    assert all(world.states(one) == {"offered": 1} for one in fresh)


def test_who_is_woken_before_its_time_waits_for_those_whose_time_has_come(any_world: World) -> None:
    world = any_world
    begun = sites(world, *"abc")
    world.engine.tick()
    world.enrol(1, site="d")
    fresh = world.create(selector="site=d", stages=stages("100%"))
    with world.house.db.session() as session:
        woken = [row.id for row in lock_due(session, "main", world.clock.now(), woken_but=())]
        assert (woken[0], set(woken[1:])) == (fresh, set(begun))
        assert [row.id for row in lock_due(session, "main", world.clock.now())] == [fresh]


def test_a_tick_that_took_its_turn_leaves_the_rest_of_the_round_to_the_next(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = any_world
    rollouts = sites(world, *"abcdefghijk")
    monkeypatch.setattr("edgefleet_server.rollout.controller.controller.TURN_S", 0.0)
    engine = world.engine
    assert (engine.tick(), engine.is_behind) == (8, True)
    assert (engine.tick(), engine.is_behind) == (3, False)
    assert all(world.states(one) == {"offered": 2} for one in rollouts)
    assert (engine.tick(is_woken=True), engine.is_behind) == (8, True)
    assert (engine.tick(), engine.is_behind) == (3, False), "news give each one turn, in however many ticks"
    assert (engine.tick(), engine.has_more) == (0, False)


def test_who_is_due_again_in_a_long_round_has_another_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sites(world, *"abcdefghijklmnopq")
    monkeypatch.setattr("edgefleet_server.rollout.controller.controller.TURN_S", 0.0)
    engine = world.engine
    assert [engine.tick(), engine.tick()] == [8, 8]
    world.clock.turn(seconds=2)
    assert engine.tick() == 9, "eight that are due again, and one that begins"
    assert (engine.tick(), engine.is_behind) == (8, True)
    assert (engine.tick(), engine.is_behind) == (0, False)


def test_nobody_is_looked_at_twice_within_a_second_of_a_round(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sites(world, *"abcdefghi")
    monkeypatch.setattr("edgefleet_server.rollout.controller.controller.TURN_S", 0.0)
    # they stay due, as those whose plan wants a look at once
    monkeypatch.setattr(RolloutController, "_one", lambda *_: None)
    engine = world.engine
    assert (engine.tick(), engine.is_behind) == (8, True)
    assert (engine.tick(), engine.is_behind) == (1, False)


def test_news_within_a_round_give_each_another_turn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sites(world, *"abcdefghijk")
    engine = world.engine
    engine.tick()
    monkeypatch.setattr("edgefleet_server.rollout.controller.controller.TURN_S", 0.0)
    assert (engine.tick(is_woken=True), engine.is_behind) == (8, True)
    world.clock.turn(seconds=1)
    assert [engine.tick(is_woken=True), engine.tick(), engine.is_behind] == [8, 3, False]


def test_a_round_that_an_error_broke_off_goes_on_with_the_next_tick(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites(world, *"abcdefghijk")
    engine = world.engine
    engine.tick()
    monkeypatch.setattr("edgefleet_server.rollout.controller.controller.TURN_S", 0.0)
    assert engine.tick(is_woken=True) == 8
    with monkeypatch.context() as patch:
        patch.setattr(engine._glancer, "glance", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.tick()
    assert not engine.is_behind, "it would go on without a pause"
    assert engine.tick() == 3


@pytest.mark.parametrize("cost_s", [0.2, 1.5])
def test_looks_that_fail_keep_nobody_waiting(any_world: World, monkeypatch: pytest.MonkeyPatch, cost_s: float) -> None:
    world = any_world
    rollouts = sites(world, *"abcdefghijklmnopqr")
    world.engine.tick()
    bad, good = set(rollouts[:16]), set(rollouts[16:])
    real, looked_at = RolloutController._one, list[str]()

    def slow_and_broken(engine: RolloutController, rollout_id: str, fence: int) -> None:
        looked_at.append(rollout_id)
        if rollout_id in bad:
            world.clock.turn(seconds=cost_s)
            raise RuntimeError("broken")
        real(engine, rollout_id, fence)

    monkeypatch.setattr(RolloutController, "_one", slow_and_broken)
    monkeypatch.setattr(world.engine._glancer, "glance", lambda *_: {})
    with world.house.db.session() as session:
        for one in good:
            row = session.get(Rollout, one)
            assert row is not None
            row.next_eval_at = world.clock.now() + timedelta(seconds=2.5)
    lags: list[float] = []
    world.engine.on_lag(lambda late_s, _: lags.append(late_s))
    world.clock.turn(seconds=3)
    rounds = 0
    for _ in range(40):
        world.engine.tick()
        if not world.engine.is_behind:
            rounds += 1
            world.clock.turn(seconds=2)
    assert rounds >= 5, "a round ends, and news have their turn"
    assert sum(one in good for one in looked_at) >= 10
    assert max(lags[2:]) <= 16 * cost_s, "all good ones have their turn before a failing one has its second"
    assert bad <= set(looked_at[18:]), "each is tried again"


def test_a_release_that_is_taken_back_by_name_does_not_wait_with_those_that_begin(any_world: World) -> None:
    world = any_world
    world.enrol(1, site="z")
    world.settle("0.9.0")
    world.settle("1.0.0")
    fresh = sites(world, *"abcdefgh")
    world.clock.turn(seconds=1)
    (back,) = world.service.undo(f"{MODEL}@1.0.0", "ann", "bad", dry_run=False).rollouts
    with world.house.db.session() as session:
        first, *others = [row.id for row in lock_due(session, "main", world.clock.now())]
    assert (first, len(others), set(others) < set(fresh)) == (back, 7, True)


def test_nothing_is_offered_in_the_tick_that_stops_the_stratum(any_world: World) -> None:
    world = any_world
    devices = world.enrol(4)
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(stages=stages("100%", soak="1h"))
    world.go(9)
    for one in devices:
        one.regress(ErrorClass.CRASH)
        world.report(one)
    joiner = world.enrol(1)[0]
    world.tick()
    assert world.wants(joiner) == "", "the release is known to be bad"
    view = world.go_until_state(rollout, "rolled_back", "rollback_incomplete")
    assert view.state == "rolled_back"
    assert {world.wants(one) for one in devices} == {"1.0.0"}
    assert joiner.downloads == 0


def test_a_rollout_that_was_finished_is_looked_at_while_somebody_is_away(world: World) -> None:
    devices = world.enrol(6)
    world.settle("1.0.0")
    world.release("1.1.0")
    devices[0].is_away = True
    rollout = world.create(stages=stages("100%"), device={"ack_deadline": "1m"})
    world.go_until_state(rollout, "finished", seconds=5)
    due = row_of(world, rollout).next_eval_at
    assert due is not None
    assert due - world.clock.now() <= timedelta(minutes=1)
