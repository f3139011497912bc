"""Lists for people: every order walked both ways, searched and counted, on both databases."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import delete, select, update
from sqlmodel import col

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.db.database import Database
from edgefleet_server.db.keyset import BadCursorError
from edgefleet_server.fleet.errors import BadSelectorError
from edgefleet_server.fleet.health_state import WORST_FIRST
from edgefleet_server.fleet.inventory import device_list, query_plan
from edgefleet_server.fleet.inventory.device_health import DeviceHealthReader
from edgefleet_server.fleet.inventory.device_list import DeviceLister, DeviceQuery, Facets, Order, Place, _Count
from edgefleet_server.fleet.inventory.store import count_labels
from edgefleet_server.fleet.inventory.views import FleetReader
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus
from edgefleet_server.fleet.tables import FleetDevice
from tests.agent.field import eventually
from tests.server.conftest import KINDS, new_database
from tests.server.fleet.house import START, TurnedClock
from tests.server.fleet.test_conditions import add_device
from tests.support import databases

STATUSES = list(DeviceStatus)


def facts(number: int) -> DeviceFacts:
    """Return the facts of one of the devices."""
    return DeviceFacts(
        DeviceId(f"d-{number:02}"),
        ProfileName(f"p{number % 3}"),
        "x86_64",
        STATUSES[number % 4],
        {"site": "hall" if number % 2 else "yard"},
        number,
        {"digits": f"1.{number % 2}.0"},
    )


def filled(db: Database) -> DeviceLister:
    """Return a list of twenty-three devices; every fifth was never seen, and two were seen at the same moment."""
    with db.session() as session:
        for number in range(23):
            add_device(session, facts(number))
            seen = None if number % 5 == 0 else START + timedelta(minutes=(number * 7) % 23 // 2)
            session.flush()
            own = col(FleetDevice.id) == f"d-{number:02}"
            session.execute(update(FleetDevice).where(own).values(last_seen=seen))
    return DeviceLister(db, TurnedClock())


@pytest.fixture
def lister(db: Database) -> DeviceLister:
    """The devices, for a test that changes them."""
    return filled(db)


@pytest.fixture(scope="module", params=KINDS)
def read(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceLister]:
    """The devices, for all tests that only read."""
    with new_database(request.param, tmp_path_factory.mktemp("list"), is_empty=False) as url:
        db = Database(url)
        databases.upgrade(db)
        yield filled(db)
        db.dispose()


def forwards(lister: DeviceLister, order: Order, *, descending: bool) -> Iterator[list[str]]:
    """Yield the ids of each page, walking on until there is none; at each page, look back first."""
    after: Place | None = None
    before: list[str] = []
    while True:
        page = lister.page(DeviceQuery(order=order, descending=descending, after=after, limit=4))
        ids = [one.id for one in page.devices]
        assert (page.total, page.is_capped) == (23, False)
        assert (page.previous is None) == (not before)
        if page.previous is not None:
            back = lister.page(DeviceQuery(order=order, descending=descending, before=page.previous, limit=4))
            assert [one.id for one in back.devices] == before
            assert back.next is not None
        yield ids
        if page.next is None:
            return
        before, after = ids, Place.of(page.next.text())


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order", Order)
def test_every_order_is_walked_whole_and_back(read: DeviceLister, order: Order, descending: bool) -> None:
    pages = list(forwards(read, order, descending=descending))
    ids = [one for page in pages for one in page]
    assert [len(page) for page in pages] == [4, 4, 4, 4, 4, 3]
    found = {one.id: one for one in read.page(DeviceQuery(limit=100)).devices}
    keys = {
        Order.HEALTH: lambda one: (WORST_FIRST.index(one.health), one.id),
        Order.ID: lambda one: (one.id,),
        Order.PROFILE: lambda one: (one.profile, one.id),
        Order.STATUS: lambda one: (STATUSES.index(one.status), one.id),
        Order.LAST_SEEN: lambda one: (one.last_seen is not None, one.last_seen or START, one.id),
    }
    wanted = sorted(found.values(), key=keys[order], reverse=descending)
    assert ids == [one.id for one in wanted]


@pytest.mark.parametrize("near", [0, 3, 100])
@pytest.mark.parametrize("many", [0, 100])
@pytest.mark.parametrize("sort", ["last_seen", "-last_seen", "-status", "profile", "id", "health", "-health"])
@pytest.mark.parametrize(
    ("selector", "word"), [("site=hall,id!=d-03", ""), ("id!=d-03", "hal"), ("profile!=p9,id!=d-03", "hall")]
)
def test_a_search_is_walked_whole_whichever_way_it_is_found(
    read: DeviceLister, monkeypatch: pytest.MonkeyPatch, selector: str, word: str, sort: str, many: int, near: int
) -> None:  # fmt: skip
    monkeypatch.setattr(device_list, "NEAR", near)
    monkeypatch.setattr(query_plan, "MANY", many)
    monkeypatch.setattr(device_list, "FEW", many)
    monkeypatch.setattr(device_list, "CHUNKS", (1, max(1, near)))
    order, descending = Order(sort.removeprefix("-")), sort.startswith("-")
    ids: list[str] = []
    after: Place | None = None
    for _ in range(9):
        query = DeviceQuery(selector=selector, text=word, order=order, descending=descending, after=after, limit=3)
        page = read.page(query)
        ids += [one.id for one in page.devices]
        after = page.next
        if after is None:
            break
    everybody = read.page(DeviceQuery(order=order, descending=descending, limit=100)).devices
    assert ids == [one.id for one in everybody if one.labels["site"] == "hall" and one.id != "d-03"]


def test_a_search_narrows_and_is_counted(lister: DeviceLister, monkeypatch: pytest.MonkeyPatch) -> None:
    by_label = lister.page(DeviceQuery(text="hal", limit=3))
    assert [one.id for one in by_label.devices] == ["d-01", "d-03", "d-05"]
    assert (by_label.total, by_label.is_capped) == (11, False)
    assert [one.id for one in lister.page(DeviceQuery(text="d-07")).devices] == ["d-07"]
    both = lister.page(DeviceQuery(selector="status=online,model.digits=1.0.0", text="yard", order=Order.LAST_SEEN))
    assert {one.id for one in both.devices} == {f"d-{n:02}" for n in range(0, 23, 4)}
    assert lister.count("site=hall") == sum(
        n % 2 == 1 and STATUSES[n % 4] is not DeviceStatus.REVOKED for n in range(23)
    )
    monkeypatch.setattr(device_list, "MOST_COUNTED", 5)
    capped = lister.page(DeviceQuery(text="d-"))
    assert (capped.total, capped.is_capped) == (5, True)
    nobody = lister.page(DeviceQuery(text="nobody"))
    assert (list(nobody.devices), nobody.total, nobody.previous, nobody.next) == ([], 0, None, None)
    with pytest.raises(BadSelectorError):
        lister.page(DeviceQuery(selector="group=none"))


def test_what_is_more_than_can_be_told_is_not_counted_at_each_page(
    db: Database, lister: DeviceLister, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_list, "MOST_COUNTED", 5)
    query = DeviceQuery(text="d-", limit=3)
    assert lister.page(query).is_capped
    with db.session() as session:
        session.execute(delete(FleetDevice).where(col(FleetDevice.id) > "d-03"))
    assert lister.page(query).is_capped  # at the same moment, and no device told anything
    lister.forget()
    found = lister.page(query)
    assert (found.total, found.is_capped) == (4, False)


def test_the_total_of_all_devices_is_exact_after_every_kind_of_change(db: Database, lister: DeviceLister) -> None:
    own = col(FleetDevice.id)
    health = DeviceHealthReader(db)
    changes = (
        update(FleetDevice).where(own < "d-04").values(labels={"site": "none"}, display_name="renamed"),
        update(FleetDevice).where(own.in_(["d-04", "d-06"])).values(revoked_at=START),
        delete(FleetDevice).where(own.in_(["d-05", "d-06"])),
    )
    for change in (None, *changes):
        with db.session() as session:
            if change is not None:
                session.execute(change)
            rows = [one.revoked_at for one in session.execute(select(FleetDevice)).scalars()]
        live = sum(one is None for one in rows)
        assert lister.page(DeviceQuery(is_counted_whole=True)).total == len(rows)
        assert lister.page(DeviceQuery(selector="status!=revoked", is_counted_whole=True)).total == live
        assert health.counts().live == live
        assert FleetReader(db).summary().devices == live
        assert FleetReader(db).summary().status["revoked"] == len(rows) - live


class _SlowClock(TurnedClock):
    """A clock that runs on by a hundredth of a second whenever it is read."""

    def monotonic_s(self) -> float:
        """Return the time, later than before."""
        self.turn(seconds=0.01)
        return super().monotonic_s()


def test_of_many_devices_the_last_whole_count_is_kept_and_of_few_none(
    db: Database, lister: DeviceLister, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _SlowClock()
    lister = DeviceLister(db, clock)
    monkeypatch.setattr(device_list, "MOST_EXACT", 20)
    every, few = DeviceQuery(is_counted_whole=True, limit=3), DeviceQuery("profile=p0", is_counted_whole=True)

    def totals() -> tuple[int, int]:
        return lister.page(every).total, lister.page(few).total

    def gone(device: str) -> None:
        with db.session() as session:
            session.execute(delete(FleetDevice).where(col(FleetDevice.id) == device))

    def is_counted() -> bool:
        return bool(eventually(lambda: all(one.name != "readings" for one in threading.enumerate())))

    assert [totals(), totals()] == [(23, 8)] * 2
    gone("d-03")
    clock.turn(seconds=1.1)
    found = lister.page(replace(every, order=Order.LAST_SEEN))
    assert (found.total, found.is_capped) == (23, False), "nobody waits for a count"
    assert lister.page(few).total == 7
    assert lister.page(replace(every, selector="status!=none")).total == 22, "another list is counted by itself"
    assert is_counted()
    assert totals() == (22, 7), "it was counted meanwhile"
    assert is_counted()
    gone("d-06")
    clock.turn(seconds=61)
    assert totals() == (21, 6), "what is older than a minute is no answer"
    gone("d-09")
    gone("d-00")
    clock.turn(seconds=61)
    assert totals() == (19, 4), "few are counted exactly"
    gone("d-01")
    assert totals() == (18, 4)


@pytest.mark.usefixtures("lister")
def test_a_total_is_counted_again_after_nine_times_what_counting_took(db: Database) -> None:
    clock = _SlowClock()
    lister = DeviceLister(db, clock)
    query = DeviceQuery(selector="profile=none")
    assert lister.page(query).total == 0
    with db.session() as session:
        session.execute(update(FleetDevice).values(profile="none"))
    assert lister.page(query).total == 0
    assert lister.page(DeviceQuery(selector="profile=none", is_counted_whole=True)).total == 23
    clock.turn(seconds=0.09)
    assert lister.page(query).total == 23


def test_counting_a_large_fleet_has_a_share_of_the_time_only() -> None:
    facets = Facets({}, {}, (), (), 0)
    quick, slow = _Count(facets, 100.0, 0.0, reports=7), _Count(facets, 100.0, 0.5, reports=7)
    bounds = ((quick, 7, 0.99, 1.0), (quick, 8, None, 0.0), (slow, 7, 4.49, 4.51), (slow, 8, 4.49, 4.51))
    for kept, told, fresh_s, stale_s in bounds:
        assert fresh_s is None or kept.is_fresh(100.0 + fresh_s, told)
        assert not kept.is_fresh(100.0 + stale_s, told)
        assert not kept.is_fresh(99.0, told)  # the clock is another one


def test_of_each_label_the_values_of_most_devices_are_counted_and_sites_always(db: Database) -> None:
    with db.session() as session:
        for n in range(12):
            labels = {"line": f"{n // 2}", "serial": f"s{n:02}", "env": "prod", "site": f"hall-{n:02}"}
            add_device(session, replace(facts(n), status=DeviceStatus.ONLINE, labels=labels))
    with db.read() as session:
        found = count_labels(session, 3, 8)
    assert found == [
        ("env", "prod", 12),
        *(("line", f"{n}", 2) for n in range(3)),
        ("serial", "s00", 1),
        *(("site", f"hall-{n:02}", 1) for n in range(3)),
    ]


def test_facets_count_live_devices_and_are_kept_for_a_second(db: Database, lister: DeviceLister) -> None:
    clock = TurnedClock()
    lister = DeviceLister(db, clock)
    found = lister.facets()
    revoked = [n for n in range(23) if STATUSES[n % 4] is DeviceStatus.REVOKED]
    assert found.status["revoked"] == len(revoked)
    assert found.devices == 23 - len(revoked) == sum(found.profiles.values()) == sum(n for _, _, n in found.versions)
    assert {version for _, version, _ in found.versions} == {"1.0.0", "1.1.0"}
    live = [facts(n).labels["site"] for n in range(23) if n not in revoked]
    expected = [("site", one, live.count(one)) for one in ("hall", "yard")]
    assert found.labels == sorted(expected, key=lambda one: -one[2])
    with db.session() as session:
        session.execute(update(FleetDevice).values(profile="q"))
    assert lister.facets() is found
    clock.turn(seconds=1)
    newer = lister.facets()
    assert newer.profiles == {"q": found.devices}
    with db.session() as session:
        session.execute(update(FleetDevice).values(profile="r"))
    lister.forget()
    assert lister.facets().profiles == {"r": found.devices}


@pytest.mark.parametrize("text", ["", "1", "[]", '["a","b","c"]', '{"a":1,"b":2,"c":3}', "[[],1,2]", "nonsense"])
def test_a_cursor_of_another_list_is_refused(text: str) -> None:
    with pytest.raises(BadCursorError):
        Place.of(text)


def test_a_cursor_of_another_order_is_refused_or_harmless(lister: DeviceLister) -> None:
    with pytest.raises(BadCursorError):
        lister.page(DeviceQuery(order=Order.LAST_SEEN, after=Place(1, "p1", "d-01")))
    assert lister.page(DeviceQuery(after=Place(9, "x", "d-01"))).devices == []
