"""The pace of rollouts with the real services: rates, limits, windows, tries and who is away; and that none of it holds a rollback."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from edgefleet_protocol.ids import DeviceId
from edgefleet_protocol.messages import ErrorClass, Phase
from edgefleet_server.rollout.store import assignments, rollouts, throttle
from tests.server.rollout.fleet_sim import Habit, SimDevice, World, stages

NETWORK = Habit(fails_at=Phase.DOWNLOADING, error_class=ErrorClass.NETWORK, code="net.reset", reason="the line broke")
ALWAYS = {"after": "100d", "do": "pause"}


def settled(world: World, count: int, **labels: str) -> list[SimDevice]:
    devices = world.enrol(count, **labels)
    world.settle("1.0.0")
    world.release("1.1.0")
    return devices


def leased(world: World, rollout: str) -> set[DeviceId]:
    with world.house.db.read() as session:
        return {one.device for one in throttle.leases_of(session, rollout)}


def offers(world: World, rollout: str) -> int:
    return sum(one["kind"] == "assignment" and one["to"] == "offered" for one in world.events(rollout))


def waits(world: World, rollout: str) -> dict[str, int]:
    return {one.code: one.count for one in world.view(rollout).waits}


def row(world: World, rollout: str, device: SimDevice) -> Any:
    with world.house.db.read() as session:
        return next(one for one in assignments.assignments(session, rollout) if one.device == device.id)


# ---- rate


def test_a_rate_doubles_each_good_minute_and_joiners_obey_it(any_world: World) -> None:
    world = any_world
    settled(world, 9)
    every = [{**stages("100%")[0], "rate": {"start": "2/min", "factor": 2, "max": "4/min"}}]
    rollout = world.create(stages=every)
    told = []
    for number in range(4):
        for _ in range(6):
            world.go(seconds=10)
        told.append(offers(world, rollout))
        if number == 0:
            assert {"rate": 6, "turn": 1}.items() <= waits(world, rollout).items()
            rate = world.view(rollout).stages[0].rate
            assert rate is not None
            assert (rate.per_min, rate.offered) == (4, 0), "the next minute began"
            world.enrol(2)
    assert told == [2, 6, 10, 11]
    assert world.go_until_state(rollout, "finished").counts.healthy == 11


def test_a_failure_holds_the_rate(world: World) -> None:
    devices = settled(world, 12)
    for one in devices:
        one.habits["1.1.0"] = NETWORK
    every = [{**stages("100%")[0], "rate": {"start": "2/min", "factor": 2, "max": "100/min"}}]
    rollout = world.create(stages=every, device={"retries": {"max": 9, "backoff": "1h..2h"}}, on_inconclusive=ALWAYS)
    for _ in range(24):
        world.go(seconds=10)
    assert offers(world, rollout) == 8, "four minutes of two"
    assert waits(world, rollout)["retry"] == 8


# ---- limits


def test_no_more_downloads_than_allowed_are_under_way(any_world: World) -> None:
    world = any_world
    settled(world, 7)
    rollout = world.create(stages=stages("100%"), limits={"concurrent_downloads": 2})
    world.tick()
    world.clock.turn(seconds=2)
    most = 0
    for _ in range(60):
        world.tick()
        under_way = [one for one in world.devices.values() if world.wants(one) == "1.1.0" and one.running != "1.1.0"]
        downloading = [one for one in under_way if one.state().models[0].phase is not Phase.SWITCHING]
        assert {
            one.id for one in downloading if world.member(rollout, one).state in ("offered", "acked", "downloading")
        } <= leased(world, rollout)
        most = max(most, len(leased(world, rollout)))
        assert len(leased(world, rollout)) <= 2
        if world.view(rollout).state == "finished":
            break
        world.step()
        world.clock.turn(seconds=2)
    assert most == 2
    assert world.view(rollout).state == "finished"
    world.go(2, seconds=5)
    assert leased(world, rollout) == set()


def test_a_site_is_shared_by_all_rollouts(any_world: World) -> None:
    world = any_world
    world.enrol(3, site="lab", line="a")
    world.enrol(3, site="lab", line="b")
    away = world.enrol(1, line="a")
    world.settle("1.0.0")
    world.release("1.1.0")
    made = [world.create(selector=f"line={name}", stages=stages("100%"), limits={"per_site": 2}) for name in "ab"]
    world.tick()
    world.clock.turn(seconds=2)
    world.tick()
    assert sum(len(leased(world, one) - {away[0].id}) for one in made) == 2
    assert away[0].id in leased(world, made[0]), "no label site: at no site"
    told = [wait for one in made for wait in world.view(one).waits if wait.code == "site"]
    assert [(one.count, one.reason) for one in told][-1][1] == "2 downloads are under way at site lab, at most 2 may be"
    for one in made:
        world.go_until_state(one, "finished", seconds=2)


def test_bundles_share_the_bandwidth(world: World) -> None:
    settled(world, 4)
    length = len(b"1.1.0 for generic-x86_64-ort")
    rollout = world.create(stages=stages("100%"), limits={"bandwidth": "8kbps"})
    with world.house.db.session() as session:
        row_ = rollouts.rollout(session, rollout)
        snapshot = world.service.loader.snapshot(session, row_)
    assert {one.length for one in snapshot.bundles.values()} >= {length} or snapshot.bundles
    per_bundle_s = max(one.length for one in snapshot.bundles.values()) * 8 / 8000
    world.tick()
    world.clock.turn(seconds=2)
    began = world.clock.now()
    world.tick()
    assert 1 <= offers(world, rollout) <= 1 + int(2 / per_bundle_s)
    world.go_until_state(rollout, "finished", seconds=2)
    assert (world.clock.now() - began) >= timedelta(seconds=per_bundle_s * 3 - 4)


def test_with_limits_nobody_who_is_away_is_offered_anything_and_joins_on_return(any_world: World) -> None:
    world = any_world
    devices = settled(world, 4)
    away = devices[0]
    away.is_away = True
    world.presence(away, on=False)
    rollout = world.create(
        stages=stages("100%", soak="2h"),
        limits={"concurrent_downloads": 2},
        offline={"after": "10m"},
        device={"ack_deadline": "1h"},
        on_inconclusive=ALWAYS,
    )
    world.go(20, seconds=5)
    assert away.id not in leased(world, rollout)
    (wait,) = [one for one in world.view(rollout).waits if one.code == "away"]
    assert wait.count == 1
    assert "only devices that are there" in wait.reason
    world.go_until(lambda: world.member(rollout, away).state == "unreachable", seconds=30)
    assert world.wants(away) == "1.0.0"
    assert world.view(rollout).counts.unreachable == 1
    away.is_away = False
    world.presence(away, on=True)
    world.go_until(lambda: away.running == "1.1.0", seconds=2)
    world.go_until_state(rollout, "finished", seconds=600)


def test_who_stays_away_finds_its_document_after_the_end(world: World) -> None:
    devices = settled(world, 6)
    away = devices[0]
    away.is_away = True
    world.presence(away, on=False)
    rollout = world.create(stages=stages("100%"), limits={"per_site": 2}, offline={"after": "10m"})
    world.go_until_state(rollout, "finished", seconds=20)
    assert world.wants(away) == "1.1.0"
    away.is_away = False
    world.presence(away, on=True)
    world.go_until(lambda: world.member(rollout, away).state == "healthy", seconds=30)


def test_an_offer_that_is_not_taken_up_gives_its_lease_back(world: World) -> None:
    devices = settled(world, 3)
    deaf = devices[0]
    deaf.is_away = True  # its connection stands, but it says nothing
    rollout = world.create(
        stages=stages("100%"),
        limits={"concurrent_downloads": 1},
        device={"ack_deadline": "25m"},
        on_inconclusive=ALWAYS,
    )
    world.go_until(lambda: world.view(rollout).counts.healthy == 2, seconds=60)
    world.go_until(lambda: world.member(rollout, deaf).state == "unreachable", seconds=300)
    assert row(world, rollout, deaf).attempt >= 2
    world.go(3, seconds=600)
    assert leased(world, rollout) == set()
    assert world.wants(deaf) == "1.0.0"
    world.service.promote(rollout, "ann", "it is deaf", None)
    world.go_until_state(rollout, "finished", seconds=30)


# ---- windows


def test_outside_of_its_window_a_device_is_not_offered_and_says_when_it_will_be(any_world: World) -> None:
    world = any_world
    here, there = world.enrol(1, tz="Europe/Berlin")[0], world.enrol(1, tz="America/New_York")[0]
    world.settle("1.0.0")
    world.release("1.1.0")
    rollout = world.create(
        stages=stages("100%"), windows=[{"cron": "0 1 * * *", "duration": "4h"}], on_inconclusive=ALWAYS
    )
    world.go(3)
    assert waits(world, rollout) == {"window": 2}
    told = world.member(rollout, here)
    assert (told.state, told.until) == ("eligible", world.clock.now().replace(day=26, hour=0, minute=0, second=0))
    assert (
        "outside of its window, `0 1 * * *` for 4 h in its own time zone: the next one opens 2026-11-26 00:00Z"
        in told.waits_for
    )
    world.clock.turn(hours=12)
    world.go_until(lambda: here.running == "1.1.0")
    assert world.member(rollout, there).state == "eligible"
    there.is_away = True
    world.clock.turn(hours=6)
    world.go(2)
    assert world.member(rollout, there).state == "offered"
    world.clock.turn(hours=4)
    world.go(2)
    assert world.member(rollout, there).state == "eligible", "its window closed before it took its offer up"
    assert world.wants(there) == "1.0.0"
    there.is_away = False
    world.go(3)
    assert there.running == "1.0.0"
    world.clock.turn(hours=20)
    world.go_until_state(rollout, "finished")


def test_a_device_without_a_time_zone_says_what_to_do(world: World) -> None:
    device = settled(world, 1, tz="UTC")[0]
    rollout = world.create(stages=stages("100%"), windows=[{"cron": "* * * * *", "duration": "1h"}])
    world.fleet.edits.update(device.id, {"tz": None}, None)
    world.go(2)
    told = world.member(rollout, device)
    assert "it has no label tz" in told.waits_for
    assert f"edgectl device label {device.id} tz=" in told.moves
    world.fleet.edits.update(device.id, {"tz": "Asia/Kolkata"}, None)
    world.go_until_state(rollout, "finished")


# ---- tries


def test_a_broken_line_is_tried_again_and_again_and_then_fails(any_world: World) -> None:
    world = any_world
    devices = settled(world, 3)
    bad = devices[0]
    bad.habits["1.1.0"] = NETWORK
    rollout = world.create(
        stages=stages("100%"),
        device={"retries": {"max": 2, "backoff": "1m..4m", "on": ["network"]}},
        on_inconclusive=ALWAYS,
    )
    world.go()
    world.go_until(lambda: row(world, rollout, bad).retries == 1)
    told = world.member(rollout, bad)
    assert told.state == "eligible"
    assert told.waits_for.startswith("network: the line broke; retry 1 of 2 not before 2026-")
    assert told.until is not None
    assert timedelta(seconds=25) <= told.until - world.clock.now() <= timedelta(minutes=1)
    assert world.wants(bad) == "1.0.0"
    world.go_until(lambda: world.member(rollout, bad).state == "failed", seconds=10)
    assert (row(world, rollout, bad).attempt, row(world, rollout, bad).retries) == (3, 2)
    assert world.member(rollout, bad).reason == "the line broke (retried 2 times)"
    world.service.promote(rollout, "ann", "its line is known to be bad", None)
    world.go_until_state(rollout, "finished")


def test_a_try_that_works_is_as_good_as_the_first(world: World) -> None:
    devices = settled(world, 3)
    devices[0].habits["1.1.0"] = NETWORK
    rollout = world.create(stages=stages("100%"), device={"retries": {"max": 2, "backoff": "1m..4m"}})
    world.go()
    world.go_until(lambda: row(world, rollout, devices[0]).retries == 1)
    devices[0].habits["1.1.0"] = Habit()
    view = world.go_until_state(rollout, "finished", seconds=10)
    assert (view.counts.healthy, view.counts.failed, devices[0].running) == (3, 0, "1.1.0")


# ---- away


def test_who_stays_away_may_count_as_failed_until_it_comes_back(any_world: World) -> None:
    world = any_world
    devices = settled(world, 12)
    away = devices[0]
    away.is_away = True
    world.presence(away, on=False)
    rollout = world.create(
        stages=stages("100%", soak="3h"), offline={"after": "30m", "count": "failed"}, on_inconclusive=ALWAYS
    )
    world.go()
    world.go_until(lambda: world.member(rollout, away).state == "unreachable", seconds=60)
    counts = world.view(rollout).counts
    assert (counts.failed, counts.unreachable, counts.exposed) == (1, 0, 12)
    assert "due, and not heard of since" in world.member(rollout, away).reason
    away.is_away = False
    world.presence(away, on=True)
    world.go_until(lambda: away.running == "1.1.0", seconds=5)
    view = world.go_until_state(rollout, "finished", seconds=600)
    assert (view.counts.failed, view.counts.healthy) == (0, 12)


# ---- back


def test_a_rollback_is_held_by_nothing(any_world: World) -> None:
    world = any_world
    devices = settled(world, 6, tz="UTC")
    rollout = world.create(
        stages=[{**stages("100%", soak="10h")[0], "rate": {"start": "60/min"}}],
        limits={"concurrent_downloads": 6},
        windows=[{"cron": "0 12 * * *", "duration": "1h", "tz": "UTC"}],
        on_inconclusive=ALWAYS,
    )
    world.go_until(lambda: all(one.running == "1.1.0" for one in devices), seconds=2)
    world.clock.turn(hours=3)
    world.go()
    order = sorted(world.members(rollout).values(), key=lambda one: (one.exposed_at, one.device), reverse=True)
    before = world.clock.now()
    world.service.abort(rollout, "ann", "bad news", rollback=True)
    world.tick()
    assert {world.wants(one) for one in devices} == {"1.0.0"}, "all at once, outside of the window"
    gens = {one.id: world.fleet.documents.of_device(one.id) for one in devices}
    assert all(gens.values())
    assert world.clock.now() == before
    assert len(order) == 6
    world.go_until_state(rollout, "rolled_back")
    assert {one.downloads for one in devices} == {2}
