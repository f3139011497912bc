"""Rollouts of one model: who is in the way of whom, found without matching every device of each."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from edgefleet_server.db import bulk
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.selectors.count import DeviceSet
from edgefleet_server.fleet.selectors.grammar import parse_selector
from edgefleet_server.rollout.errors import ActiveExistsError
from edgefleet_server.rollout.preparation import overlap
from edgefleet_server.rollout.store.tables import Rollout, RolloutMember
from tests.server.rollout.explored import START
from tests.server.rollout.fleet_sim import MODEL, World
from tests.support.statements import heard

ALL = [{"name": "all", "size": {"percent": 100}, "soak": "1h"}]


@pytest.fixture
def ready(world: World) -> World:
    """Two devices in Berlin and two in Oslo on the old release."""
    for site in ("berlin", "oslo"):
        world.enrol(2, site=site)
    world.settle("1.0.0")
    for version in ("1.1.0", "1.2.0"):
        world.release(version)
    return world


def test_no_device_is_read_to_see_who_is_in_the_way(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ready.create(selector="site=berlin", stages=ALL)
    monkeypatch.setattr(ready.fleet.devices, "population", None)
    with pytest.raises(ActiveExistsError, match="shares 2 devices"):
        ready.create(f"{MODEL}@1.2.0", stages=ALL)
    ready.create(f"{MODEL}@1.2.0", selector="site=oslo", stages=ALL)


def test_a_pinned_device_is_in_nobodys_way(ready: World) -> None:
    ready.create(selector="site=berlin", stages=ALL)
    for device, labels in ((one.id, one.labels) for one in ready.fleet.devices.population("site=berlin")):
        ready.fleet.edits.update(device, {**labels, "edgefleet/pinned": "rig"}, None)
    ready.create(f"{MODEL}@1.2.0", stages=ALL)


@pytest.mark.parametrize("selector", ["site in (berlin,oslo)", "site!=oslo", "", "site=berlin,id!=x"])
def test_who_may_want_the_same_device_is_refused(ready: World, selector: str) -> None:
    ready.create(selector="site=berlin", stages=ALL)
    with pytest.raises(ActiveExistsError, match="shares 2 devices"):
        ready.create(f"{MODEL}@1.2.0", selector=selector, stages=ALL)


def test_a_device_that_takes_part_is_in_the_way_whatever_it_is_labelled_since(ready: World) -> None:
    ready.create(selector="site=berlin", stages=ALL)
    ready.tick()
    device = next(iter(ready.devices))
    ready.fleet.edits.update(device, {"site": "oslo"}, None)
    with pytest.raises(ActiveExistsError, match=device):
        ready.create(f"{MODEL}@1.2.0", selector="site=oslo", stages=ALL)


def test_each_of_many_that_are_apart_is_named_by_what_it_shares(any_world: World) -> None:
    """Three devices moved out of three sites whose rollouts had taken them: each rollout is found, the oldest is named."""
    world = any_world
    sites = [f"s{number}" for number in range(5)]
    for site in sites:
        world.enrol(2, site=site)
    world.settle("1.0.0")
    for version in ("1.1.0", "1.2.0"):
        world.release(version)
    made = {site: world.create(selector=f"site={site}", stages=ALL) for site in sites}
    world.tick()
    moved = [world.fleet.devices.population(f"site={site}")[0].id for site in sites[1:4]]
    for device in moved:
        world.fleet.edits.update(device, {"site": "new"}, None)
    with world.house.db.session() as session:
        found = list(overlap.overlaps(session, world.fleet.offers, MODEL, "site=new", DeviceSet("site=new")))
    told = {one.other.id: (one.devices, one.first) for one in found}
    assert told == {made[site]: (1, device) for site, device in zip(sites[1:4], moved, strict=True)}


def test_making_one_of_many_takes_as_many_statements_as_making_the_first(ready: World) -> None:
    counts: list[int] = []
    for number in range(6):
        ready.enrol(1, site=f"s{number}")
    with heard(ready.house.db) as said:
        for number in range(6):
            said.clear()
            ready.create(selector=f"site=s{number}", stages=ALL)
            counts.append(len(said))
    assert len(set(counts[1:])) == 1, counts
    assert counts[1] <= counts[0] + 1, "what the others hold is asked of all of them at once"


def test_a_snapshot_has_its_devices_whatever_they_are_labelled_since(ready: World) -> None:
    ready.create(selector="site=berlin", stages=ALL, membership="snapshot")
    device = next(iter(ready.devices))
    ready.fleet.edits.update(device, {"site": "oslo"}, None)
    with pytest.raises(ActiveExistsError, match=device):
        ready.create(f"{MODEL}@1.2.0", selector="site=oslo", stages=ALL)


def row(selector: str) -> Rollout:
    """Return a rollout's row."""
    return Rollout(
        id="r",
        model=MODEL,
        version="1",
        selector=selector,
        spec={},
        salt="s",
        state="running",
        created_at=START,
        created_by="x",
    )


def test_groups_never_tell_rollouts_apart() -> None:
    rows = [row("group=a"), row("site=x")]
    assert [overlap._are_apart(parse_selector("group=b"), row) for row in rows] == [False, False]
    assert overlap._are_apart(parse_selector("site in (y,z),env=p"), rows[1])
    assert not overlap._are_apart(parse_selector("site in (x,y)"), rows[1])


@pytest.mark.parametrize("many", [0, bulk.MOST_NAMED])
def test_named_devices_are_found_among_few_and_many(db: Database, many: int) -> None:
    names = [f"d-{n}" for n in range(many)]
    with db.session() as session:
        for name in ("other", 'a "strange" \\ one'):
            session.add(RolloutMember(rollout_id="r", device_id=name))
        session.flush()
        column = RolloutMember.__table__.c.device_id  # type: ignore[attr-defined]
        asked = [*names, "nobody", 'a "strange" \\ one']
        found = session.execute(select(column).where(bulk.among(session, column, asked))).scalars().all()
    assert found == ['a "strange" \\ one']
