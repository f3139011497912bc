"""The map of the fleet: a letter a device in groups, on both databases, and that it follows what devices report."""

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlmodel import col

from edgefleet_protocol.messages import Phase, assignment_of
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.health_state import Health
from edgefleet_server.fleet.inventory.device_health import DeviceHealthReader
from edgefleet_server.fleet.inventory.device_list import DeviceLister
from edgefleet_server.fleet.inventory.fleet_map import FleetMap, FleetMapper, Grouping, MapQuestion
from edgefleet_server.fleet.tables import FleetDevice, FleetModelState
from tests.server.fleet.house import START
from tests.support.servers import HandClock

VERSIONS = (("ocr", "2", "1"), ("ocr", "1", "2"))


def add(session: Any, name: str, site: str = "", *, models: Mapping[str, str] = {}, **more: Any) -> None:
    row = {
        "id": name, "profile": "p", "arch": "a", "public_key": "", "labels": {"site": site} if site else {}, "facts": {},
        "enrolled_at": START, "cert_not_after": START, "conn_id": "", "boot_id": "", "state_seq": 1, "reported_gen": 0,
        "is_online": True,
    } | more  # fmt: skip
    session.execute(insert(FleetDevice), [row])
    for model, version in models.items():
        state = {
            "device_id": name, "model": model, "version": version, "active_target": "", "active_sha256": "",
            "phase": "committed", "assignment": assignment_of(Phase.COMMITTED).value, "changed_at": START,
        }  # fmt: skip
        session.execute(insert(FleetModelState), [state])


@pytest.fixture
def filled(db: Database) -> Database:
    with db.session() as session:
        add(session, "c", "Lyon", models={"ocr": "1"}, profile="q")
        add(session, "a", "Lyon", models={"ocr": "2", "seg": "7"}, is_online=False, offline_since=START)
        add(session, "b", "Osaka", models={"seg": "7"}, drift={"seg": ["mean"]})
        add(session, "d", display_name="gate")
        add(session, "e", "Osaka", revoked_at=START)
    return db


def of(found: FleetMap) -> dict[str, tuple[str, str]]:
    return {one.name: (one.letters, one.ids) for one in found.groups}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (MapQuestion(), {"Lyon": ("oh", "a c"), "Osaka": ("d", "b"), "": ("h", "d")}),
        (MapQuestion(Grouping.PROFILE), {"p": ("odh", "a b d"), "q": ("h", "c")}),
        (MapQuestion(Grouping.MODEL), {"ocr": ("oh", "a c"), "seg": ("od", "a b"), "": ("h", "d")}),
        (MapQuestion(Grouping.SITE, VERSIONS), {"Lyon": ("12", "a c"), "Osaka": ("-", "b"), "": ("-", "d")}),
        (MapQuestion(Grouping.MODEL, VERSIONS), {"ocr": ("12", "a c"), "seg": ("--", "a b"), "": ("-", "d")}),
    ],
)
def test_every_live_device_is_a_letter_in_its_group(
    filled: Database, asked: MapQuestion, expected: dict[str, tuple[str, str]]
) -> None:
    found = FleetMapper(filled, HandClock(START)).read(asked)
    assert of(found) == expected
    assert found.groups[-1].name in {"", "q"}
    assert found.groups[0].named(1, 5) == expected[found.groups[0].name][1].split()[1:]


def test_health_is_counted_of_the_same_letters(filled: Database) -> None:
    counts = FleetMapper(filled, HandClock(START)).health()
    assert {one: n for one, n in counts.items() if n} == {Health.HEALTHY: 2, Health.DEGRADED: 1, Health.OFFLINE: 1}
    assert FleetMapper(filled, HandClock(START)).read(MapQuestion()).counts() == {"h": 2, "d": 1, "o": 1}


def test_what_is_kept_is_forgotten_when_a_device_reports(filled: Database) -> None:
    mapper = FleetMapper(filled, HandClock(START))
    before = mapper.read(MapQuestion())
    with filled.session() as session:
        session.execute(update(FleetDevice).where(col(FleetDevice.id) == "a").values(is_online=True))
    assert mapper.read(MapQuestion()) is before
    mapper.forget()
    after = mapper.read(MapQuestion())
    assert of(after)["Lyon"] == ("hh", "a c")
    assert after.version != before.version
    mapper.forget()
    assert mapper.read(MapQuestion()).version == after.version


def test_versions_that_few_devices_run_are_known_too(db: Database) -> None:
    with db.session() as session:
        for n in range(14):
            add(session, f"cam{n}", models={"ocr": f"1.{n}"})
    assert len(DeviceLister(db, HandClock(START)).facets().versions) == 14


def test_departures_are_those_that_are_away_still(filled: Database) -> None:
    found = DeviceHealthReader(filled).departures(START, 10)
    assert [(one.id, one.site, one.at) for one in found] == [("a", "Lyon", START)]


def test_a_fleet_without_devices_has_no_groups(db: Database) -> None:
    assert FleetMapper(db, HandClock(START)).read(MapQuestion()).groups == []
