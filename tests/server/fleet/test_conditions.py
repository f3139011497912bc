"""Selectors in SQL find what the same selectors match in Python, on both databases; labels are rows whatever wrote them."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update
from sqlmodel import col

from edgefleet_protocol.ids import DeviceId, ProfileName
from edgefleet_server.db.database import Database
from edgefleet_server.fleet import store
from edgefleet_server.fleet.health_state import Health
from edgefleet_server.fleet.inventory import query_plan, search
from edgefleet_server.fleet.inventory.search import InventorySearch
from edgefleet_server.fleet.model import DeviceFacts, DeviceStatus
from edgefleet_server.fleet.selectors import device_selector, grammar, sql
from edgefleet_server.fleet.selectors.grammar import Operator, Requirement, Selector
from edgefleet_server.fleet.tables import FleetDevice, FleetGroup, FleetLabel, FleetModelState, FleetSearchText
from tests.server.fleet.house import START

GROUPS = {
    "prod": "env=prod",
    "small": "free_mb<500",
    "new": "model.digits=1.1.0,status!=revoked",
    "rest": "!env",
    "ill": "health!=healthy",
}
VALUES = [
    "prod",
    "dev",
    "",
    "7",
    "007",
    "-3",
    "1.1.0",
    "d-a",
    "d-b",
    "12",
    "online",
    "revoked",
    "unknown",
    "offline",
    "700",
    *Health,
]
KEYS = [
    *("env", "tier", "id", "profile", "arch", "status", "health", "free_mb", "suspect", "model.digits", "model.other"),
    "group",
]


def _requirement(key: str, operator: Operator, values: Sequence[str], number: int) -> Requirement:
    if operator in (Operator.EXISTS, Operator.MISSING):
        return Requirement(key, operator)
    if operator in (Operator.GREATER, Operator.LESS):
        return Requirement(key, operator, (str(number),))
    if key == "group":
        values = [sorted(GROUPS)[len(value) % len(GROUPS)] for value in values]
    named = tuple(dict.fromkeys(values))
    return Requirement(key, operator, named if operator in (Operator.IN, Operator.NOT_IN) else named[:1])


REQUIREMENTS = st.builds(
    _requirement,
    st.sampled_from(KEYS),
    st.sampled_from(Operator),
    st.lists(st.sampled_from(VALUES), min_size=1, max_size=3),
    st.sampled_from([-5, 0, 6, 7, 100, 650, 10**17]),
)
SELECTORS = st.builds(Selector, st.lists(REQUIREMENTS, max_size=3).map(tuple))


ASSIGNMENTS = {"degraded": "rolled_back", "updating": "staged"}


def add_device(session: Any, one: DeviceFacts) -> None:
    """Store a device with these facts, as rows."""
    session.execute(
        insert(FleetDevice),
        [
            {
                "id": one.id, "profile": one.profile, "arch": one.arch, "public_key": "", "labels": dict(one.labels), "facts": {},
                "enrolled_at": START, "cert_not_after": START, "free_mb": one.free_mb, "conn_id": "", "boot_id": "",
                "state_seq": 0 if one.id == "12" else 1, "reported_gen": 0,
                "suspect_since": START if one.is_suspect else None,
                "revoked_at": START if one.status is DeviceStatus.REVOKED else None,
                "is_online": {DeviceStatus.ONLINE: True, DeviceStatus.OFFLINE: False, DeviceStatus.REVOKED: False}.get(one.status),
            }
        ],
    )  # fmt: skip
    for model, version in one.models.items():
        session.add(
            FleetModelState(
                device_id=one.id,
                model=model,
                version=version,
                phase="idle",
                changed_at=START,
                assignment=ASSIGNMENTS.get(one.health, "healthy"),
            )
        )


def _device(
    name: str, profile: str, arch: str, status: DeviceStatus, labels: Mapping[str, str], **more: Any
) -> DeviceFacts:
    return DeviceFacts(DeviceId(name), ProfileName(profile), arch, status, labels, **{"free_mb": None, **more})


_S = DeviceStatus
DEVICES = [
    _device(
        "d-a", "p", "x86_64", _S.ONLINE, {"env": "prod", "tier": "7"}, free_mb=700, models={"digits": "1.1.0"}, health="updating"
    ),
    _device(
        "d-b", "p", "armv7l", _S.OFFLINE, {"env": "dev", "tier": "007"}, free_mb=100, models={"digits": "12"}, health="offline"
    ),
    _device("12", "prod", "7", _S.UNKNOWN, {"env": "", "tier": "x"}, health="unknown"),
    _device(
        "d-c", "q", "x86_64", _S.REVOKED, {"tier": "-3"}, free_mb=0, models={"digits": "1.1.0", "other": "7"}, health="revoked"
    ),
    _device("d-d", "q", "x86_64", _S.ONLINE, {}, free_mb=650, models={"other": "-3"}, is_suspect=True, health="degraded"),
    _device("d-e", "q", "x86_64", _S.ONLINE, {"tier": "7"}, free_mb=9, models={"digits": "12"}, health="healthy"),
]  # fmt: skip


@pytest.fixture
def filled(db: Database) -> Database:
    """A database with devices of every kind, and groups."""
    with db.session() as session:
        for one in DEVICES:
            add_device(session, one)
        for name, selector in GROUPS.items():
            session.add(FleetGroup(name=name, selector=selector, created_at=START, created_by="ann"))
    return db


def matched(selector: Selector) -> set[str]:
    """Return whom the selector matches by the rules, one device after another."""
    groups = {name: grammar.parse_selector(one) for name, one in GROUPS.items()}
    facts = [grammar.facts_of(one) for one in DEVICES]
    return {one["id"] for one in facts if selector.matches(one, device_selector.groups_of(one, groups))}


@given(SELECTORS, st.booleans(), st.sampled_from([0, 10]))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_sql_finds_whom_the_rules_match(filled: Database, selector: Selector, by_id: bool, many: int) -> None:
    with filled.read() as session, pytest.MonkeyPatch.context() as patched:
        patched.setattr(query_plan, "MANY", many)
        found = list(device_selector.matching(session, selector))
        condition = sql.matching(selector, device_selector.asked_groups(session, selector))
        counted = store.count_devices(session, condition)
        probed = query_plan.plan_query(session, selector, device_selector.asked_groups(session, selector), by_id=by_id)
        ids = list(session.execute(probed.select(probed.own)).scalars())
        probed_count = query_plan.count(session, probed)
        near = select(col(FleetDevice.id), *probed.columns).subquery()
        at_hand = list(session.execute(select(near.c.id).where(probed.at_hand(near.c))).scalars())
    assert {one.id for one in found} == matched(selector), str(selector)
    assert [one.id for one in found] == sorted(one.id for one in found) or not filled.is_sqlite
    assert counted == probed_count == len(found)
    assert sorted(ids) == sorted(at_hand) == sorted(matched(selector))


@pytest.mark.parametrize(
    ("start", "expected"),
    [("d-", {"d-a", "d-b", "d-c", "d-d", "d-e"}),
     ("prod", {"d-a"}), ("00", {"d-b"}), ("12", {"12"}), ("1", {"12"}), ("%", set()), ("D-", set())],
)  # fmt: skip
def test_a_text_finds_beginnings_of_ids_and_label_values(filled: Database, start: str, expected: set[str]) -> None:
    with filled.read() as session:
        condition = sql.found_by(start, is_sqlite=filled.is_sqlite)
        found = session.execute(select(col(FleetDevice.id)).where(condition)).scalars().all()
        at_hand = sql.found_by_at_hand(start, FleetDevice, is_sqlite=filled.is_sqlite)
        near = session.execute(select(col(FleetDevice.id)).where(at_hand)).scalars().all()
    assert set(found) == set(near) == expected


def labels(db: Database) -> Mapping[str, dict[str, str]]:
    """Return the label rows, by device."""
    found: dict[str, dict[str, str]] = {}
    with db.read() as session:
        for device, key, value in session.execute(
            select(col(FleetLabel.device_id), col(FleetLabel.key), col(FleetLabel.value))
        ):
            found.setdefault(device, {})[key] = value
    return found


def test_label_rows_follow_whatever_writes_labels(filled: Database) -> None:
    assert labels(filled) == {str(one.id): dict(one.labels) for one in DEVICES if one.labels}
    own, kept = col(FleetDevice.id), col(FleetDevice.labels)
    with filled.session() as session:
        row = session.get(FleetDevice, "d-a")
        assert row is not None
        row.labels = {"env": "dev", "site/a.b": "Europe/Berlin"}
        row.free_mb = 1
        session.flush()
        session.execute(update(FleetDevice).where(own.in_(["d-b", "d-d"])).values(labels={"line": "4"}))
        session.execute(update(FleetDevice).where(own == "12").values(labels=kept, free_mb=3))
        session.execute(delete(FleetDevice).where(own == "d-c"))
    assert labels(filled) == {
        "d-a": {"env": "dev", "site/a.b": "Europe/Berlin"},
        "d-b": {"line": "4"},
        "d-d": {"line": "4"},
        "d-e": {"tier": "7"},
        "12": {"env": "", "tier": "x"},
    }


def searched(db: Database) -> Mapping[str, tuple[str, set[str]]]:
    """Return what a search looks through, by device: its id and name, and the values of its labels."""
    row = FleetSearchText
    with db.read() as session:
        found = session.execute(select(col(row.device_id), col(row.names), col(row.labels))).all()
    return {device: (names, set(values.split("\n"))) for device, names, values in found}


def test_what_a_search_looks_through_follows_whatever_writes_names_and_labels(filled: Database) -> None:
    own, name = col(FleetDevice.id), col(FleetDevice.display_name)
    with filled.session() as session:
        session.execute(update(FleetDevice).where(own == "d-b").values(labels={"site": "Roof", "line": "4"}))
        session.execute(update(FleetDevice).where(own == "12").values(display_name="Gate 100%"))
        session.execute(update(FleetDevice).where(own == "d-a").values(free_mb=3, display_name=name))
        session.execute(delete(FleetDevice).where(own == "d-c"))
    found, values = searched(filled), {str(one.id): {*one.labels.values()} or {""} for one in DEVICES}
    assert found.keys() == {str(one.id) for one in DEVICES} - {"d-c"}
    assert (found["d-b"], found["12"][0]) == (("d-b\n", {"roof", "4"}), "12\ngate 100%")
    assert all(found[one][1] == values[one] for one in found.keys() - {"d-b"})
    finder = InventorySearch(filled)
    assert [one.id for one in finder.devices("roof", 5)] == ["d-b"]
    assert [one.display_name for one in finder.devices("100%", 5)] == ["Gate 100%"]
    assert [one.id for one in finder.devices("d", 3)] == ["d-a", "d-b", "d-d"]


@pytest.mark.parametrize("near", [1, 2, 1_000])
def test_a_search_finds_the_same_however_far_it_looks_before_it_reads_all(
    filled: Database, monkeypatch: pytest.MonkeyPatch, near: int
) -> None:
    monkeypatch.setattr(search, "NEAR", near)
    rows, finder = searched(filled), InventorySearch(filled)
    texts = {"d", "roof", "100%", "gate", "1", "12", "-", "nothing", *(one.lower() for one in VALUES if len(one) > 1)}
    for text in texts:
        begun = [one for one in sorted(rows) if one.startswith(text)]
        named = [one for one in sorted(rows) if text in rows[one][0]]
        labelled = [one for one in sorted(rows) if len(text) > 1 and any(text in value for value in rows[one][1])]
        expected = list(dict.fromkeys([*begun, *named, *labelled]))
        for limit in (1, 2, 50):
            assert [one.id for one in finder.devices(text, limit)] == expected[:limit], (text, limit)


def test_the_step_of_the_schema_reads_the_devices_that_are_there(filled: Database) -> None:
    before = searched(filled)
    with filled.engine.begin() as connection:
        context = MigrationContext.configure(connection)
        with Operations.context(context):
            step = import_module("edgefleet_server.migrations.versions.1046_add_search_text")
            step.downgrade()
            connection.execute(update(FleetDevice).where(col(FleetDevice.id) == "d-a").values(display_name="Roof"))
            step.upgrade()
    assert searched(filled) == {**before, "d-a": ("d-a\nroof", before["d-a"][1])}
