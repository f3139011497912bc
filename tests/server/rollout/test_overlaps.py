"""Rollouts of one model: who is in the way of whom, found without matching every device of each."""

from __future__ import annotations

import pytest

from edgefleet_server.rollout import store, superseding
from edgefleet_server.rollout.errors import ActiveExistsError
from edgefleet_server.rollout.model import Spec
from edgefleet_server.rollout.tables import Rollout
from tests.server.rollout.explored import START
from tests.server.rollout.fleet_sim import MODEL, World

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


def test_rollouts_of_sites_apart_go_on_beside_each_other_and_are_not_matched(
    ready: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.create(selector="site=berlin", stages=ALL)
    asked: list[str | None] = []
    matched = ready.service.loader.members

    def members(session: object, spec: Spec, rollout_id: str | None, *more: object) -> object:
        asked.append(rollout_id)
        return matched(session, spec, rollout_id, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(ready.service.loader, "members", members)
    ready.create(f"{MODEL}@1.2.0", selector="site=oslo", stages=ALL)
    assert asked == [None], "its own devices, not those of the other"


@pytest.mark.parametrize("selector", ["site in (berlin,oslo)", "site!=oslo", "", "site=berlin,id!=x"])
def test_who_may_want_the_same_device_is_refused(ready: World, selector: str) -> None:
    ready.create(selector="site=berlin", stages=ALL)
    with pytest.raises(ActiveExistsError, match="shares 2 devices"):
        ready.create(f"{MODEL}@1.2.0", selector=selector, stages=ALL)


def test_a_device_that_takes_part_is_in_the_way_whatever_it_is_labelled_since(ready: World) -> None:
    ready.create(selector="site=berlin", stages=ALL)
    ready.tick()
    device = next(iter(ready.devices))
    ready.fleet.update(device, {"site": "oslo"}, None)
    with pytest.raises(ActiveExistsError, match=device):
        ready.create(f"{MODEL}@1.2.0", selector="site=oslo", stages=ALL)


def test_a_snapshot_has_its_devices_whatever_they_are_labelled_since(ready: World) -> None:
    ready.create(selector="site=berlin", stages=ALL, membership="snapshot")
    device = next(iter(ready.devices))
    ready.fleet.update(device, {"site": "oslo"}, None)
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
    assert [superseding._are_apart("group=b", row) for row in rows] == [False, False]
    assert superseding._are_apart("site in (y,z),env=p", rows[1])
    assert not superseding._are_apart("site in (x,y)", rows[1])


def test_many_devices_are_looked_up_among_all_that_a_rollout_has(ready: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = ready.create(selector="site=berlin", stages=ALL)
    ready.tick()
    devices = set(ready.devices)
    with ready.house.db.read() as session:
        few = store.assigned_among(session, [rollout], devices)
        monkeypatch.setattr(store, "MOST_NAMED", 1)
        assert few == store.assigned_among(session, [rollout], devices)
        assert len(few[rollout]) == 2
