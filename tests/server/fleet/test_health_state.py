"""The health of a device: the rules, and that lists, counts and single devices say the same of the same device, on both databases."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select
from sqlmodel import col

from edgefleet_protocol.messages import Phase, assignment_of
from edgefleet_server.db.database import Database
from edgefleet_server.fleet.health_state import (
    ATTENTION,
    WORST_FIRST,
    Health,
    HealthFacts,
    Judgement,
    ModelFacts,
    judge,
)
from edgefleet_server.fleet.inventory import store as inventory_store
from edgefleet_server.fleet.inventory.judged_health import judged
from edgefleet_server.fleet.model import DeviceStatus
from edgefleet_server.fleet.selectors import health_condition
from edgefleet_server.fleet.tables import FleetDesired, FleetDevice, FleetModelState
from tests.server.fleet.house import START

ONLINE, OFFLINE, UNKNOWN, REVOKED = (
    DeviceStatus.ONLINE,
    DeviceStatus.OFFLINE,
    DeviceStatus.UNKNOWN,
    DeviceStatus.REVOKED,
)


def model(phase: Phase, version: str = "1.0.0", why: str = "") -> ModelFacts:
    return ModelFacts("ocr", version, phase.value, why)


def facts(status: DeviceStatus = ONLINE, *models: ModelFacts, has_report: bool = True, **more: Any) -> HealthFacts:
    return HealthFacts(status, has_report, models=models, **more)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (facts(), Health.HEALTHY),
        (facts(ONLINE, model(Phase.COMMITTED)), Health.HEALTHY),
        (facts(ONLINE, has_report=False), Health.UNKNOWN),
        (facts(UNKNOWN, model(Phase.COMMITTED)), Health.UNKNOWN),
        (facts(OFFLINE, model(Phase.COMMITTED)), Health.OFFLINE),
        (facts(OFFLINE, model(Phase.FAILED, "")), Health.OFFLINE),
        (facts(REVOKED, model(Phase.FAILED, "")), Health.REVOKED),
        (facts(ONLINE, model(Phase.FAILED, "")), Health.FAILING),
        (facts(ONLINE, model(Phase.ROLLED_BACK, "")), Health.FAILING),
        (facts(ONLINE, model(Phase.FAILED)), Health.DEGRADED),
        (facts(ONLINE, model(Phase.ROLLED_BACK), model(Phase.COMMITTED)), Health.DEGRADED),
        (facts(ONLINE, model(Phase.DOWNLOADING)), Health.UPDATING),
        (facts(ONLINE, model(Phase.DOWNLOADING, "")), Health.UPDATING),
        (facts(ONLINE, model(Phase.PROBATION), model(Phase.ROLLED_BACK)), Health.DEGRADED),
        (facts(ONLINE, is_behind=True), Health.UPDATING),
        (facts(ONLINE, is_suspect=True, is_behind=True), Health.DEGRADED),
        (facts(ONLINE, model(Phase.COMMITTED), drifting=["ocr"]), Health.DEGRADED),
    ],
)
def test_health_is_the_word_of_the_first_rule(said: HealthFacts, expected: Health) -> None:
    found = judge(said)
    assert found.health is expected
    assert bool(found.reasons) == (expected is not Health.HEALTHY)


def test_reasons_come_worst_first_and_name_what_runs() -> None:
    said = facts(
        OFFLINE,
        model(Phase.PROBATION, "2.0.0"),
        ModelFacts("defects", "1.4.0", Phase.ROLLED_BACK.value, "31 of 240 answers were not finite"),
        ModelFacts("seg", "", Phase.FAILED.value),
    )
    assert [(one.health, one.text) for one in judge(said).reasons] == [
        (Health.OFFLINE, "It is offline: its session ended, and what it said before may be old."),
        (Health.FAILING, "seg does not run"),
        (Health.DEGRADED, "defects was rolled back and runs 1.4.0: 31 of 240 answers were not finite"),
        (Health.UPDATING, "ocr is installing (probation)"),
    ]


def test_reasons_say_since_when_where_it_is_known() -> None:
    away, failed, behind = (START.replace(hour=n) for n in (1, 2, 3))
    said = facts(
        OFFLINE,
        ModelFacts("seg", "", Phase.FAILED.value, since=failed),
        drifting=["ocr"],
        is_behind=True,
        away_since=away,
        behind_since=behind,
    )
    assert [one.since for one in judge(said).reasons] == [away, failed, None, behind]


PHASES = st.sampled_from(Phase)
MODELS = st.lists(st.tuples(PHASES, st.sampled_from(["", "1.0.0"])), max_size=2)
DEVICE = st.fixed_dictionaries(
    {
        "revoked": st.booleans(),
        "is_online": st.sampled_from([True, True, True, False, None]),
        "seq": st.sampled_from([0, 4]),
        "reported": st.integers(1, 3),
        "wanted": st.sampled_from([None, 1, 3]),
        "suspect": st.booleans(),
        "drift": st.sampled_from([None, None, {"ocr": ["mean"]}]),
        "models": MODELS,
    }
)


@given(DEVICE)
def test_only_what_speaks_and_has_no_trouble_is_healthy(one: dict[str, Any]) -> None:
    status = REVOKED if one["revoked"] else {True: ONLINE, False: OFFLINE, None: UNKNOWN}[one["is_online"]]
    found = judge(
        facts(
            status,
            *(model(phase, version) for phase, version in one["models"]),
            has_report=one["seq"] > 0,
            is_suspect=one["suspect"],
        )
    )
    if found.health is Health.HEALTHY:
        assert status is ONLINE
        assert one["seq"]
        assert not one["suspect"]
    order = [WORST_FIRST.index(reason.health) for reason in found.reasons[1:]]
    assert order == sorted(order)


def _fill(session: Any, devices: list[dict[str, Any]]) -> None:
    for n, one in enumerate(devices):
        row = {
            "id": f"d{n:04}", "profile": "p", "arch": "a", "public_key": "", "labels": {}, "facts": {}, "enrolled_at": START,
            "cert_not_after": START, "conn_id": "", "boot_id": "", "state_seq": one["seq"], "reported_gen": one["reported"],
            "suspect_since": START if one["suspect"] else None, "revoked_at": START if one["revoked"] else None,
            "is_online": one["is_online"], "drift": one["drift"],
        }  # fmt: skip
        session.execute(insert(FleetDevice), [row])
        if one["wanted"] is not None:
            desired = {
                "device_id": row["id"], "gen": one["wanted"], "models": {}, "telemetry": {}, "tasks": [], "envelope": b"",
                "issued_at": START, "expires_at": START, "resign_at": START, "changed_at": START,
            }  # fmt: skip
            session.execute(insert(FleetDesired), [desired])
        for number, (phase, version) in enumerate(one["models"]):
            state = {
                "device_id": row["id"], "model": f"m{number}", "version": version, "active_target": "", "active_sha256": "",
                "phase": phase.value, "assignment": assignment_of(phase).value, "changed_at": START,
            }  # fmt: skip
            session.execute(insert(FleetModelState), [state])


def _of_everything() -> list[dict[str, Any]]:
    plain: dict[str, Any] = {
        "revoked": False, "is_online": True, "seq": 4, "reported": 3, "wanted": 3, "suspect": False, "drift": None, "models": [],
    }  # fmt: skip
    changes: list[dict[str, Any]] = [
        {}, {"revoked": True}, {"is_online": False}, {"is_online": None}, {"seq": 0}, {"reported": 2}, {"suspect": True},
        {"drift": {"ocr": ["mean"]}}, {"wanted": None},
        *({"models": [(phase, version)]} for phase in Phase for version in ("", "1.0.0")),
        {"models": [(Phase.FAILED, ""), (Phase.PROBATION, "1")]}, {"models": [(Phase.COMMITTED, "1"), (Phase.PROBATION, "1")]},
    ]  # fmt: skip
    pairs = [left | right for n, left in enumerate(changes) for right in changes[n:]]
    return [plain | one for one in pairs]


def test_lists_and_single_devices_agree(db: Database) -> None:
    devices = _of_everything()
    with db.session() as session:
        _fill(session, devices)
    ids = [f"d{n:04}" for n in range(len(devices))]
    with db.read() as session:
        rows, states = inventory_store.shown_devices(session, ids), inventory_store.shown_states(session, ids)
        of_rows = {row.id: judged(row, states.get(row.id, ())).health.value for row in rows}
        words = select(col(FleetDevice.id), health_condition.health_word())
        of_sql = {str(device): str(word) for device, word in session.execute(words)}
        by_word: dict[str, str] = {}
        for health in Health:
            found = select(col(FleetDevice.id)).where(health_condition.has_health([health.value]))
            by_word |= dict.fromkeys(session.execute(found).scalars(), health.value)
        need = select(col(FleetDevice.id)).where(health_condition.has_health([one.value for one in ATTENTION]))
        attention = set(session.execute(need).scalars())
    assert of_rows == of_sql == by_word
    assert set(of_sql.values()) == {one.value for one in Health}
    assert attention == {device for device, word in of_sql.items() if word in ATTENTION}


def test_a_judgement_without_reasons_is_healthy() -> None:
    assert judge(facts()) == Judgement(Health.HEALTHY, [])
